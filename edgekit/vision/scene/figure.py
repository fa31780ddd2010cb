"""Draw one person: a patch of colour with coverage, and which of its pixels are helmet.

In:   a body in metres, a camera and the light that falls on the person.
Out:  ``Figure``: premultiplied colour, coverage and helmet mask, in a box of whole pixels that may
reach beyond the picture; and the person's shadow on flat ground. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgekit.vision.scene.body import Body, Part
from edgekit.vision.scene.camera import Camera, Floats
from edgekit.vision.scene.layout import Color
from edgekit.vision.scene.surfaces import Image

COVERAGE_LEAST = 64
"""A pixel belongs to someone from a quarter of its area on; thinner fringes are not drawn."""
_FIXED = 16  # cv2 takes 1/16 px with shift 4
_ALPHA_PERSON, _ALPHA_HELMET = 255.0, 254.0
_ARC = np.linspace(-np.pi / 2, np.pi / 2, 7)
_CAPS = np.stack([np.cos(_ARC), np.sin(_ARC)], axis=1)  # (7, 2): along, across


@dataclass(frozen=True, slots=True)
class Figure:
    """One drawn person."""

    left_px: int
    top_px: int
    color: Image
    """(h, w, 3), multiplied by coverage."""
    coverage: NDArray[np.uint8]
    """(h, w), 0 or COVERAGE_LEAST..255."""
    helmet: NDArray[np.bool_]
    """(h, w), part of ``coverage > 0``."""


def draw_figure(
    body: Body,
    camera: Camera,
    light: tuple[float, float, float],
    to_light: tuple[float, float, float],
) -> Figure | None:
    """Draw a person; None if no part is near the picture.

    ``light`` is a gain per channel, ``to_light`` a unit vector in the world.
    """
    pixels, depth = camera.project(body.points_m)
    radii_px = body.radii_m * camera.focal_px / depth
    box = _bounds(pixels, radii_px, camera)
    if box is None:
        return None
    left, top, right, bottom = box
    enlarge = 2 if bottom - top > 70 else 3 if bottom - top > 36 else 4
    patch = np.zeros(((bottom - top) * enlarge, (right - left) * enlarge, 4), np.uint8)
    # cv2 puts pixel centres on whole numbers; here they lie on halves.
    local = (pixels - np.array([left, top])) * enlarge - 0.5
    mast = np.array([0.0, 0.0, camera.mount_m])
    glance = camera.to_camera_axes(mast + np.array(to_light))[:2]
    base = _outlines(body, local, radii_px * enlarge)
    bright = _highlights(body, local, radii_px * enlarge, glance)
    distance = np.linalg.norm(body.anchors_m - mast, axis=1)
    for index in np.argsort(-distance, kind="stable").tolist():
        part = body.parts[index]
        alpha = _ALPHA_HELMET if part.is_helmet else _ALPHA_PERSON
        for outline, gain in ((base[index], 0.85), (bright[index], 1.09)):
            color = (*_lit(part, light, gain), alpha)
            cv2.fillConvexPoly(patch, outline, color, cv2.LINE_8, 4)
    return _shrink(patch, box)


def draw_shadow(
    mask: NDArray[np.uint8], body: Body, camera: Camera, drift: Floats, tone: float
) -> None:
    """Draw the shadow that the body casts on flat ground. ``drift``: metres per metre of height."""
    flat = body.points_m - body.points_m[:, 2:3] * drift
    pixels, depth = camera.project(flat)
    for outline in _outlines(body, pixels - 0.5, body.radii_m * camera.focal_px / depth):
        cv2.fillConvexPoly(mask, outline, tone, cv2.LINE_AA, 4)


def _bounds(pixels: Floats, radii_px: Floats, camera: Camera) -> tuple[int, int, int, int] | None:
    reach = radii_px[:, None] + 2
    left, top = np.floor((pixels - reach).min(axis=0)).astype(int).tolist()
    right, bottom = np.ceil((pixels + reach).max(axis=0)).astype(int).tolist()
    if right <= 0 or bottom <= 0 or left >= camera.width_px or top >= camera.height_px:
        return None
    # Near the camera's foot a body can span far more than the picture; nobody sees the rest.
    if right - left > 2 * camera.width_px or bottom - top > 3 * camera.height_px:
        return None
    return left, top, right, bottom


def _capsules(ends: Floats, radii: Floats) -> Floats:
    """Outlines of limbs. Shapes: ends (M, 2, 2), radii (M, 2) to (M, 14, 2)."""
    along = ends[:, 1] - ends[:, 0]
    length = np.hypot(along[:, 0], along[:, 1])[:, None]
    unit = np.where(length > 1e-6, along / np.maximum(length, 1e-6), np.array([1.0, 0.0]))
    across = np.stack([-unit[:, 1], unit[:, 0]], axis=1)
    arc = _CAPS[None, :, :1] * unit[:, None] + _CAPS[None, :, 1:] * across[:, None]
    return np.concatenate(
        [
            ends[:, 1:2] + arc * radii[:, 1, None, None],
            ends[:, 0:1] - arc * radii[:, 0, None, None],
        ],
        axis=1,
    )


def _limb_points(body: Body) -> NDArray[np.intp]:
    return np.array([part.first for part in body.parts if part.is_limb])


def _fixed(points: Floats) -> NDArray[np.int32]:
    return np.asarray(np.rint(points * _FIXED), np.int32)


def _outlines(body: Body, pixels: Floats, radii_px: Floats) -> list[NDArray[np.int32]]:
    """The outline of every part, in order, in cv2's fixed point."""
    first = _limb_points(body)
    pairs = first[:, None] + np.array([0, 1])
    return _in_order(body, _fixed(_capsules(pixels[pairs], radii_px[pairs])), _fixed(pixels))


def _highlights(
    body: Body, pixels: Floats, radii_px: Floats, glance: Floats
) -> list[NDArray[np.int32]]:
    """The brighter middle of every part, moved towards the light."""
    first = _limb_points(body)
    pairs = first[:, None] + np.array([0, 1])
    radii = radii_px[pairs]
    limbs = _capsules(pixels[pairs] + glance * radii[:, :, None] * 0.36, radii * 0.6)
    moved = pixels.copy()
    for part in body.parts:
        if not part.is_limb:
            own = pixels[part.first : part.last]
            low, high = own.min(axis=0), own.max(axis=0)
            middle, reach = (low + high) / 2, (high - low) / 2
            shrunk = middle + (own - middle) * np.array([0.62, 0.86]) + glance * reach * 0.22
            moved[part.first : part.last] = shrunk
    return _in_order(body, _fixed(limbs), _fixed(moved))


def _in_order(
    body: Body, limbs: NDArray[np.int32], points: NDArray[np.int32]
) -> list[NDArray[np.int32]]:
    def walk() -> Iterator[NDArray[np.int32]]:
        following = iter(limbs)
        for part in body.parts:
            if part.is_limb:
                yield next(following)
            else:
                yield cv2.convexHull(points[part.first : part.last])

    return list(walk())


def _lit(part: Part, light: tuple[float, float, float], gain: float) -> Color:
    blue, green, red = part.color
    on_blue, on_green, on_red = (min(value * gain + part.glow, 1.6) for value in light)
    return min(blue * on_blue, 255.0), min(green * on_green, 255.0), min(red * on_red, 255.0)


def _shrink(patch: Image, box: tuple[int, int, int, int]) -> Figure:
    """Average the enlarged patch down to pixels and drop the thinnest fringe."""
    left, top, right, bottom = box
    size = (right - left, bottom - top)
    alpha = patch[:, :, 3]
    is_helmet = cv2.inRange(alpha, _ALPHA_HELMET, _ALPHA_HELMET)
    small = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
    helmet = cv2.resize(is_helmet, size, interpolation=cv2.INTER_AREA)
    coverage = np.where(small[:, :, 3] < COVERAGE_LEAST, 0, small[:, :, 3]).astype(np.uint8)
    drawn = coverage > 0
    color = small[:, :, :3] * drawn[..., None]
    return Figure(left, top, color, coverage, (helmet >= COVERAGE_LEAST) & drawn)
