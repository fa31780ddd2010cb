"""Floats in 256 steps: q = round((x - low) / step), 0 to 255, x' = low + q step.

In: a float array and its ranges, one or one a channel.  Out: uint8, or floats again.
Pure. Numbers outside a calibrated range become its nearest end. For those inside it
``error_bound`` says how far x' may be from x.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ModelError
from edgekit.spec.codec import CHANNELS_MAX, RANGE_LIMIT, TensorRange
from edgekit.spec.tensors import Array

CHANNEL_ELEMENTS_MIN = 32
"""Elements of a channel that make its range, 8 bytes when sent, worth its place."""
STEP_MIN = 1e-30
"""Keeps 1 / step finite where all numbers of a channel are the same."""
_LEVELS = 255
_BLOCK = 1 << 16
"""Elements handled at a time: their floats stay in a cache of the processor between passes."""

Ranges = tuple[NDArray[np.float32], NDArray[np.float32]]
"""low and step, each (1,) or (channels,)."""


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """The axis with a range of its own for each index: 1 of NCHW, else the last.

    None where that would not pay: two numbers a channel for fewer than CHANNEL_ELEMENTS_MIN.
    """
    if not shape:
        return None
    axis = 1 if len(shape) == 4 else len(shape) - 1
    per_channel = math.prod(shape) // shape[axis] if shape[axis] else 0
    worthwhile = per_channel >= CHANNEL_ELEMENTS_MIN and shape[axis] <= CHANNELS_MAX
    return axis if worthwhile else None


def layout(shape: tuple[int, ...], axis: int | None) -> tuple[int, int, int]:
    """``shape`` as (elements before, along and after ``axis``); one channel if it is None."""
    if axis is None:
        return 1, 1, int(np.prod(shape, dtype=np.int64))
    before = int(np.prod(shape[:axis], dtype=np.int64))
    return before, shape[axis], int(np.prod(shape[axis + 1 :], dtype=np.int64))


def measured(name: str, array: Array, axis: int | None) -> tuple[Array, Array]:
    """Least and greatest number of each channel, as they are in this array.

    Raises: ModelError if it holds NaN or a number beyond RANGE_LIMIT.
    """
    view = array.reshape(layout(array.shape, axis))
    low, high = (np.asarray(found(view, axis=(0, 2)), np.float64) for found in (np.min, np.max))
    check_finite(name, low, high)
    return low, high


def check_finite(name: str, low: Array, high: Array) -> None:
    """Raises: ModelError if these ends of a tensor's numbers show that it cannot be quantized."""
    if not (low >= -RANGE_LIMIT).all() or not (high <= RANGE_LIMIT).all():
        raise ModelError(
            f"tensor {name!r} holds NaN or a number beyond {RANGE_LIMIT:g}, which steps cannot "
            "express",
            hint="use the codec fp32, and look at what the model computes",
        )


def ranges_of(low: Array, high: Array) -> Ranges:
    """Ends of ranges as low and step."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    start = low.astype(np.float32)
    # From the rounded start, and up by a rounding of its own: the top end must not be cut off.
    step = np.maximum((high - start) / _LEVELS, STEP_MIN) * (1 + 2.0**-22)
    return start, step.astype(np.float32)


def calibrated(one: TensorRange) -> Ranges:
    """The ranges of a CodecSpec as low and step."""
    return ranges_of(np.array(one.low), np.array(one.high))


def quantize(array: Array, axis: int | None, ranges: Ranges) -> NDArray[np.uint8]:
    """Floats as steps. Shapes: any, contiguous; ranges (1,) or (channels,). Returns: that shape."""
    low, step = (part.astype(_work_dtype(array.dtype)) for part in ranges)
    per_step = 1 / step
    coded = np.empty(array.shape, np.uint8)
    scratch = np.empty(0, low.dtype)
    for source, target, channels in _blocks(array, coded, axis):
        if scratch.shape != source.shape:
            scratch = np.empty(source.shape, low.dtype)
        np.subtract(source, _along(low, channels, axis), out=scratch)
        np.multiply(scratch, _along(per_step, channels, axis), out=scratch)
        np.add(scratch, 0.5, out=scratch)
        np.clip(scratch, 0, _LEVELS, out=scratch)
        np.copyto(target, scratch, casting="unsafe")
    return coded


def restore(
    coded: NDArray[np.uint8], axis: int | None, ranges: Ranges, dtype: np.dtype[np.generic]
) -> Array:
    """Steps as floats of ``dtype``. Shapes: any, contiguous. Returns: that shape."""
    low, step = (part.astype(_work_dtype(dtype)) for part in ranges)
    floats = np.empty(coded.shape, low.dtype)
    for source, target, channels in _blocks(coded, floats, axis):
        np.multiply(source, _along(step, channels, axis), out=target)
        np.add(target, _along(low, channels, axis), out=target)
    with np.errstate(over="ignore"):  # a hostile sender's ranges may exceed a float16
        return floats.astype(dtype, copy=False)


def error_bound(low: Array, high: Array, dtype: np.dtype[np.generic]) -> Array:
    """How far a number within its range may be from what comes back: (channels,) float64.

    Half a step, and the rounding of the floats that it is computed in and comes back as.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    step = np.maximum((high - low) / _LEVELS, STEP_MIN)
    largest = np.maximum(np.abs(low), np.abs(high))
    info = np.finfo(np.float16) if dtype == np.float16 else np.finfo(np.float32)
    rounding = largest * float(info.eps) + float(info.smallest_subnormal)
    return np.asarray(0.5001 * step + 4 * rounding)


def _work_dtype(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)


def _along(part: Array, channels: slice, axis: int | None) -> Array:
    """The ranges of some channels, shaped to meet a block."""
    return part if axis is None else part[channels, None]


def _blocks(source: Array, target: Array, axis: int | None) -> Iterator[tuple[Array, Array, slice]]:
    """Views of both arrays in blocks of about _BLOCK elements, with the channels they hold.

    Shapes: (n,) without channels; else (..., channels, n).
    """
    before, along, after = layout(source.shape, axis)
    if axis is None:
        flat, out = source.reshape(-1), target.reshape(-1)
        for first in range(0, after, _BLOCK):
            chosen = slice(first, first + _BLOCK)
            yield flat[chosen], out[chosen], slice(None)
        return
    cube, cube_out = source.reshape(before, along, after), target.reshape(before, along, after)
    outer = max(1, _BLOCK // max(1, along * after))
    inner = along if outer > 1 else max(1, _BLOCK // max(1, after))
    for first in range(0, before, outer):
        for channel in range(0, along, inner):
            channels = slice(channel, channel + inner)
            rows = slice(first, first + outer)
            yield cube[rows, channels], cube_out[rows, channels], channels
