"""A person's body at one pose: which limbs and solids, where, in metres.

In:   looks and a pose.  Out: ``Body``: capsules (limbs) and convex solids, with their colours.
Pure: trigonometry only. Points are placed in the person's own axes (forward, left, up) and turned
into the world all at once, because a crowd is drawn many times a second.
Source: leg and arm angles over one gait cycle after Perry, Burnfield, "Gait Analysis", 2nd ed.
"""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

from edgekit.vision.scene.camera import Floats
from edgekit.vision.scene.layout import Color
from edgekit.vision.scene.walkers import Looks, Pose

Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Part:
    """One limb or solid: which points of the body are its own, and how it is painted."""

    first: int
    last: int
    """One past its last point. A limb has two points with radii; a solid is its points' hull."""
    color: Color
    is_limb: bool
    is_helmet: bool
    glow: float
    """Light that it returns by itself: bands that shine in lamplight."""


@dataclass(frozen=True, slots=True)
class Body:
    """Everything to draw of one person; parts at the same distance are drawn in this order."""

    points_m: NDArray[np.float64]
    """(P, 3) in the world."""
    radii_m: NDArray[np.float64]
    """(P,), 0 for the points of solids."""
    anchors_m: NDArray[np.float64]
    """(S, 3): the point of each part whose distance decides what is drawn over what."""
    parts: tuple[Part, ...]


class _Clay:
    """Collects parts in the person's own axes, in metres."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.radii: list[float] = []
        self.anchors: list[Point] = []
        self.parts: list[Part] = []

    def limb(self, ends: tuple[Point, Point], radii: tuple[float, float], color: Color) -> None:
        first = len(self.points)
        self.points += ends
        self.radii += radii
        (ax, ay, az), (bx, by, bz) = ends
        self.anchors.append(((ax + bx) / 2, (ay + by) / 2, (az + bz) / 2))
        self.parts.append(Part(first, first + 2, color, True, False, 0.0))

    def solid(
        self, points: list[Point], anchor: Point, color: Color, *,
        glow: float = 0.0, is_helmet: bool = False,
    ) -> None:  # fmt: skip
        first = len(self.points)
        self.points += points
        self.radii += [0.0] * len(points)
        self.anchors.append(anchor)
        self.parts.append(Part(first, first + len(points), color, False, is_helmet, glow))

    def place(self, pose: Pose) -> Body:
        """Turn everything to the pose's heading and put it where the person stands."""
        c, s = cos(pose.heading_rad), sin(pose.heading_rad)
        axes = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        origin = np.array([pose.x_m, pose.y_m, 0.0])
        return Body(
            np.array(self.points) @ axes + origin,
            np.array(self.radii),
            np.array(self.anchors) @ axes + origin,
            tuple(self.parts),
        )


def build_body(looks: Looks, pose: Pose) -> Body:
    """Limbs, torso and head of one person."""
    clay, tall = _Clay(), looks.height_m
    bob = 0.012 * pose.stride * cos(2 * pose.step_rad)
    hip_m = tall * (0.52 + bob - 0.02 * pose.stride - 0.05 * pose.stoop)
    lean = 0.05 * pose.stride + 0.75 * pose.stoop
    shoulder = (tall * sin(lean) * 0.30, hip_m + tall * cos(lean) * 0.30)
    for side in (-1.0, 1.0):
        phase = pose.step_rad + (pi if side > 0 else 0.0)
        _leg(clay, looks, pose, side, phase, hip_m)
        _arm(clay, looks, pose, side, phase, shoulder, lean)
    _torso(clay, looks, hip_m, shoulder)
    _head(clay, looks, shoulder, lean)
    return clay.place(pose)


def _leg(clay: _Clay, looks: Looks, pose: Pose, side: float, phase: float, hip_m: float) -> None:
    tall = looks.height_m
    swing = sin(phase) * 0.46 * pose.stride + 0.25 * pose.stoop
    # The knee bends while the leg travels forwards, and a little when the weight comes on it.
    bend = 0.06 + pose.stride * (0.95 * max(0.0, cos(phase)) ** 1.5 + 0.08) + 0.5 * pose.stoop
    left = side * tall * (0.055 + 0.012 * (1 - pose.stride)) * looks.width
    thigh_m, shin_m, shin = tall * 0.25, tall * 0.235, swing - bend
    knee = (sin(swing) * thigh_m, left, hip_m - cos(swing) * thigh_m)
    ankle = (knee[0] + sin(shin) * shin_m, left, max(knee[2] - cos(shin) * shin_m, 0.05))
    toe_up = max(ankle[2] + tall * (0.05 * sin(swing) * pose.stride - 0.02), 0.03)
    toe = (ankle[0] + tall * 0.085, left * 1.25, toe_up)
    thick = looks.width * tall / 1.75
    clay.limb(((0.0, left, hip_m), knee), (0.092 * thick, 0.068 * thick), looks.trousers)
    clay.limb((knee, ankle), (0.066 * thick, 0.050 * thick), looks.trousers)
    clay.limb((ankle, toe), (0.052, 0.045), (40, 44, 50))


def _arm(
    clay: _Clay, looks: Looks, pose: Pose, side: float, phase: float,
    shoulder: tuple[float, float], lean: float,
) -> None:  # fmt: skip
    tall, thick = looks.height_m, looks.width
    swing = -sin(phase) * 0.5 * pose.stride + 0.08 + 0.5 * lean
    lower = swing + 0.22 + 0.35 * pose.stride + 0.5 * pose.stoop
    left = side * tall * 0.122 * thick
    upper_m, lower_m = tall * 0.175, tall * 0.15
    top = (shoulder[0], left, shoulder[1] - 0.02)
    elbow = (top[0] + sin(swing) * upper_m, left * 1.13, top[2] - cos(swing) * upper_m)
    hand = (elbow[0] + sin(lower) * lower_m, left * 1.05, elbow[2] - cos(lower) * lower_m)
    clay.limb((top, elbow), (0.060 * thick, 0.048 * thick), looks.shirt)
    clay.limb((elbow, hand), (0.046 * thick, 0.038 * thick), looks.shirt)
    clay.limb((hand, hand), (0.046, 0.046), looks.skin)


_RING = tuple((cos(i * pi / 5), sin(i * pi / 5)) for i in range(10))


def _torso(clay: _Clay, looks: Looks, hip_m: float, shoulder: tuple[float, float]) -> None:
    """Slices from hips to shoulders, lowest first: seen from above, each covers the last."""
    top = looks.vest or looks.shirt
    band: Color = (205, 210, 210)
    slices: list[tuple[float, float, Color, float]] = [(-0.12, 0.14, looks.trousers, 0.0)]
    if looks.vest is None:
        slices.append((0.1, 1.0, top, 0.0))
    else:
        slices += [(0.1, 0.3, top, 0.1), (0.3, 0.4, band, 0.4), (0.4, 0.6, top, 0.1)]
        slices += [(0.6, 0.7, band, 0.4), (0.7, 1.0, top, 0.1)]
    size = looks.width * looks.height_m

    def ring(share: float) -> list[Point]:
        neck = max(share - 0.8, 0.0) / 0.2
        half_width = size * (0.098 + 0.026 * share - 0.03 * neck)
        half_depth = size * (0.072 - 0.018 * neck)
        middle, up = shoulder[0] * share, hip_m + (shoulder[1] - hip_m) * share
        return [(middle + half_depth * c, half_width * s, up) for c, s in _RING]

    anchor = (shoulder[0] * 0.5, 0.0, (hip_m + shoulder[1]) / 2)
    for low, high, color, glow in slices:
        clay.solid(ring(low) + ring(high), anchor, color, glow=glow)


def _head(clay: _Clay, looks: Looks, shoulder: tuple[float, float], lean: float) -> None:
    tall = looks.height_m
    ahead = shoulder[0] + tall * (sin(lean) * 0.115 + 0.012)
    up_m = shoulder[1] + tall * cos(lean) * 0.115
    rise, forth = cos(0.6 * lean), sin(0.6 * lean)

    def at(forward: float, up: float) -> Point:
        """A point near the head's centre, in the head's own tilted axes."""
        return ahead + forward * rise + up * forth, 0.0, up_m - forward * forth + up * rise

    neck = (shoulder[0], 0.0, shoulder[1] + 0.02)
    clay.limb((neck, at(0.0, -0.08)), (0.062, 0.058), looks.skin)
    clay.limb((at(-0.022, -0.01), at(-0.022, 0.03)), (0.095, 0.1), looks.hair)
    clay.limb((at(0.025, -0.03), at(0.025, 0.03)), (0.09, 0.098), looks.skin)
    _headgear(clay, looks, np.array([ahead, 0.0, up_m]), rise, forth)


_AROUND = np.array([[cos(i * pi / 6), sin(i * pi / 6), 0.0] for i in range(12)])
_RIDGE = tuple((t, side) for t in (-0.9, 0.0, 0.9) for side in (-1.0, 1.0))


def _headgear(clay: _Clay, looks: Looks, centre: Floats, rise: float, forth: float) -> None:
    """A helmet with its brim, a cap with its visor, or hair."""
    worn = looks.helmet is not None
    color = looks.helmet or looks.hair
    radius, height = (0.137, 0.18) if worn else (0.113, 0.115)
    brim = radius + 0.014 if worn else radius
    visor = 0.035 if worn else 0.09 if looks.cap else 0.0
    base = np.array([0.0 if worn or looks.cap else -0.012, 0.0, 0.015 if worn else 0.03])
    # Rows: where the head's own forward, left and up point in the person's axes.
    tilt = np.array([[rise, 0.0, -forth], [0.0, 1.0, 0.0], [forth, 0.0, rise]])
    anchor = (float(centre[0]), 0.0, float(centre[2]))

    def add(local: Floats, tone: float) -> None:
        points = [(float(x), float(y), float(z)) for x, y, z in (local + base) @ tilt + centre]
        shade: Color = (color[0] * tone, color[1] * tone, color[2] * tone)
        clay.solid(points, anchor, shade, is_helmet=worn)

    if brim > radius or visor > 0:
        add(_AROUND * (brim + visor * np.maximum(_AROUND[:, :1], 0.0) ** 2), 0.72)
    rings = [_AROUND * radius * cos(t) + [0.0, 0.0, height * sin(t)] for t in (0.0, 0.5, 1.0)]
    add(np.concatenate([*rings, [[0.0, 0.0, height]]]), 1.0)
    if worn:
        ridge = [
            (0.86 * height * sin(t), side * 0.016, 1.02 * height * cos(t)) for t, side in _RIDGE
        ]
        add(np.array(ridge), 0.86)
