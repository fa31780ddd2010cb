"""FastestDet: one output [1, 5 + classes, H, W], a single grid.

Channels: objectness (after sigmoid), four raw box numbers, class scores (after softmax).
Per cell g: centre = (g + tanh(t_xy)) / grid, size = sigmoid(t_wh), both as fractions of the input;
score = objectness^0.6 * class^0.4.
Source: dog-qiuqiu/FastestDet, BSD-3-Clause, the recipe of its README.
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

_STRIDE = 16


def class_count(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], _strides: Sequence[int]
) -> int | None:
    """Classes if there is one output [1, 5 + classes, height / 16, width / 16], else None."""
    size = port.input_size_px(inputs)
    if size is None or len(outputs) != 1 or len(outputs[0].shape) != 4:
        return None
    _, channels, *grid = outputs[0].shape
    # Free dimensions do not fit: many networks that are no detectors end in four dimensions.
    fits = 0 not in size and grid == [pixels // _STRIDE for pixels in size]
    return channels - 5 if fits and channels >= 6 else None


def decode(outputs: dict[str, Array], card: ModelCard, geometry: Geometry) -> Detections:
    """Boxes of one frame. Raises: ModelError if the output has another layout."""
    name, value = port.only_output(outputs, decoder=DECODER)
    height, width = geometry.height_px // _STRIDE, geometry.width_px // _STRIDE
    raw = port.checked(name, value, (1, -1, height, width), decoder=DECODER)[0]
    if raw.shape[0] < 6:
        port.checked(name, value, (1, 6, height, width), decoder=DECODER)
    raw = raw.reshape(raw.shape[0], -1)
    port.check_probabilities(name, raw[0], decoder=DECODER)
    port.check_probabilities(name, raw[5:], decoder=DECODER)
    class_ids = raw[5:].argmax(axis=0)
    best = raw[5 + class_ids, np.arange(raw.shape[1])]
    scores = _power(raw[0], 0.6) * _power(best, 0.4)
    cells = np.flatnonzero(scores >= card.output.score_threshold)
    grid = port.cell_grid(geometry.height_px, geometry.width_px, _STRIDE)[cells]
    centres = (grid + np.tanh(raw[1:3, cells].T)) / np.array([width, height], np.float32)
    sizes = 1 / (1 + np.exp(np.minimum(-raw[3:5, cells].T, port.MAX_EXPONENT)))
    input_px = np.array([geometry.width_px, geometry.height_px] * 2, np.float32)
    return suppress(
        geometry.to_source(port.centre_boxes(centres, sizes) * input_px),
        scores[cells],
        class_ids[cells],
        card=card.output,
        geometry=geometry,
    )


def _power(values: NDArray[np.float32], exponent: float) -> NDArray[np.float32]:
    """A score raised to a fraction; a quantized one may lie a step below 0."""
    raised: NDArray[np.float32] = np.maximum(values, 0) ** np.float32(exponent)
    return raised


DECODER = port.Decoder(
    name="fastestdet",
    layout="one output [1, 5 + classes, height / 16, width / 16]",
    class_count=class_count,
    decode=decode,
)
