"""The decoder port: what a family of detectors looks like, and how its raw outputs become boxes.

A decoder needs only the tensors: the input size comes from the geometry, thresholds and strides
from the card. One file per family; ``registry.py`` lists them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ModelError
from edgekit.spec.card import ModelCard
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.vision.detections import Detections
from edgekit.vision.geometry import Geometry

Decode = Callable[[dict[str, Array], ModelCard, Geometry], Detections]
ClassCount = Callable[[Sequence[TensorSpec], Sequence[TensorSpec], Sequence[int]], "int | None"]

_PROBABILITY_SLACK = 0.02
"""A quantized sigmoid may end a step above 1."""
MAX_EXPONENT = 20.0
"""exp of a raw size is cut here: far above any image, far below float32 overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """One family of detectors."""

    name: str
    layout: str
    """Its raw outputs in a phrase, for errors: "one output [1, rows, 5 + classes]"."""
    class_count: ClassCount
    """(inputs, outputs, strides) -> number of classes if they have this family's layout, else None.
    A free dimension is 0."""
    decode: Decode
    is_recognisable: bool = True
    """False if its layout is that of too many networks to be taken without being named."""


def input_size_px(inputs: Sequence[TensorSpec]) -> tuple[int, int] | None:
    """Height and width of a model with one NCHW colour input (0: free), else None."""
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] not in (0, 3):
        return None
    return inputs[0].shape[2], inputs[0].shape[3]


def cell_count(height_px: int, width_px: int, strides: Sequence[int]) -> int:
    """Grid cells of all strides together: the rows of an anchor-free head."""
    return sum((height_px // stride) * (width_px // stride) for stride in strides)


def cell_grid(height_px: int, width_px: int, stride: int) -> NDArray[np.float32]:
    """Column and row of each cell, row by row.  Returns: (cells, 2) float32, x then y."""
    y, x = np.mgrid[: height_px // stride, : width_px // stride]
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def only_output(outputs: dict[str, Array], *, decoder: Decoder) -> tuple[str, Array]:
    """Name and value of the single output. Raises: ModelError if there are more or none."""
    if len(outputs) != 1:
        raise ModelError(
            f"decoder {decoder.name} expects {decoder.layout}, got {described(outputs)}",
            hint="choose another decoder, or export the model with its detection output only",
        )
    return next(iter(outputs.items()))


def named_output(
    outputs: dict[str, Array], name: str, shape: tuple[int, ...], *, decoder: Decoder
) -> NDArray[np.float32]:
    """Output ``name`` as float32 of ``shape`` (-1 matches any size). Raises: ModelError."""
    if name not in outputs:
        raise ModelError(
            f"decoder {decoder.name} expects an output {name!r}, got {described(outputs)}",
            hint=f"choose another decoder; this one reads {decoder.layout}",
        )
    return checked(name, outputs[name], shape, decoder=decoder)


def checked(
    name: str, value: Array, shape: tuple[int, ...], *, decoder: Decoder
) -> NDArray[np.float32]:
    """``value`` as float32 if it has ``shape`` (-1 matches any size) and only finite numbers.

    Raises: ModelError with expected and actual shape, or naming the tensor that holds NaN or inf.
    """
    fits = value.ndim == len(shape) and all(
        want in (-1, got) for want, got in zip(shape, value.shape, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if want == -1 else str(want) for want in shape)
        raise ModelError(
            f"decoder {decoder.name}: output {name!r} must be [{expected}], "
            f"got {list(value.shape)}",
            hint=f"check the input size and the decoder; this one reads {decoder.layout}",
        )
    array = value.astype(np.float32, copy=False)
    # The sum is finite unless an element is not (or it overflows): one pass, no mask.
    if not np.isfinite(array.sum(dtype=np.float64)) and not np.isfinite(array).all():
        raise ModelError(
            f"decoder {decoder.name}: output {name!r} holds NaN or infinity",
            hint="check the precision of the shard that made it (fp16 overflows at 65504)",
        )
    return array


def check_probabilities(name: str, values: NDArray[np.float32], *, decoder: Decoder) -> None:
    """Raise ModelError unless all ``values`` lie in 0..1: then it is another layout."""
    if values.size and not (
        values.min() >= -_PROBABILITY_SLACK and values.max() <= 1 + _PROBABILITY_SLACK
    ):
        raise ModelError(
            f"decoder {decoder.name}: scores in {name!r} run from {values.min():.3g} "
            f"to {values.max():.3g}, not 0 to 1",
            hint=f"choose another decoder; this one reads {decoder.layout}, scores after sigmoid",
        )


def centre_boxes(centres: NDArray[np.float32], sizes: NDArray[np.float32]) -> NDArray[np.float32]:
    """x1 y1 x2 y2 from centres (N, 2) and sizes (N, 2)."""
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)


def described(outputs: dict[str, Array]) -> str:
    """Names and shapes for an error: "output [1, 3549, 85]"."""
    return ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items()) or "none"
