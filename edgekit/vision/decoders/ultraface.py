"""UltraFace (version-RFB, version-slim): outputs ``scores`` and ``boxes``, decoded in the graph.

``scores`` [1, priors, 1 + classes] is after softmax with the background first; ``boxes``
[1, priors, 4] are x1 y1 x2 y2 as fractions of the input.
Source: Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB, MIT, the recipe of its README.
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
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], _strides: Sequence[int]
) -> int | None:
    """Classes without the background if the outputs are ``scores`` and ``boxes``, else None."""
    shapes = {spec.name: spec.shape for spec in outputs}
    if port.input_size_px(inputs) is None or set(shapes) != {"scores", "boxes"}:
        return None
    scores, boxes = shapes["scores"], shapes["boxes"]
    fits = len(scores) == len(boxes) == 3 and scores[1] == boxes[1] and boxes[2] == 4
    return scores[2] - 1 if fits and scores[2] >= 2 else None


def decode(outputs: dict[str, Array], card: ModelCard, geometry: Geometry) -> Detections:
    """Boxes of one frame. Raises: ModelError if the outputs have another layout."""
    boxes = port.named_output(outputs, "boxes", (1, -1, 4), decoder=DECODER)[0]
    scored = port.named_output(outputs, "scores", (1, len(boxes), -1), decoder=DECODER)
    if scored.shape[2] < 2:
        port.checked("scores", scored, (1, len(boxes), 2), decoder=DECODER)
    port.check_probabilities("scores", scored, decoder=DECODER)
    classes = scored[0, :, 1:]
    class_ids = classes.argmax(axis=1)
    scores = classes[np.arange(len(boxes)), class_ids]
    rows = np.flatnonzero(scores >= card.output.score_threshold)
    input_px = np.array([geometry.width_px, geometry.height_px] * 2, np.float32)
    return suppress(
        geometry.to_source(boxes[rows] * input_px),
        scores[rows],
        class_ids[rows],
        card=card.output,
        geometry=geometry,
    )


DECODER = port.Decoder(
    name="ultraface",
    layout="outputs scores [1, priors, 1 + classes] and boxes [1, priors, 4]",
    class_count=class_count,
    decode=decode,
)
