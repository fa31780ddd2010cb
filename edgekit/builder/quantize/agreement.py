"""How far two detectors agree on pictures whose truth nobody knows.

In:  the detections of two models on the same frames, or a float model and frames to judge others
by.  Out: one number, 0..1.
A mean error over a whole tensor says little about a detector: nearly all of its cells see
background. What counts is that the same boxes come out with the same scores.
"""

from collections.abc import Sequence

import msgspec
import onnx

from edgekit.builder.load import LoadedModel
from edgekit.builder.quantize.sizes import session_of
from edgekit.runtime.session import Session
from edgekit.spec.agent_config import Optimization
from edgekit.spec.card import ModelCard
from edgekit.spec.messages import Detection
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.vision.answers import detections_of

LEAST_SCORE = 0.25
"""A box that sinks below it vanishes; far below it, networks with an own score for each class have
thousands of boxes that nobody sees."""
MIN_OVERLAP = 0.5

Box = tuple[float, float, float, float]


class Referee:
    """Knows what the float model finds in the calibration frames, and compares others with it."""

    def __init__(
        self,
        model: LoadedModel,
        card: ModelCard,
        frames: Sequence[dict[str, Array]],
        level: Optimization = "all",
    ) -> None:
        """``level``: at which integers give the numbers here that they will give on the device."""
        threshold = min(card.output.score_threshold, LEAST_SCORE)
        output = msgspec.structs.replace(card.output, score_threshold=threshold)
        self._card = msgspec.structs.replace(card, output=output)
        self._input: TensorSpec = model.inputs[0]
        self._frames = frames
        self._level = level
        self._wanted = self._found(session_of(model.proto))

    def judge(self, proto: onnx.ModelProto) -> float:
        """How far what ``proto`` finds agrees with what the float model finds, 0..1."""
        return agreement(self._wanted, self._found(session_of(proto, self._level)))

    def _found(self, session: Session) -> list[tuple[Detection, ...]]:
        """For each frame, in pixels of the input."""
        height_px, width_px = self._input.shape[2:]
        return [
            detections_of(
                session.run(inputs),
                self._card,
                model_input=self._input,
                source_height_px=height_px,
                source_width_px=width_px,
            )
            for inputs in self._frames
        ]


def agreement(first: Sequence[Sequence[Detection]], second: Sequence[Sequence[Detection]]) -> float:
    """Shared score of all boxes over their whole score: 1 for the same boxes, 0 for none in common.

    A pair of boxes of one label, overlapping by half or more, shares the lower score times the
    overlap, and has the higher score; a box without a partner shares nothing. Each box has at most
    one partner, best scores first. Two models that find nothing agree.
    """
    shared = whole = 0.0
    for boxes, others in zip(first, second, strict=True):
        waiting = sorted(others, key=lambda one: -one.score)
        for box in sorted(boxes, key=lambda one: -one.score):
            found = max(
                (other for other in waiting if other.label == box.label),
                key=lambda other: overlap(box.box, other.box),
                default=None,
            )
            share = overlap(box.box, found.box) if found else 0.0
            if found is None or share < MIN_OVERLAP:
                whole += box.score
                continue
            waiting.remove(found)
            shared += min(box.score, found.score) * share
            whole += max(box.score, found.score)
        whole += sum(other.score for other in waiting)
    return shared / whole if whole else 1.0


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared) if shared else 0.0
