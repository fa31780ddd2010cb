"""A classifier: one output with a number per class, for the picture as a whole.

The answer is the best class, as a box around the whole picture, so that whatever shows, records or
counts detections does so with classes. Its score is the softmax of the numbers, or the number
itself where they are probabilities already (none negative, sum 1).
"""

from collections.abc import Sequence

import numpy as np

from edgekit.spec.card import ModelCard
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.vision.decoders import port
from edgekit.vision.detections import Detections
from edgekit.vision.geometry import Geometry

_SUM_TOLERANCE = 1e-2


def class_count(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], _strides: Sequence[int]
) -> int | None:
    """Classes if there is one picture and one output [1, classes] or [1, classes, 1, 1]."""
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or len(outputs) != 1:
        return None
    shape = outputs[0].shape
    is_flat = len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1))
    return shape[1] if is_flat and shape[0] in (0, 1) and shape[1] >= 2 else None


def decode(outputs: dict[str, Array], card: ModelCard, geometry: Geometry) -> Detections:
    """The best class of one frame, or nothing if its score is below the card's threshold.

    Raises: ModelError if the output has another layout.
    """
    name, value = port.only_output(outputs, decoder=DECODER)
    flat = value.reshape(value.shape[:2]) if value.ndim == 4 else value
    numbers = port.checked(name, flat, (1, -1), decoder=DECODER)[0].astype(np.float64)
    is_share = numbers.min() >= 0 and abs(numbers.sum() - 1) <= _SUM_TOLERANCE
    if not is_share:
        numbers = np.exp(numbers - numbers.max())
        numbers /= numbers.sum()
    best = int(numbers.argmax())
    if numbers[best] < card.output.score_threshold:
        return Detections.none()
    return Detections(
        boxes_px=np.array(
            [[0, 0, geometry.source_width_px, geometry.source_height_px]], np.float32
        ),
        scores=np.array([numbers[best]], np.float32),
        class_ids=np.array([best], np.int64),
    )


DECODER = port.Decoder(
    name="classes",
    layout="one output [1, classes]",
    class_count=class_count,
    decode=decode,
    is_recognisable=False,
)
