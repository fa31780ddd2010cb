"""The ground of the yard, painted from above and then seen through the camera.

In:   a layout and a camera.  Out: uint8 BGR albedo (H, W, 3) of every pixel's ground point.
Pure: no file or clock.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from edgekit.vision.scene.camera import Camera, Floats
from edgekit.vision.scene.layout import FAR_M, NEAR_M, Layout, rng_for
from edgekit.vision.scene.surfaces import Image, Plane, smooth_noise

PIXELS_PER_M = 32
LEFT_M, RIGHT_M, NEAR_EDGE_M, FAR_EDGE_M = -18.0, 18.0, 3.0, 33.0
_BASE = {"asphalt": (98, 95, 93), "concrete": (146, 150, 152), "gravel": (122, 134, 142)}
_TILE_PX = 256
_SHIFT = 4  # cv2 draws with 1/16 px


def _to_map(points_m: Floats) -> NDArray[np.int32]:
    """Metres to the map's pixels in cv2's fixed point."""
    scaled = (points_m - np.array([LEFT_M, NEAR_EDGE_M])) * PIXELS_PER_M
    return np.asarray(np.round(scaled * (1 << _SHIFT)), np.int32)


def paint_map(layout: Layout) -> Image:
    """The yard from above: x to the right, y downwards in the picture, ``PIXELS_PER_M``."""
    rng = rng_for(layout.seed, 2)
    rows = int((FAR_EDGE_M - NEAR_EDGE_M) * PIXELS_PER_M)
    columns = int((RIGHT_M - LEFT_M) * PIXELS_PER_M)
    tone = rng.uniform(0.82, 1.12)
    shade = 1.0 + 0.05 * smooth_noise(rng, rows, columns, 150) * (
        1.0 + 0.5 * smooth_noise(rng, rows, columns, 40)
    )
    if layout.ground == "concrete":
        _slabs(rng, shade)
    else:
        _patches(rng, shade, strength=0.13 if layout.ground == "asphalt" else 0.05)
    _stains(rng, shade)
    base = np.array(_BASE[layout.ground], np.float32) * np.float32(tone)
    picture = shade[..., None] * base
    if layout.ground != "gravel":
        _paint_lines(rng, picture)
    return np.asarray(np.clip(picture, 0, 255), np.uint8)


def _slabs(rng: np.random.Generator, shade: Floats) -> None:
    step = int(rng.uniform(3.0, 5.0) * PIXELS_PER_M)
    offset = int(rng.integers(0, step))
    for top in range(-offset, shade.shape[0], step):
        for left in range(-offset, shade.shape[1], step):
            slab = np.s_[max(top, 0) : max(top + step, 0), max(left, 0) : max(left + step, 0)]
            shade[slab] *= rng.uniform(0.93, 1.05)
    shade[(np.arange(shade.shape[0]) + offset) % step < 2] *= 0.62
    shade[:, (np.arange(shade.shape[1]) + offset) % step < 2] *= 0.62


def _patches(rng: np.random.Generator, shade: Floats, strength: float) -> None:
    """Repaired rectangles, and cracks that wander."""
    for _ in range(int(rng.integers(2, 6))):
        x, y = rng.uniform(LEFT_M, RIGHT_M), rng.uniform(NEAR_M, FAR_M)
        half = rng.uniform(0.4, 2.5, 2)
        box = np.array([[x - half[0], y - half[1]], [x + half[0], y + half[1]]])
        (left, top), (right, bottom) = _to_map(box) >> _SHIFT
        shade[max(top, 0) : bottom, max(left, 0) : right] *= 1.0 + rng.choice([-1, 1]) * strength
    for _ in range(int(rng.integers(2, 7))):
        steps = rng.normal(0, 0.25, (28, 2)) + rng.normal(0, 0.3, 2)
        start = [rng.uniform(LEFT_M, RIGHT_M), rng.uniform(NEAR_M, FAR_M)]
        crack = _to_map(np.cumsum(steps, axis=0) + start)
        cv2.polylines(shade, [crack], False, 0.6, 1, cv2.LINE_AA, _SHIFT)


def _stains(rng: np.random.Generator, shade: Floats) -> None:
    """Oil and water marks, and the tracks of tyres."""
    mask = np.zeros(shade.shape, np.float32)
    for _ in range(int(rng.integers(6, 16))):
        at = _to_map(np.array([rng.uniform(LEFT_M, RIGHT_M), rng.uniform(NEAR_M, FAR_M)]))
        axes = (rng.uniform(0.15, 0.9, 2) * PIXELS_PER_M).astype(int)
        centre = (int(at[0]) >> _SHIFT, int(at[1]) >> _SHIFT)
        turn = float(rng.uniform(0, 180))
        cv2.ellipse(
            mask, centre, (int(axes[0]), int(axes[1])), turn, 0, 360, rng.uniform(0.1, 0.5), -1
        )
    for _ in range(int(rng.integers(1, 4))):
        along = np.linspace(-20, 20, 40)
        bend, turn = rng.normal(0, 0.012), rng.uniform(0, np.pi)
        centre_m = np.array([rng.uniform(-8, 8), rng.uniform(10, 22)])
        for side in (-0.8, 0.8):
            local = np.stack([along, bend * along**2 + side], axis=1)
            cos, sin = np.cos(turn), np.sin(turn)
            track = local @ np.array([[cos, sin], [-sin, cos]]) + centre_m
            cv2.polylines(mask, [_to_map(track)], False, 0.16, 7, cv2.LINE_8, _SHIFT)
    mask = cv2.GaussianBlur(mask, (0, 0), 3.0)
    wear = 1.0 + 0.5 * smooth_noise(rng, mask.shape[0], mask.shape[1], 12)
    shade *= 1.0 - np.clip(mask * wear, 0, 0.55)


def _paint_lines(rng: np.random.Generator, picture: Plane) -> None:
    """A walkway, parking bays, a zebra crossing and a hatched box, worn by time."""
    rows, columns = picture.shape[:2]
    white, yellow = (214, 216, 214), (40, 176, 222)
    wear = 0.78 + 0.16 * smooth_noise(rng, rows, columns, 9)
    wear *= np.clip(0.9 + 0.25 * smooth_noise(rng, rows, columns, 70), 0.2, 1.0)
    for color, draw in (
        (yellow if rng.random() < 0.6 else white, _walkway),
        (white, _bays),
        (white, _zebra),
        (yellow, _hatched_box),
    ):
        if rng.random() > 0.7:
            continue
        mask = np.zeros((rows, columns), np.uint8)
        draw(rng, mask)
        alpha = (mask.astype(np.float32) / 255 * np.clip(wear, 0, 0.95))[..., None]
        picture *= 1 - alpha
        picture += alpha * np.array(color, np.float32)


def _stroke(mask: Image, ends_m: list[list[float]], width_m: float) -> None:
    width = max(1, round(width_m * PIXELS_PER_M))
    cv2.polylines(mask, [_to_map(np.array(ends_m))], False, 255, width, cv2.LINE_AA, _SHIFT)


def _walkway(rng: np.random.Generator, mask: Image) -> None:
    y, slope = rng.uniform(10, 19), rng.normal(0, 0.06)
    for side in (0.0, 1.6):
        _stroke(
            mask, [[LEFT_M, y + side + slope * LEFT_M], [RIGHT_M, y + side + slope * RIGHT_M]], 0.13
        )


def _bays(rng: np.random.Generator, mask: Image) -> None:
    left, y = rng.uniform(-13, 2), rng.uniform(10, 20)
    for i in range(int(rng.integers(3, 6))):
        _stroke(mask, [[left + 2.7 * i, y], [left + 2.7 * i + 0.8, y + 4.8]], 0.12)


def _zebra(rng: np.random.Generator, mask: Image) -> None:
    left, y = rng.uniform(-9, 4), rng.uniform(9, 20)
    for i in range(7):
        _stroke(mask, [[left + 0.95 * i, y], [left + 0.95 * i, y + 2.6]], 0.45)


def _hatched_box(rng: np.random.Generator, mask: Image) -> None:
    left, y, size = rng.uniform(-11, 7), rng.uniform(9, 20), rng.uniform(2.5, 4.5)
    box = [[left, y], [left + size, y], [left + size, y + size], [left, y + size], [left, y]]
    _stroke(mask, box, 0.13)
    for t in np.arange(0.25, 1.0, 0.25) * size:
        _stroke(mask, [[left, y + t], [left + t, y]], 0.1)
        _stroke(mask, [[left + size, y + size - t], [left + size - t, y + size]], 0.1)


def seen_ground(layout: Layout, camera: Camera) -> Image:
    """The map through the camera, with fine grain near it and grass behind the fence."""
    rng = rng_for(layout.seed, 3)
    top_view = paint_map(layout)
    x_m, y_m = camera.ground_m()
    y_m = np.broadcast_to(y_m, x_m.shape)
    picture = _sample_map(top_view, x_m, y_m)
    grain = _endless_grain(rng)
    footprint_m = y_m**2 / (camera.focal_px * camera.mount_m)
    shade = np.ones(x_m.shape, np.float32)
    strength = 0.08 if layout.ground == "gravel" else 0.045
    for cell_m in (0.03, 0.11, 0.4):
        u, v = (np.mod(along * (2 / cell_m), _TILE_PX) for along in (x_m, y_m))
        layer = cv2.remap(grain, u, v, cv2.INTER_LINEAR)
        shade += strength * layer * np.clip(cell_m / footprint_m - 0.3, 0, 1)
    rows, columns = x_m.shape
    tufts, fields = (smooth_noise(rng, rows, columns, cell) for cell in (6, 40))
    grass = np.array((62, 104, 98), np.float32) * (1 + 0.12 * tufts + 0.1 * fields)[..., None]
    lit = picture.astype(np.float32) * shade[..., None]
    beyond = np.clip((y_m - layout.fence_y_m - 0.3) / 0.5, 0, 1)[..., None]
    return np.asarray(np.clip(lit * (1 - beyond) + grass * beyond, 0, 255), np.uint8)


def _endless_grain(rng: np.random.Generator) -> Plane:
    """Noise that continues at its opposite edge, one row and column more than the tile."""
    cells = _TILE_PX // 2
    grid = rng.standard_normal((cells, cells), dtype=np.float32)
    wide = np.pad(grid, 2, mode="wrap")
    tile = cv2.resize(wide, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)[4:-4, 4:-4]
    return np.pad(tile / float(tile.std()), (0, 1), mode="wrap").astype(np.float32)


def _sample_map(top_view: Image, x_m: Plane, y_m: Plane) -> Image:
    """The map at every ground point, from a coarser copy where it is seen at a glance."""
    u = ((x_m - LEFT_M) * PIXELS_PER_M).astype(np.float32)
    v = ((y_m - NEAR_EDGE_M) * PIXELS_PER_M).astype(np.float32)
    fine = cv2.remap(top_view, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    half = cv2.resize(top_view, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    coarse = cv2.remap(half, u / 2, v / 2, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(np.where((y_m > 15)[..., None], coarse, fine), np.uint8)
