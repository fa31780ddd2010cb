"""Who walks in the yard: looks, a closed path around the obstacles, and the pose at any time.

In:   a layout.  Out: ``Walker`` values; ``pose_at`` gives position, heading and step for a time in
seconds, with no memory of earlier times.
Pure: no file or clock; deterministic by the layout's seed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.vision.scene.layout import FAR_M, NEAR_M, Color, Layout, Obstacle, rng_for

Track = NDArray[np.float64]

HELMET_COLORS: tuple[Color, ...] = (
    (238, 240, 240), (40, 204, 246), (36, 36, 206), (196, 96, 32), (26, 128, 250), (70, 160, 60),
)  # fmt: skip
_VESTS: tuple[Color, ...] = ((30, 120, 255), (60, 240, 220))
_SHIRTS: tuple[Color, ...] = (
    (120, 76, 44), (60, 60, 62), (150, 148, 140), (52, 66, 128), (70, 96, 62), (190, 186, 180),
    (44, 52, 58), (110, 92, 160), (158, 128, 84),
)  # fmt: skip
_TROUSERS: tuple[Color, ...] = (
    (92, 62, 40), (48, 46, 46), (74, 88, 104), (110, 112, 112), (58, 74, 62), (122, 88, 58),
)  # fmt: skip
_SKINS: tuple[Color, ...] = ((140, 172, 216), (116, 146, 196), (76, 106, 156), (48, 66, 104))
_HAIRS: tuple[Color, ...] = (
    (28, 28, 30),
    (34, 50, 72),
    (60, 92, 128),
    (118, 118, 120),
    (44, 36, 60),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """One person's build and clothes."""

    height_m: float
    width: float
    """1 is average."""
    skin: Color
    hair: Color
    shirt: Color
    trousers: Color
    vest: Color | None
    helmet: Color | None
    cap: bool
    """Wears a soft cap in the hair's colour; never together with a helmet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """One person at one time."""

    x_m: float
    y_m: float
    heading_rad: float
    step_rad: float
    """Phase of the walk: 2 pi per two steps."""
    stride: float
    """0 stands, 1 walks at full stride."""
    stoop: float
    """0 upright, 1 bent forward to look at something."""


@dataclass(frozen=True, slots=True)
class Walker:
    """One person with a path that closes after ``period_s``."""

    looks: Looks
    path_m: Track
    """(N, 2), about 10 cm apart; the last point is the first."""
    along_m: Track
    """(N,), distance walked at each point of the path."""
    times_s: Track
    """(K,), rising from 0 to the period."""
    distances_m: Track
    """(K,), distance walked at each of ``times_s``: flat while the person stands."""
    start_s: float
    speed_m_per_s: float
    stoops: bool

    def pose_at(self, time_s: float) -> Pose:
        """Position, heading and gait at a time; any time, in any order."""
        period = float(self.times_s[-1])
        phase = (time_s + self.start_s) % period
        around = np.array([phase - 0.35, phase, phase + 0.35])
        walked = np.interp(around % period, self.times_s, self.distances_m)
        total = float(self.along_m[-1])
        gone = float(np.mod(walked[2] - walked[0], total))
        stride = float(np.clip(gone / (0.7 * self.speed_m_per_s), 0.0, 1.0))
        at = float(walked[1])
        samples = np.mod(np.array([at, at + 0.25, at - 0.25]), total)
        x = np.interp(samples, self.along_m, self.path_m[:, 0])
        y = np.interp(samples, self.along_m, self.path_m[:, 1])
        return Pose(
            x_m=float(x[0]),
            y_m=float(y[0]),
            heading_rad=float(np.arctan2(y[1] - y[2], x[1] - x[2])),
            step_rad=at * 2 * np.pi / (0.82 * self.looks.height_m),
            stride=stride,
            stoop=(1.0 - stride) ** 2 if self.stoops else 0.0,
        )


def invite_walkers(layout: Layout) -> tuple[Walker, ...]:
    """Everyone who walks in this yard."""
    return tuple(
        _invite(layout, rng_for(layout.seed, 6, index)) for index in range(layout.people_count)
    )


def _pick(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    """One of the colours, a little lighter or darker."""
    tone = float(rng.uniform(0.8, 1.15))
    blue, green, red = colors[int(rng.integers(len(colors)))]
    return min(blue * tone, 255.0), min(green * tone, 255.0), min(red * tone, 255.0)


def _dress(rng: np.random.Generator) -> Looks:
    helmet = HELMET_COLORS[int(rng.integers(len(HELMET_COLORS)))] if rng.random() < 0.62 else None
    return Looks(
        height_m=float(rng.uniform(1.6, 1.93)),
        width=float(rng.uniform(0.9, 1.18)),
        skin=_pick(rng, _SKINS),
        hair=_pick(rng, _HAIRS),
        shirt=_pick(rng, _SHIRTS),
        trousers=_pick(rng, _TROUSERS),
        vest=_pick(rng, _VESTS) if rng.random() < 0.45 else None,
        helmet=helmet,
        cap=helmet is None and bool(rng.random() < 0.3),
    )


def _invite(layout: Layout, rng: np.random.Generator) -> Walker:
    looks = _dress(rng)
    speed = float(rng.uniform(0.85, 1.6))
    path = _find_path(layout, rng)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    times, distances = _schedule(rng, float(along[-1]), speed)
    return Walker(
        looks=looks,
        path_m=path,
        along_m=along,
        times_s=times,
        distances_m=distances,
        start_s=float(rng.uniform(0, times[-1])),
        speed_m_per_s=speed,
        stoops=bool(rng.random() < 0.35),
    )


def _schedule(rng: np.random.Generator, length_m: float, speed: float) -> tuple[Track, Track]:
    """Walk, stand a while, walk on: times and distances with one to three stops."""
    stops = np.sort(rng.uniform(0.1, 0.9, int(rng.integers(1, 4)))) * length_m
    times, distances, last = [0.0], [0.0], 0.0
    for stop in stops:
        times.append(times[-1] + (stop - last) / speed)
        times.append(times[-1] + float(rng.uniform(1.5, 7.0)))
        distances += [stop, stop]
        last = stop
    times.append(times[-1] + (length_m - last) / speed)
    distances.append(length_m)
    return np.array(times), np.array(distances)


def is_free(points_m: Track, obstacles: tuple[Obstacle, ...], room_m: float) -> NDArray[np.bool_]:
    """Whether each point (N, 2) is at least ``room_m`` away from every obstacle on the ground."""
    free = np.ones(len(points_m), bool)
    for obstacle in obstacles:
        if obstacle.z_m > 0:
            continue
        offset = points_m - np.array([obstacle.x_m, obstacle.y_m])
        cos, sin = np.cos(obstacle.yaw_rad), np.sin(obstacle.yaw_rad)
        along = np.abs(offset @ np.array([cos, sin])) - obstacle.length_m / 2
        across = np.abs(offset @ np.array([-sin, cos])) - obstacle.width_m / 2
        free &= np.maximum(along, across) > room_m
    return free


def _sample_points(rng: np.random.Generator, layout: Layout, count: int) -> Track:
    """Points on the ground that the camera sees, and a little beside it.

    Between evenly over the ground, which puts nearly everybody far away, and evenly over depth.
    """
    y = rng.uniform(NEAR_M**1.5, FAR_M**1.5, count) ** (1 / 1.5)
    half_view = 0.5 / layout.focal_per_width
    return np.stack([rng.uniform(-1.03, 1.03, count) * half_view * y, y], axis=1)


def _find_path(layout: Layout, rng: np.random.Generator) -> Track:
    """A closed path that keeps clear of obstacles; a small circle where the yard is too full."""
    for _ in range(40):
        points = _sample_points(rng, layout, int(rng.integers(3, 6)))
        if not is_free(points, layout.obstacles, 0.6).all():
            continue
        path = _resample(_round_corners(points))
        if is_free(path, layout.obstacles, 0.42).all():
            return path
    for point in _sample_points(rng, layout, 400):
        angles = np.linspace(0, 2 * np.pi, 40)
        circle = point + 0.8 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        if is_free(circle, layout.obstacles, 0.3).all():
            return _resample(circle)
    raise AssertionError("a yard always has free ground: obstacles cover less than half of it")


def _round_corners(points_m: Track) -> Track:
    """Chaikin's corner cutting, three times, of a closed polygon."""
    ring = points_m
    for _ in range(3):
        following = np.roll(ring, -1, axis=0)
        ring = np.stack([0.75 * ring + 0.25 * following, 0.25 * ring + 0.75 * following], axis=1)
        ring = ring.reshape(-1, 2)
    return np.concatenate([ring, ring[:1]])


def _resample(path_m: Track) -> Track:
    """The same path with a point about every 10 cm."""
    lengths = np.linalg.norm(np.diff(path_m, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    even = np.linspace(0, along[-1], max(16, int(along[-1] / 0.1)))
    return np.stack([np.interp(even, along, path_m[:, i]) for i in (0, 1)], axis=1)
