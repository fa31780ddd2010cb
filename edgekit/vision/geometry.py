"""Where a source frame lies inside the model's input, and the way back.

In: the resize rule of a card and two sizes.  Out: a Geometry, used by ``preprocess`` to place the
image and by the decoders to return boxes to source pixels.  Pure.

Coordinates are continuous: 0 is the left edge of the first pixel, ``width`` the right edge of the
last one, which is how ``cv2.resize`` maps pixel centres.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ConfigError
from edgekit.spec.card import InputCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The source frame, resized to ``resized_*``, lies at ``top_px``, ``left_px`` of the input."""

    source_height_px: int
    source_width_px: int
    height_px: int
    width_px: int
    """Of the model's input."""
    resized_height_px: int
    resized_width_px: int
    top_px: int
    left_px: int

    @property
    def scale_x(self) -> float:
        """Model pixels per source pixel, horizontally: of the resized image, so after rounding."""
        return self.resized_width_px / self.source_width_px

    @property
    def scale_y(self) -> float:
        """Model pixels per source pixel, vertically."""
        return self.resized_height_px / self.source_height_px

    def to_source(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes of model pixels in source pixels. Not clipped.

        Shapes: boxes (N, 4), x1 y1 x2 y2.  Returns: a new (N, 4) float32.
        """
        return ((boxes - self._offset()) / self._scale()).astype(np.float32)

    def to_model(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes of source pixels in model pixels; the inverse of ``to_source``."""
        return (boxes * self._scale() + self._offset()).astype(np.float32)

    def clip(self, boxes_px: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes (N, 4) of source pixels, cut at the edges of the source frame."""
        limit = [self.source_width_px, self.source_height_px] * 2
        return np.clip(boxes_px, 0.0, np.array(limit, np.float32))

    def _offset(self) -> NDArray[np.float64]:
        return np.array([self.left_px, self.top_px] * 2, np.float64)

    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y] * 2, np.float64)


def geometry_for(
    card: InputCard, *, source_height_px: int, source_width_px: int, height_px: int, width_px: int
) -> Geometry:
    """Where ``preprocess`` puts a source frame in an input of ``height_px`` x ``width_px``.

    Raises: ConfigError if a size is not positive (a free dimension of the model shows as 0).
    """
    sizes = (source_height_px, source_width_px, height_px, width_px)
    if min(sizes) < 1:
        raise ConfigError(
            f"cannot place a {source_width_px}x{source_height_px} frame "
            f"in a {width_px}x{height_px} input",
            hint="fix the model's input size, like --input NAME=1x3x416x416",
        )
    resized_height, resized_width = height_px, width_px
    if card.resize == "letterbox":
        ratio = min(height_px / source_height_px, width_px / source_width_px)
        resized_height = min(height_px, max(1, round(source_height_px * ratio)))
        resized_width = min(width_px, max(1, round(source_width_px * ratio)))
    centered = card.anchor == "center"
    return Geometry(
        source_height_px=source_height_px,
        source_width_px=source_width_px,
        height_px=height_px,
        width_px=width_px,
        resized_height_px=resized_height,
        resized_width_px=resized_width,
        top_px=(height_px - resized_height) // 2 if centered else 0,
        left_px=(width_px - resized_width) // 2 if centered else 0,
    )
