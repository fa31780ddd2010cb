"""Ultralytics v8 / v11 detection head: one output [1, 4 + classes, cells].

Boxes are x, y, width, height in pixels of the input, class scores are after sigmoid; there is no
objectness. Models exported with NMS inside ([1, 300, 6]) and pose, segment or obb heads have other
layouts.
Source: the exported graph of the Detect head; see docs.ultralytics.com, "Export".
"""

from collections.abc import Sequence

import numpy as np

from edgekit.spec.card import ModelCard
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.vision.decoders import port
from edgekit.vision.detections import Detections
from edgekit.vision.geometry import Geometry
from edgekit.vision.nms import suppress


def class_count(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], strides: Sequence[int]
) -> int | None:
    """Classes if there is one output [1, 4 + classes, cells], else None."""
    size = port.input_size_px(inputs)
    if size is None or len(outputs) != 1 or len(outputs[0].shape) != 3:
        return None
    _, channels, cells = outputs[0].shape
    if channels < 5:
        return None
    if 0 in (*size, cells):  # free dimensions: only the name is left to go by
        return channels - 4 if outputs[0].name == "output0" else None
    return channels - 4 if cells == port.cell_count(*size, strides) else None


def decode(outputs: dict[str, Array], card: ModelCard, geometry: Geometry) -> Detections:
    """Boxes of one frame. Raises: ModelError if the output has another layout."""
    name, value = port.only_output(outputs, decoder=DECODER)
    cells = port.cell_count(geometry.height_px, geometry.width_px, card.output.strides)
    raw = port.checked(name, value, (1, -1, cells), decoder=DECODER)[0]
    if raw.shape[0] < 5:
        port.checked(name, value, (1, 5, cells), decoder=DECODER)
    port.check_probabilities(name, raw[4:], decoder=DECODER)
    class_ids = raw[4:].argmax(axis=0)
    scores = raw[4 + class_ids, np.arange(cells)]
    chosen = np.flatnonzero(scores >= card.output.score_threshold)
    boxes = port.centre_boxes(raw[:2, chosen].T, raw[2:4, chosen].T)
    return suppress(
        geometry.to_source(boxes),
        scores[chosen],
        class_ids[chosen],
        card=card.output,
        geometry=geometry,
    )


DECODER = port.Decoder(
    name="ultralytics",
    layout="one output [1, 4 + classes, cells]",
    class_count=class_count,
    decode=decode,
)
