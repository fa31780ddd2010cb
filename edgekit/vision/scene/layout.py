"""What stands in one yard, who walks there and how it is lit: all drawn from the seed.

In:   a seed.  Out: frozen values in metres and seconds, no pixels.
Pure: no file or clock; the only randomness is the seed's own generator, so the same seed gives the
same yard in every process.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Color = tuple[float, float, float]
"""Blue, green, red, 0..255 before light falls on it."""

FAR_M = 28.0
"""People walk no farther than this: there a helmet is about 6 px high in a 640 px wide picture."""
NEAR_M = 7.5

Kind = Literal["container", "crate", "barrel", "barrier", "cone", "mast", "van", "hall"]
Daylight = Literal["sun", "overcast", "dusk", "night"]

CONTAINER_COLORS: tuple[Color, ...] = (
    (52, 66, 150), (140, 82, 38), (72, 104, 58), (120, 120, 112), (48, 108, 176), (92, 70, 60),
    (58, 134, 158), (60, 52, 118),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Something that stands on the ground: a box, or for barrel, cone and mast a round column."""

    kind: Kind
    x_m: float
    y_m: float
    z_m: float
    """Height of its underside: 0 unless it is stacked."""
    length_m: float
    """Along its own first axis; the diameter of round things."""
    width_m: float
    height_m: float
    yaw_rad: float
    color: Color

    def footprint_m(self, grow_m: float = 0.0) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Corners on the ground, counter-clockwise, shape (4, 2), grown outwards by ``grow_m``."""
        half_l, half_w = self.length_m / 2 + grow_m, self.width_m / 2 + grow_m
        corners = np.array(
            [[-half_l, -half_w], [half_l, -half_w], [half_l, half_w], [-half_l, half_w]]
        )
        cos, sin = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        turned: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = corners @ np.array(
            [[cos, sin], [-sin, cos]]
        ) + np.array([self.x_m, self.y_m])
        return turned


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """Light over the yard and how the sensor copes with it."""

    daylight: Daylight
    to_sun: tuple[float, float, float]
    """Unit vector towards the sun."""
    sun: float
    """Share of the light that comes from the sun and casts shadows."""
    ambient: float
    tint: Color
    """Gain per channel (blue, green, red) around 1."""
    lamps_m: tuple[tuple[float, float], ...]
    """Ground points under lamps that are on."""
    gain: float
    gamma: float
    noise: float
    """Standard deviation of the sensor's noise in grey levels."""
    blur_px: float
    jpeg_quality: int
    """0: the picture is not compressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One yard."""

    seed: int
    mount_m: float
    pitch_rad: float
    focal_per_width: float
    ground: Literal["asphalt", "concrete", "gravel"]
    fence_y_m: float
    obstacles: tuple[Obstacle, ...]
    light: Light
    people_count: int


def rng_for(seed: int, *purpose: int) -> np.random.Generator:
    """The generator for one purpose of one seed: independent streams, equal in every process."""
    return np.random.Generator(np.random.PCG64([seed, *purpose]))


def plan_layout(seed: int) -> Layout:
    """Draw a yard from its seed."""
    rng = rng_for(seed, 1)
    fence_y_m = FAR_M + float(rng.uniform(1.5, 6.0))
    mount_m = float(rng.uniform(4.6, 7.4))
    obstacles = _place_obstacles(rng, fence_y_m)
    masts = tuple((o.x_m, o.y_m) for o in obstacles if o.kind == "mast")
    return Layout(
        seed=seed,
        mount_m=mount_m,
        # A higher mount looks down more steeply, so that the yard fills the picture.
        pitch_rad=float(np.radians(11.5 + 1.9 * mount_m + rng.uniform(-1.5, 2.0))),
        focal_per_width=float(rng.uniform(0.86, 1.02)),
        ground=("asphalt", "concrete", "gravel")[int(rng.choice(3, p=[0.45, 0.35, 0.2]))],
        fence_y_m=fence_y_m,
        obstacles=obstacles,
        light=_draw_light(rng, masts),
        people_count=int(rng.integers(5, 13)),
    )


def _draw_light(rng: np.random.Generator, masts: tuple[tuple[float, float], ...]) -> Light:
    daylight: Daylight = ("sun", "overcast", "dusk", "night")[
        int(rng.choice(4, p=[0.45, 0.27, 0.16, 0.12]))
    ]
    azimuth = rng.uniform(0, 2 * np.pi)
    height = np.radians(rng.uniform(14, 26) if daylight == "dusk" else rng.uniform(30, 65))
    to_sun = (
        float(np.cos(height) * np.cos(azimuth)),
        float(np.cos(height) * np.sin(azimuth)),
        float(np.sin(height)),
    )
    warm = float(rng.uniform(0.0, 0.05))
    sun, ambient, gain, noise = {
        "sun": (0.62, 0.46, rng.uniform(0.88, 1.1), rng.uniform(1.2, 3.0)),
        "overcast": (0.0, 0.86, rng.uniform(0.85, 1.08), rng.uniform(1.5, 3.5)),
        "dusk": (0.34, 0.36, rng.uniform(0.78, 1.0), rng.uniform(2.5, 5.0)),
        "night": (0.0, 0.24, rng.uniform(0.9, 1.2), rng.uniform(4.0, 7.0)),
    }[daylight]
    tint = {
        "sun": (0.95 - warm, 1.0, 1.03 + warm),
        "overcast": (1.04, 1.0, 0.97),
        "dusk": (0.86 - warm, 0.96, 1.12 + warm),
        "night": (1.08, 1.0, 0.93),
    }[daylight]
    extra = tuple(
        (float(rng.uniform(-9, 9)), float(rng.uniform(NEAR_M + 2, FAR_M))) for _ in range(2)
    )
    return Light(
        daylight=daylight,
        to_sun=to_sun,
        sun=sun,
        ambient=ambient,
        tint=tint,
        lamps_m=(masts + extra)[:3] if daylight == "night" else (),
        gain=float(gain),
        gamma=float(rng.uniform(0.92, 1.1)),
        noise=float(noise),
        blur_px=float(rng.uniform(0.3, 0.75)),
        jpeg_quality=int(rng.integers(55, 92)) if rng.random() < 0.35 else 0,
    )


def _place_obstacles(rng: np.random.Generator, fence_y_m: float) -> tuple[Obstacle, ...]:
    """Big things first, around the edges; small things in what is left."""
    placed: list[Obstacle] = []
    for _ in range(int(rng.integers(2, 5))):
        _try_place(rng, placed, _container(rng, fence_y_m))
    for kind, low, high in (("van", 0, 2), ("crate", 2, 6), ("barrier", 0, 4)):
        for _ in range(int(rng.integers(low, high))):
            _try_place(rng, placed, _thing(rng, kind))
    for kind, low, high in (("barrel", 1, 7), ("cone", 2, 7), ("mast", 0, 3)):
        for _ in range(int(rng.integers(low, high))):
            _try_place(rng, placed, _thing(rng, kind))
    stacked = [_stack(rng, o) for o in placed if o.kind in ("container", "crate")]
    if rng.random() < 0.6:
        placed.append(_hall(rng, fence_y_m))
    return tuple(placed + [o for o in stacked if o is not None])


def _container(rng: np.random.Generator, fence_y_m: float) -> Obstacle:
    side = rng.random()
    if side < 0.45:  # along the fence
        x_m, y_m, yaw = rng.uniform(-11, 11), fence_y_m - 1.8, rng.normal(0, 0.02)
    else:  # on the left or right, pointing into the yard or across it
        x_m = rng.choice([-1, 1]) * rng.uniform(5.5, 10.5)
        y_m, yaw = rng.uniform(11, 21), rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.08)
    return Obstacle(
        kind="container", x_m=float(x_m), y_m=float(y_m), z_m=0.0, length_m=6.06, width_m=2.44,
        height_m=2.6, yaw_rad=float(yaw),
        color=CONTAINER_COLORS[int(rng.integers(len(CONTAINER_COLORS)))],
    )  # fmt: skip


def _hall(rng: np.random.Generator, fence_y_m: float) -> Obstacle:
    grey = float(rng.uniform(120, 190))
    return Obstacle(
        kind="hall", x_m=float(rng.uniform(-14, 14)), y_m=fence_y_m + 10.0, z_m=0.0,
        length_m=float(rng.uniform(18, 30)), width_m=10.0, height_m=float(rng.uniform(5, 8)),
        yaw_rad=float(rng.normal(0, 0.03)), color=(grey * 1.02, grey, grey * 0.95),
    )  # fmt: skip


def _stack(rng: np.random.Generator, below: Obstacle) -> Obstacle | None:
    """A second container or crate on top, sometimes."""
    if rng.random() > (0.3 if below.kind == "container" else 0.35):
        return None
    color = CONTAINER_COLORS[int(rng.integers(len(CONTAINER_COLORS)))]
    return Obstacle(
        kind=below.kind, x_m=below.x_m + float(rng.normal(0, 0.04)), y_m=below.y_m,
        z_m=below.height_m, length_m=below.length_m, width_m=below.width_m,
        height_m=below.height_m, yaw_rad=below.yaw_rad + float(rng.normal(0, 0.02)),
        color=color if below.kind == "container" else below.color,
    )  # fmt: skip


def _thing(rng: np.random.Generator, kind: str) -> Obstacle:
    y_m = float(rng.uniform(NEAR_M + 1.0, FAR_M))
    x_m = float(rng.uniform(-0.5, 0.5) * y_m * 1.1)
    yaw = float(rng.uniform(0, np.pi))
    wood = float(rng.uniform(0.8, 1.15))
    drum = ((170, 92, 40), (52, 52, 176), (60, 128, 60), (90, 96, 100), (46, 150, 196))[
        int(rng.integers(5))
    ]
    paint = ((196, 196, 192), (128, 84, 40), (70, 66, 150), (96, 96, 92))[int(rng.integers(4))]
    size: dict[str, tuple[Kind, float, float, float, Color]] = {
        "van": ("van", 4.9, 1.95, 2.1, paint),
        "crate": ("crate", float(rng.uniform(0.9, 1.4)), float(rng.uniform(0.8, 1.1)),
                  float(rng.uniform(0.6, 1.1)), (96 * wood, 142 * wood, 178 * wood)),
        "barrier": ("barrier", 2.4, 0.5, 0.85, (164, 168, 168)),
        "barrel": ("barrel", 0.6, 0.6, 0.9, drum),
        "cone": ("cone", 0.38, 0.38, 0.62, (28, 92, 232)),
        "mast": ("mast", 0.22, 0.22, 7.5, (120, 122, 120)),
    }  # fmt: skip
    name, length, width, height, color = size[kind]
    return Obstacle(
        kind=name, x_m=x_m, y_m=y_m, z_m=0.0, length_m=length, width_m=width, height_m=height,
        yaw_rad=yaw, color=color,
    )  # fmt: skip


def _try_place(rng: np.random.Generator, placed: list[Obstacle], thing: Obstacle) -> None:
    """Keep ``thing`` unless it would stand inside another; small things are not tried again."""
    reach = max(thing.length_m, thing.width_m) / 2
    for other in placed:
        room = reach + max(other.length_m, other.width_m) / 2
        if np.hypot(other.x_m - thing.x_m, other.y_m - thing.y_m) < room * 0.95 + 0.1:
            return
    placed.append(thing)
