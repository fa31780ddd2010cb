"""Everything in a yard that does not move, rendered once: picture, depth and light.

In:   a layout and a camera.
Out:  ``Backdrop``: the lit picture, where obstacles stand and how near, and the light at any point.
Pure: no file or clock; deterministic by the layout's seed.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgekit.vision.scene.camera import Camera, Floats
from edgekit.vision.scene.ground import seen_ground
from edgekit.vision.scene.layout import Layout, Light, Obstacle, rng_for
from edgekit.vision.scene.obstacles import ROUND_KINDS, paint_obstacles
from edgekit.vision.scene.raster import Canvas
from edgekit.vision.scene.surfaces import Image, Plane, smooth_noise

SUPERSAMPLING = 2
_LAMP_REACH_M = 4.6
_LAMP_STRENGTH = 0.95


@dataclass(frozen=True, slots=True)
class Backdrop:
    """The still part of a scene."""

    image: Image
    """(H, W, 3) lit, BGR."""
    inverse_depth: NDArray[np.float32]
    """(H, W) per metre; 0 where nothing but ground is seen, so a larger value hides a smaller."""
    is_ground: NDArray[np.uint8]
    """(H, W), 255 where shadows may fall."""
    light: Light
    shadows_m: tuple[NDArray[np.float32], ...]
    """Outlines of the obstacles' shadows on the ground, each (N, 2)."""

    def light_at(self, x_m: float, y_m: float) -> tuple[float, float, float]:
        """Gain per channel of the light that falls on someone who stands there."""
        light = self.light
        level = light.ambient
        if light.sun > 0:
            depth_m = max(
                (cv2.pointPolygonTest(outline, (x_m, y_m), True) for outline in self.shadows_m),
                default=-1.0,
            )
            # From full sun to full shade over 40 cm, so that nobody switches colour in one frame.
            level += light.sun * 0.92 * float(np.clip(0.5 - depth_m / 0.4, 0.12, 1))
        level += float(_lamp_light(light, np.float32(x_m), np.float32(y_m)))
        blue, green, red = light.tint
        return level * blue, level * green, level * red


def render_backdrop(layout: Layout, camera: Camera) -> Backdrop:
    """Render the still part of a yard; a tenth of a second or two at 640 x 400."""
    big = camera.enlarged(SUPERSAMPLING)
    shape = (big.height_px, big.width_px)
    canvas = Canvas(
        camera=big,
        albedo=seen_ground(layout, big),
        facing=np.full(shape, max(layout.light.to_sun[2], 0.0), np.float32),
        inverse_depth=np.zeros(shape, np.float32),
    )
    _paint_horizon(canvas, layout)
    _paint_fence(canvas, layout)
    paint_obstacles(canvas, layout)
    shadows = _shadow_outlines(layout)
    lit = canvas.albedo.astype(np.float32) * _light_map(canvas, layout, shadows)
    size = (camera.width_px, camera.height_px)
    image = cv2.resize(np.clip(lit, 0, 255).astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    inverse_depth = canvas.inverse_depth[::SUPERSAMPLING, ::SUPERSAMPLING].copy()
    _, y_m = camera.ground_m()
    walkable = (inverse_depth == 0) & (y_m < layout.fence_y_m + 5)
    return Backdrop(
        image=image,
        inverse_depth=inverse_depth,
        is_ground=(walkable * 255).astype(np.uint8),
        light=layout.light,
        shadows_m=shadows,
    )


def _lamp_light(light: Light, x_m: Floats, y_m: Floats) -> Floats:
    total = np.zeros_like(x_m)
    for lamp_x, lamp_y in light.lamps_m:
        square = (x_m - lamp_x) ** 2 + (y_m - lamp_y) ** 2
        total = total + _LAMP_STRENGTH / (1.0 + square / _LAMP_REACH_M**2) ** 2
    return total


def _light_map(canvas: Canvas, layout: Layout, shadows: tuple[Plane, ...]) -> Plane:
    """Gain per channel for every pixel, (H, W, 3)."""
    light, camera = layout.light, canvas.camera
    right, down = camera.rays()
    on_ground = canvas.inverse_depth == 0
    ground_x, ground_y = camera.ground_m()
    depth = np.where(on_ground, 1.0, 1.0 / np.maximum(canvas.inverse_depth, 1e-4))
    sin, cos = math.sin(camera.pitch_rad), math.cos(camera.pitch_rad)
    x_m = np.where(on_ground, ground_x, right * depth).astype(np.float32)
    y_m = np.where(on_ground, ground_y, depth * (cos - down * sin)).astype(np.float32)
    sun = light.sun * canvas.facing
    level = light.ambient + _lamp_light(light, x_m, y_m)
    if light.sun > 0:
        sun = sun * (1 - _mask_on_ground(camera, shadows, blur_px=1.6) * on_ground)
    # Corners gather less sky: darken the ground next to whatever stands on it.
    contact = tuple(o.footprint_m(0.12).astype(np.float32) for o in layout.obstacles if o.z_m == 0)
    level = level * (1 - 0.45 * _mask_on_ground(camera, contact, blur_px=7.0) * on_ground)
    return np.asarray((level + sun)[..., None] * np.array(light.tint, np.float32), np.float32)


def _mask_on_ground(camera: Camera, outlines_m: tuple[Plane, ...], blur_px: float) -> Plane:
    mask = np.zeros((camera.height_px, camera.width_px), np.uint8)
    for outline in outlines_m:
        points = np.concatenate([outline, np.zeros((len(outline), 1), np.float32)], axis=1)
        # Behind the camera a projection is meaningless; there is nothing to see there either.
        points[:, 1] = np.maximum(points[:, 1], 2.0)
        pixels, _ = camera.project(points)
        cv2.fillConvexPoly(mask, np.round(pixels * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    soft: Plane = cv2.GaussianBlur(mask, (0, 0), blur_px).astype(np.float32) / 255
    return soft


def _shadow_outlines(layout: Layout) -> tuple[Plane, ...]:
    """Where obstacles keep the sun off the ground: convex outlines in metres."""
    if layout.light.sun == 0:
        return ()
    sun_x, sun_y, sun_z = layout.light.to_sun
    outlines = []
    for obstacle in layout.obstacles:
        low = _outline(obstacle)
        drift = -np.array([sun_x, sun_y]) / sun_z
        bottom = low + drift * obstacle.z_m
        top = low + drift * (obstacle.z_m + obstacle.height_m)
        if obstacle.kind == "cone":
            top = top.mean(axis=0, keepdims=True)
        hull = cv2.convexHull(np.concatenate([bottom, top]).astype(np.float32))
        outlines.append(hull[:, 0, :])
    return tuple(outlines)


def _outline(obstacle: Obstacle) -> Floats:
    if obstacle.kind not in ROUND_KINDS:
        return obstacle.footprint_m()
    angles = np.arange(12) * np.pi / 6
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * obstacle.length_m / 2
    return np.asarray(circle + np.array([obstacle.x_m, obstacle.y_m]))


def _paint_horizon(canvas: Canvas, layout: Layout) -> None:
    """A line of trees behind the fence, and sky above them where the camera sees that far."""
    rng, camera = rng_for(layout.seed, 5), canvas.camera
    distance_m = layout.fence_y_m + float(rng.uniform(14, 30))
    columns = camera.width_px
    crown = 7.0 + 1.6 * smooth_noise(rng, 1, columns, max(columns // 24, 4))[0]
    crown += 0.5 * smooth_noise(rng, 1, columns, max(columns // 130, 4))[0]
    x_m = np.zeros(columns)
    base, _ = camera.project(np.array([0.0, distance_m, 0.0]))
    tops, _ = camera.project(np.stack([x_m, np.full(columns, distance_m), crown], axis=1))
    rows = np.arange(camera.height_px)[:, None]
    trees = (rows >= tops[None, :, 1]) & (rows <= base[1])
    texture = 1 + 0.22 * smooth_noise(rng, camera.height_px, columns, 5)
    texture = texture + 0.15 * smooth_noise(rng, camera.height_px, columns, 17)
    leaves = texture[..., None] * np.array((44, 74, 60), np.float32)
    canvas.albedo[trees] = np.clip(leaves[trees], 0, 255).astype(np.uint8)
    sky = np.broadcast_to(rows < tops[None, :, 1], trees.shape)
    canvas.albedo[sky] = (228, 214, 200)


def _paint_fence(canvas: Canvas, layout: Layout) -> None:
    """Chain-link between posts, half transparent."""
    camera, y_m, height_m = canvas.camera, layout.fence_y_m, 2.3
    overlay = canvas.albedo.copy()

    def line(
        start: tuple[float, float], end: tuple[float, float], tone: int, width_px: int
    ) -> None:
        ends = np.array([[start[0], y_m, start[1]], [end[0], y_m, end[1]]])
        pixels = np.round(camera.project(ends)[0] * 16).astype(int)
        first, last = (tuple(int(value) for value in pixel) for pixel in pixels)
        color = (tone, tone, tone)
        cv2.line(overlay, first, last, color, width_px, cv2.LINE_AA, 4)

    for x in np.arange(-24.0, 24.0, 0.22):
        line((x, 0.0), (x + 1.1, height_m), 150, 1)
        line((x + 1.1, 0.0), (x, height_m), 138, 1)
    cv2.addWeighted(overlay, 0.45, canvas.albedo, 0.55, 0, dst=overlay)
    for x in np.arange(-24.0, 24.1, 3.0):
        line((x, 0.0), (x, height_m + 0.15), 92, 3)
    line((-24, height_m), (24, height_m), 110, 2)
    canvas.albedo[:] = overlay
