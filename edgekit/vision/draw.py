"""Draw answers on a picture, for people.

In: an image and detections.  Out: a new image; the input is never changed.  Pure.
"""

import zlib
from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edgekit.spec.messages import Detection

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SMALL_PX = 24
"""A box with a side below this is drawn around the object, not over it."""
_HUE_START = 2716
"""Chosen so that person, helmet, face, car and other frequent labels get hues far apart."""
_Color = tuple[int, int, int]
_DARK: _Color = (32, 32, 32)
_LIGHT: _Color = (255, 255, 255)


def draw_detections(
    image: NDArray[np.uint8], detections: Sequence[Detection], *, caption: str = ""
) -> NDArray[np.uint8]:
    """A copy of ``image`` (H, W, 3) uint8 BGR with boxes, a legend and a caption.

    Text is put on a box only where it is no wider than the box; the legend in the lower left corner
    names the colours and counts the boxes, so that small objects stay visible.
    """
    canvas: NDArray[np.uint8] = image.copy()
    scale = max(0.35, min(1.0, image.shape[1] / 1600))
    for detection in sorted(detections, key=_area_px, reverse=True):  # small ones on top
        _draw_box(canvas, detection, scale)
    _draw_legend(canvas, Counter(detection.label for detection in detections), scale)
    if caption:
        _draw_text(canvas, caption, (0, 0), scale * 1.2, background=_DARK)
    return canvas


def color_of(label: str) -> _Color:
    """A bright BGR colour that is the same for a label everywhere, on every run."""
    hue = zlib.crc32(label.encode(), _HUE_START) % 180
    pixel = np.array([[[hue, 220, 255]]], np.uint8)
    blue, green, red = (int(value) for value in cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0])
    return blue, green, red


def _area_px(detection: Detection) -> float:
    x1, y1, x2, y2 = detection.box
    return (x2 - x1) * (y2 - y1)


def _draw_box(canvas: NDArray[np.uint8], detection: Detection, scale: float) -> None:
    height_px, width_px = canvas.shape[:2]
    left, top, right, bottom = (round(value) for value in detection.box)
    color = color_of(detection.label)
    if min(right - left, bottom - top) < _SMALL_PX:
        left, top, right, bottom = left - 2, top - 2, right + 2, bottom + 2
    thickness = 1 if width_px < 1280 else 2
    corners = (max(left, 0), max(top, 0)), (min(right, width_px) - 1, min(bottom, height_px) - 1)
    cv2.rectangle(canvas, *corners, color, thickness)
    for text in (f"{detection.label} {detection.score:.2f}", detection.label):
        text_width, text_height = _text_size_px(text, scale)
        if text_width <= right - left:
            _draw_text(canvas, text, (left, top - text_height), scale, background=color)
            return


def _draw_legend(canvas: NDArray[np.uint8], counts: Counter[str], scale: float) -> None:
    top = canvas.shape[0]
    for label, count in sorted(counts.items(), reverse=True):
        text = f"{label} {count}"
        top -= _text_size_px(text, scale)[1]
        _draw_text(canvas, text, (0, top), scale, background=color_of(label))


def _text_size_px(text: str, scale: float) -> tuple[int, int]:
    """Width and height of ``text`` with its ground."""
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, 1)
    return width + 4, height + baseline + 3


def _draw_text(
    canvas: NDArray[np.uint8],
    text: str,
    at: tuple[int, int],
    scale: float,
    *,
    background: _Color,
) -> None:
    """Text on a filled ground, its top left corner as near to ``at`` as the picture allows."""
    (_, height), _ = cv2.getTextSize(text, _FONT, scale, 1)
    ground_width, ground_height = _text_size_px(text, scale)
    left = max(0, min(at[0], canvas.shape[1] - ground_width))
    top = max(0, min(at[1], canvas.shape[0] - ground_height))
    corner = (left + ground_width - 1, top + ground_height - 1)
    cv2.rectangle(canvas, (left, top), corner, background, -1)
    is_bright = 0.114 * background[0] + 0.587 * background[1] + 0.299 * background[2] > 140
    ink = _DARK if is_bright else _LIGHT
    cv2.putText(canvas, text, (left + 2, top + height + 1), _FONT, scale, ink, 1, cv2.LINE_AA)
