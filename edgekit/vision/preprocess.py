"""A camera frame becomes the model's input tensor.

In: an image (H, W, 3) uint8 BGR and the card's input section.  Out: (1, 3, h, w) float32, or
(1, 1, h, w) for a model of grey pictures.
Pure; one function for every model: what differs is data in the card.

The arithmetic happens once per pixel value, not once per pixel: 256 numbers per channel, looked up.
So it costs one pass, and the same resized pixel gives the same bits on every machine.
"""

import functools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DeviceError
from edgekit.spec.card import InputCard
from edgekit.vision.geometry import Geometry, geometry_for

_BGR = {"bgr": (0, 1, 2), "rgb": (2, 1, 0), "gray": (0,)}
"""Channel of a BGR (or grey) image for each channel of the tensor."""


def preprocess(
    image: NDArray[np.uint8], card: InputCard, *, height_px: int, width_px: int
) -> NDArray[np.float32]:
    """Resize as the card says, then ``(pixel * scale - mean) / std`` in the card's colour order.

    Shapes: image (H, W, 3) uint8 BGR.
    Returns: (1, 3, height_px, width_px) float32, C-contiguous, channels in the card's order; one
    channel where its colour is gray.
    Raises: DeviceError if the image is not such an array; ConfigError if a size is not positive.
    """
    check_image(image)
    geometry = geometry_for(
        card,
        source_height_px=image.shape[0],
        source_width_px=image.shape[1],
        height_px=height_px,
        width_px=width_px,
    )
    if card.color == "gray":
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
    planes = cv2.split(_placed(image, geometry, card.pad_value))
    order = _BGR[card.color]
    tensor = np.empty((1, len(order), height_px, width_px), np.float32)
    tables = _tables(card.scale, card.mean, card.std)
    for channel, plane in enumerate(order):
        cv2.LUT(planes[plane], tables[channel], dst=tensor[0, channel])
    return tensor


def check_image(image: Any) -> None:
    """Raise DeviceError unless ``image`` is (H, W, 3) uint8."""
    is_array = isinstance(image, np.ndarray)
    if is_array and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return
    got = f"{image.dtype}{list(image.shape)}" if is_array else type(image).__name__
    raise DeviceError(
        f"a frame must be uint8[H, W, 3] in BGR order, got {got}",
        hint="convert it with cv2.cvtColor, or set the camera to colour",
    )


def _placed(image: NDArray[np.uint8], geometry: Geometry, pad_value: int) -> NDArray[np.uint8]:
    """The image resized and put where the geometry says, the rest filled with ``pad_value``."""
    height, width = geometry.resized_height_px, geometry.resized_width_px
    resized = image
    if image.shape[:2] != (height, width):
        # Bilinear also when shrinking: what these networks were trained and verified with.
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    bottom = geometry.height_px - geometry.top_px - height
    right = geometry.width_px - geometry.left_px - width
    if not (geometry.top_px or geometry.left_px or bottom or right):
        return resized
    placed: NDArray[np.uint8] = cv2.copyMakeBorder(
        resized,
        geometry.top_px,
        bottom,
        geometry.left_px,
        right,
        cv2.BORDER_CONSTANT,
        value=(pad_value, pad_value, pad_value),
    )
    return placed


@functools.lru_cache(maxsize=16)
def _tables(
    scale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[NDArray[np.float32], ...]:
    """Per channel, the tensor value of each pixel value 0..255."""
    pixels = np.arange(256, dtype=np.float64)
    return tuple(
        ((pixels * scale - mean[channel]) / std[channel]).astype(np.float32) for channel in range(3)
    )
