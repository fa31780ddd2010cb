"""Turn obstacles into faces and paint them.

In:   a layout's obstacles and a canvas.  Out: the canvas, changed in place.
Pure apart from that: no file or clock.
"""

from collections.abc import Callable, Iterator

import numpy as np

from edgekit.vision.scene.camera import Floats
from edgekit.vision.scene.layout import Color, Layout, Obstacle, rng_for
from edgekit.vision.scene.raster import Canvas, paint_face
from edgekit.vision.scene.surfaces import (
    Image,
    cladding,
    column_skin,
    concrete_block,
    container_end,
    container_side,
    planks,
    ribbed,
    van_end,
    van_side,
)

ROUND_KINDS = ("barrel", "cone", "mast")
_SIDES = 14


def paint_obstacles(canvas: Canvas, layout: Layout) -> None:
    """Paint every obstacle of the layout."""
    for index, obstacle in enumerate(layout.obstacles):
        rng = rng_for(layout.seed, 4, index)
        faces = _column_faces if obstacle.kind in ROUND_KINDS else _box_faces
        for corners_m, texture in faces(obstacle, rng):
            paint_face(canvas, corners_m, texture, layout.light.to_sun)


def _raise_to(footprint_m: Floats, z_m: float) -> Floats:
    return np.concatenate([footprint_m, np.full((len(footprint_m), 1), z_m)], axis=1)


def _box_faces(obstacle: Obstacle, rng: np.random.Generator) -> Iterator[tuple[Floats, Image]]:
    """Four sides and the roof, corners counter-clockwise from outside, bottom left first."""
    side, end, roof = _textures(obstacle, rng)
    low = _raise_to(obstacle.footprint_m(), obstacle.z_m)
    # A barrier tapers; everything else is straight.
    narrow = -0.14 if obstacle.kind == "barrier" else 0.0
    high = _raise_to(obstacle.footprint_m(), obstacle.z_m + obstacle.height_m)
    if narrow:
        middle = low[:, :2].mean(axis=0)
        across = np.array([-np.sin(obstacle.yaw_rad), np.cos(obstacle.yaw_rad)])
        high[:, :2] -= 0.55 * np.outer((low[:, :2] - middle) @ across, across)
    for i in range(4):
        j = (i + 1) % 4
        yield np.stack([low[i], low[j], high[j], high[i]]), side if i % 2 == 0 else end
    yield high, roof


def _textures(obstacle: Obstacle, rng: np.random.Generator) -> tuple[Image, Image, Image]:
    color = obstacle.color
    paler: Color = (color[0] * 0.9 + 22, color[1] * 0.9 + 22, color[2] * 0.9 + 22)
    make: dict[str, Callable[[], tuple[Image, Image, Image]]] = {
        "container": lambda: (
            container_side(rng, color), container_end(rng, color), ribbed(rng, paler, 60, 240, 9)
        ),
        "hall": lambda: (
            cladding(rng, color), cladding(rng, color), ribbed(rng, (120, 118, 116), 60, 300, 8)
        ),
        "van": lambda: (
            van_side(rng, color), van_end(rng, color), ribbed(rng, paler, 40, 90, 30)
        ),
        "barrier": lambda: _barrier(rng, color),
        "crate": lambda: (planks(rng, color), planks(rng, color), planks(rng, paler)),
    }  # fmt: skip
    return make[obstacle.kind]()


def _barrier(rng: np.random.Generator, color: Color) -> tuple[Image, Image, Image]:
    warning = bool(rng.random() < 0.5)
    side = concrete_block(rng, color, warning=warning)
    plain = concrete_block(rng, color, warning=False)
    return side, plain, plain


def _column_faces(obstacle: Obstacle, rng: np.random.Generator) -> Iterator[tuple[Floats, Image]]:
    skin = column_skin(rng, obstacle.kind, obstacle.color)
    angles = np.arange(_SIDES) * 2 * np.pi / _SIDES
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centre = np.array([obstacle.x_m, obstacle.y_m])
    radius = obstacle.length_m / 2
    top_radius = radius * (0.12 if obstacle.kind == "cone" else 1.0)
    low = _raise_to(circle * radius + centre, obstacle.z_m)
    high = _raise_to(circle * top_radius + centre, obstacle.z_m + obstacle.height_m)
    for i in range(_SIDES):
        j = (i + 1) % _SIDES
        yield np.stack([low[i], low[j], high[j], high[i]]), skin
    paler = (skin.astype(np.float32) * 0.85).astype(np.uint8)
    yield high, paler
