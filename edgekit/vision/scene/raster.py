"""Paint flat faces into a picture with a depth test: the little that the scene needs of a renderer.

In:   faces as corners in metres, with a texture or a colour.
Out:  a canvas: albedo (H, W, 3), shade (H, W) and inverse depth (H, W), changed in place.
Never touches the ground: where nothing stands, the inverse depth stays 0.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgekit.vision.scene.camera import Camera, Floats
from edgekit.vision.scene.surfaces import Image


@dataclass(frozen=True, slots=True)
class Canvas:
    """What the painter has so far, at the camera's resolution."""

    camera: Camera
    albedo: Image
    """(H, W, 3), colours before light."""
    facing: NDArray[np.float32]
    """(H, W), cosine between the surface's normal and the sun; the ground's own before painting."""
    inverse_depth: NDArray[np.float32]
    """(H, W) per metre; 0 where only ground is seen."""


def face_normal(corners_m: Floats) -> Floats:
    """Unit normal of a face whose corners run counter-clockwise when seen from outside. (3,)."""
    normal = np.cross(corners_m[1] - corners_m[0], corners_m[2] - corners_m[0])
    return np.asarray(normal / max(float(np.linalg.norm(normal)), 1e-12))


def is_visible(camera: Camera, corners_m: Floats) -> bool:
    """Whether the camera is on the outer side of the face."""
    to_camera = np.array([0.0, 0.0, camera.mount_m]) - corners_m[0]
    return bool(face_normal(corners_m) @ to_camera > 0)


def paint_face(
    canvas: Canvas, corners_m: Floats, texture: Image, to_sun: tuple[float, float, float]
) -> None:
    """Paint one face where it is nearer than what is there.

    Shapes: corners_m (N, 3), convex; with N = 4 the texture's corners are bottom left, bottom
    right, top right, top left. With other N the texture's mean colour is used.
    """
    camera = canvas.camera
    if not is_visible(camera, corners_m):
        return
    pixels, _ = camera.project(corners_m)
    left, top = np.floor(pixels.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(pixels.max(axis=0)).astype(int) + 2
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(right, camera.width_px), min(bottom, camera.height_px)
    if right <= left or bottom <= top:
        return
    size = (int(right - left), int(bottom - top))
    # Texture and mask use one convention: a pixel's centre has whole coordinates.
    local = (pixels - np.array([left, top]) - 0.5).astype(np.float32)
    mask = np.zeros((size[1], size[0]), np.uint8)
    cv2.fillConvexPoly(mask, np.round(local * 16).astype(np.int32), 255, cv2.LINE_8, 4)
    a, b, c = camera.plane_inverse_depth(corners_m)
    rays_right, rays_down = camera.rays()
    inverse = (a * rays_right[:, left:right] + b * rays_down[top:bottom] + c).astype(np.float32)
    roi = np.s_[top:bottom, left:right]
    nearer = (mask > 0) & (inverse > canvas.inverse_depth[roi])
    canvas.inverse_depth[roi][nearer] = inverse[nearer]
    canvas.facing[roi][nearer] = max(0.0, float(face_normal(corners_m) @ np.array(to_sun)))
    canvas.albedo[roi][nearer] = _pattern(texture, local, size)[nearer]


def _pattern(texture: Image, local: NDArray[np.float32], size: tuple[int, int]) -> Image:
    """The texture as it appears in the face's part of the picture, shape (size[1], size[0], 3)."""
    if len(local) != 4:
        mean = texture.reshape(-1, 3).mean(axis=0).astype(np.uint8)
        return np.broadcast_to(mean, (size[1], size[0], 3))
    rows, columns = texture.shape[:2]
    corners = np.array([[0, rows], [columns, rows], [columns, 0], [0, 0]], np.float32) - 0.5
    # Shrinking a fine texture by sampling alone would flicker with ribs and text: shrink it first.
    seen = max(
        float(np.linalg.norm(local[0] - local[1])), float(np.linalg.norm(local[3] - local[2]))
    )
    if seen > 0 and columns / max(seen, 1.0) > 1.5:
        factor = columns / max(seen, 1.0)
        small = (max(2, round(columns / factor)), max(2, round(rows / factor)))
        texture = cv2.resize(texture, small, interpolation=cv2.INTER_AREA)
        corners = np.array(
            [[0, small[1]], [small[0], small[1]], [small[0], 0], [0, 0]], np.float32
        ) - np.float32(0.5)
    transform = cv2.getPerspectiveTransform(corners, local)
    seen_now: Image = cv2.warpPerspective(
        texture, transform, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return seen_now
