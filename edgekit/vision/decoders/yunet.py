"""YuNet: faces; per stride a class, an objectness, a box and a landmark output.

``cls_S``, ``obj_S`` [1, cells, 1] are after sigmoid; ``bbox_S`` [1, cells, 4] is raw.
Per cell g of stride s: centre = (g + t_xy) * s, size = exp(t_wh) * s, score = sqrt(cls * obj).
Landmarks (``kps_S``) are not part of a Detection and are not read. The input's height and width
must be multiples of 32, whatever they are.
Source: Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", MIR 20, 2023, sec. 3.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ModelError
from edgekit.spec.card import ModelCard
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.vision.decoders import port
from edgekit.vision.detections import Detections
from edgekit.vision.geometry import Geometry
from edgekit.vision.nms import suppress

_COLUMNS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}


def class_count(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], strides: Sequence[int]
) -> int | None:
    """1 if the outputs are the twelve of this family, by name and last dimension, else None."""
    columns = {spec.name: spec.shape[-1] for spec in outputs if spec.shape}
    expected = {f"{kind}_{s}": count for kind, count in _COLUMNS.items() for s in strides}
    return 1 if port.input_size_px(inputs) is not None and columns == expected else None


def decode(outputs: dict[str, Array], card: ModelCard, geometry: Geometry) -> Detections:
    """Boxes of one frame. Raises: ModelError if the outputs have another layout."""
    if geometry.height_px % 32 or geometry.width_px % 32:
        raise ModelError(
            f"decoder yunet: the input is {geometry.width_px}x{geometry.height_px}, "
            "not multiples of 32",
            hint="choose such a size, like --input input=1x3x320x320",
        )
    parts = [_decode_stride(outputs, stride, card, geometry) for stride in card.output.strides]
    boxes, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    class_ids = np.zeros(len(scores), np.int64)
    return suppress(
        geometry.to_source(boxes), scores, class_ids, card=card.output, geometry=geometry
    )


def _decode_stride(
    outputs: dict[str, Array], stride: int, card: ModelCard, geometry: Geometry
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes in input pixels and scores of the cells above the threshold."""
    cells = port.cell_count(geometry.height_px, geometry.width_px, [stride])
    read: dict[str, NDArray[np.float32]] = {}
    for kind in ("cls", "obj", "bbox"):
        shape = (1, cells, _COLUMNS[kind])
        read[kind] = port.named_output(outputs, f"{kind}_{stride}", shape, decoder=DECODER)[0]
    for kind in ("cls", "obj"):
        port.check_probabilities(f"{kind}_{stride}", read[kind], decoder=DECODER)
    scores = np.sqrt(np.maximum(read["cls"] * read["obj"], 0))[:, 0]
    rows = np.flatnonzero(scores >= card.output.score_threshold)
    grid = port.cell_grid(geometry.height_px, geometry.width_px, stride)[rows]
    centres = (grid + read["bbox"][rows, :2]) * stride
    sizes = np.exp(np.minimum(read["bbox"][rows, 2:], port.MAX_EXPONENT)) * stride
    return port.centre_boxes(centres, sizes), scores[rows]


DECODER = port.Decoder(
    name="yunet",
    layout="for each stride S outputs cls_S, obj_S [1, cells, 1], bbox_S [1, cells, 4] and kps_S "
    "[1, cells, 10]",
    class_count=class_count,
    decode=decode,
)
