"""NanoDet: per stride a class output and a distance output.

``cls_pred_stride_S`` [1, cells, classes] is after sigmoid. ``dis_pred_stride_S`` [1, cells, 4 * 8]
holds, for each of the four sides, 8 raw bins; the distance is the mean of 0..7 under their softmax,
times the stride, measured from the centre (g + 0.5) * stride of the cell.
Source: Li et al., "Generalized Focal Loss", NeurIPS 2020, sec. 3; RangiLyu/nanodet, Apache-2.0.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.spec.card import ModelCard
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.vision.decoders import port
from edgekit.vision.detections import Detections
from edgekit.vision.geometry import Geometry
from edgekit.vision.nms import suppress

_BIN_COUNT = 8
_BINS = np.arange(_BIN_COUNT, dtype=np.float32)


def class_count(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], strides: Sequence[int]
) -> int | None:
    """Classes if the outputs are the three pairs of this family, by name and shape, else None."""
    shapes = {spec.name: spec.shape for spec in outputs}
    names = {f"{kind}_pred_stride_{s}" for kind in ("cls", "dis") for s in strides}
    if port.input_size_px(inputs) is None or set(shapes) != names:
        return None
    last = {shapes[f"cls_pred_stride_{s}"][-1] for s in strides}
    bins = {shapes[f"dis_pred_stride_{s}"][-1] for s in strides}
    return last.pop() if len(last) == 1 and bins == {4 * _BIN_COUNT} else None


def decode(outputs: dict[str, Array], card: ModelCard, geometry: Geometry) -> Detections:
    """Boxes of one frame. Raises: ModelError if the outputs have another layout."""
    parts = [_decode_stride(outputs, stride, card, geometry) for stride in card.output.strides]
    boxes, scores, class_ids = (np.concatenate(column) for column in zip(*parts, strict=True))
    return suppress(
        geometry.to_source(boxes), scores, class_ids, card=card.output, geometry=geometry
    )


def _decode_stride(
    outputs: dict[str, Array], stride: int, card: ModelCard, geometry: Geometry
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Boxes in input pixels, scores and classes of the cells above the threshold."""
    cells = port.cell_count(geometry.height_px, geometry.width_px, [stride])
    name = f"cls_pred_stride_{stride}"
    classes = port.named_output(outputs, name, (1, cells, -1), decoder=DECODER)[0]
    port.check_probabilities(name, classes, decoder=DECODER)
    sides = port.named_output(
        outputs, f"dis_pred_stride_{stride}", (1, cells, 4 * _BIN_COUNT), decoder=DECODER
    )[0]
    class_ids = classes.argmax(axis=1)
    scores = classes[np.arange(cells), class_ids]
    rows = np.flatnonzero(scores >= card.output.score_threshold)
    grid = port.cell_grid(geometry.height_px, geometry.width_px, stride)[rows]
    centres = (grid + np.float32(0.5)) * stride
    distances = _expectation(sides[rows].reshape(-1, 4, _BIN_COUNT)) * stride
    boxes = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)
    return boxes, scores[rows], class_ids[rows]


def _expectation(bins: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean bin under the softmax of the last axis: (N, 4, bins) -> (N, 4)."""
    weights = np.exp(bins - bins.max(axis=-1, keepdims=True))
    mean: NDArray[np.float32] = (weights * _BINS).sum(axis=-1) / weights.sum(axis=-1)
    return mean


DECODER = port.Decoder(
    name="nanodet",
    layout="for each stride S outputs cls_pred_stride_S [1, cells, classes] and dis_pred_stride_S "
    "[1, cells, 32]",
    class_count=class_count,
    decode=decode,
)
