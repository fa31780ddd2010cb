"""The scene's camera: a pinhole above the yard, looking forward and down.

In:   points in metres (x right, y into the yard, z up; the camera stands over the origin).
Out:  pixels (u right, v down) and depth along the optical axis; the same backwards for the ground.
Pure: no file, clock or randomness.
Source: Hartley, Zisserman, "Multiple View Geometry", 2nd ed., sec. 6.1.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ConfigError

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A pinhole camera. ``pitch_rad`` is how far it looks below the horizon."""

    width_px: int
    height_px: int
    focal_px: float
    mount_m: float
    """Height above the ground."""
    pitch_rad: float

    def __post_init__(self) -> None:
        if min(self.width_px, self.height_px) < 16 or max(self.width_px, self.height_px) > 8192:
            raise ConfigError(
                f"a scene of {self.width_px}x{self.height_px} pixels",
                hint="give a size between 16x16 and 8192x8192, such as 640x400",
            )

    def enlarged(self, factor: int) -> "Camera":
        """The same view with ``factor`` times as many pixels each way."""
        return Camera(
            width_px=self.width_px * factor,
            height_px=self.height_px * factor,
            focal_px=self.focal_px * factor,
            mount_m=self.mount_m,
            pitch_rad=self.pitch_rad,
        )

    def to_camera_axes(self, points_m: Floats) -> Floats:
        """World to camera axes (right, down, forward). Shapes: (..., 3) to (..., 3)."""
        sin, cos = math.sin(self.pitch_rad), math.cos(self.pitch_rad)
        below = self.mount_m - points_m[..., 2]
        ahead = points_m[..., 1]
        return np.stack(
            [points_m[..., 0], below * cos - ahead * sin, ahead * cos + below * sin], axis=-1
        )

    def project(self, points_m: Floats) -> tuple[Floats, Floats]:
        """Where points appear.

        Shapes: points_m (..., 3) in metres.
        Returns: pixels (..., 2) and depth in metres (...), kept above 0.1 so that nothing divides
            by zero; points behind the camera land far outside the picture.
        """
        axes = self.to_camera_axes(points_m)
        depth = np.maximum(axes[..., 2], 0.1)
        scale = self.focal_px / depth
        u = self.width_px / 2 + axes[..., 0] * scale
        v = self.height_px / 2 + axes[..., 1] * scale
        return np.stack([u, v], axis=-1), depth

    def rays(self) -> tuple[Floats, Floats]:
        """Every pixel's direction in camera axes: right (1, W) and down (H, 1); forward is 1."""
        right = (
            np.arange(self.width_px, dtype=np.float32) + 0.5 - self.width_px / 2
        ) / self.focal_px
        down = (
            np.arange(self.height_px, dtype=np.float32) + 0.5 - self.height_px / 2
        ) / self.focal_px
        return right[None, :], down[:, None]

    def ground_m(self) -> tuple[Floats, Floats]:
        """Where every pixel's ray meets the ground: x (H, W) and y (H, 1); 1e4 m at the horizon."""
        right, down = self.rays()
        sin, cos = math.sin(self.pitch_rad), math.cos(self.pitch_rad)
        drop = np.maximum(down * cos + sin, self.mount_m / 1e4)
        depth = (self.mount_m / drop).astype(np.float32)
        return right * depth, depth * (cos - down * sin)

    def plane_inverse_depth(self, corners_m: Floats) -> tuple[float, float, float]:
        """Coefficients (a, b, c) so that 1/depth = a * right + b * down + c on a plane.

        Shapes: corners_m (>= 3, 3), points of the plane that are not on one line.
        Returns: zeros for a plane through the camera, which is seen edge-on.
        """
        axes = self.to_camera_axes(corners_m[:3].astype(np.float64))
        normal = np.cross(axes[1] - axes[0], axes[2] - axes[0])
        offset = float(normal @ axes[0])
        if abs(offset) < 1e-9:
            return 0.0, 0.0, 0.0
        a, b, c = normal / offset
        return float(a), float(b), float(c)
