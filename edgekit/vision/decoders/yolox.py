"""YOLOX: one output [1, cells, 5 + classes] of raw offsets, objectness and class scores.

Rows run over the card's strides (8, 16, 32), row by row. Per cell g of stride s:
centre = (t_xy + g) * s, size = exp(t_wh) * s, score = objectness * class (both after sigmoid).
Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021", arXiv 2107.08430, sec. 2.
"""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.spec.card import ModelCard
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.vision.decoders import port
from edgekit.vision.detections import Detections
from edgekit.vision.geometry import Geometry
from edgekit.vision.nms import suppress


def class_count(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], strides: Sequence[int]
) -> int | None:
    """Classes if there is one output [1, cells, 5 + classes], else None."""
    size = port.input_size_px(inputs)
    if size is None or len(outputs) != 1 or len(outputs[0].shape) != 3:
        return None
    _, rows, columns = outputs[0].shape
    if columns < 6:
        return None
    if 0 in (*size, rows):  # free dimensions: only the name is left to go by
        return columns - 5 if outputs[0].name == "output" else None
    return columns - 5 if rows == port.cell_count(*size, strides) else None


def decode(outputs: dict[str, Array], card: ModelCard, geometry: Geometry) -> Detections:
    """Boxes of one frame. Raises: ModelError if the output has another layout."""
    name, value = port.only_output(outputs, decoder=DECODER)
    size, strides = (geometry.height_px, geometry.width_px), card.output.strides
    raw = port.checked(name, value, (1, port.cell_count(*size, strides), -1), decoder=DECODER)[0]
    if raw.shape[1] < 6:
        port.checked(name, value, (1, len(raw), 6), decoder=DECODER)
    port.check_probabilities(name, raw[:, 4:], decoder=DECODER)
    class_ids = raw[:, 5:].argmax(axis=1)
    scores = raw[:, 4] * raw[np.arange(len(raw)), 5 + class_ids]
    rows = np.flatnonzero(scores >= card.output.score_threshold)
    grid, stride = _grid(*size, strides)
    centres = (raw[rows, :2] + grid[rows]) * stride[rows]
    sizes = np.exp(np.minimum(raw[rows, 2:4], port.MAX_EXPONENT)) * stride[rows]
    return suppress(
        geometry.to_source(port.centre_boxes(centres, sizes)),
        scores[rows],
        class_ids[rows],
        card=card.output,
        geometry=geometry,
    )


@functools.lru_cache(maxsize=16)
def _grid(
    height_px: int, width_px: int, strides: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cell (rows, 2) and stride (rows, 1) of every row."""
    grids = [port.cell_grid(height_px, width_px, stride) for stride in strides]
    sizes = [np.full((len(grid), 1), stride) for grid, stride in zip(grids, strides, strict=True)]
    return np.concatenate(grids), np.concatenate(sizes).astype(np.float32)


DECODER = port.Decoder(
    name="yolox",
    layout="one output [1, cells, 5 + classes]",
    class_count=class_count,
    decode=decode,
)
