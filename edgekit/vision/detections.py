"""What a decoder found in one frame: boxes, scores and classes as arrays.

In: arrays from a decoder.  Out: ``spec.messages.Detection`` values, ordered and rounded.
Pure. The only place where boxes are rounded.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ModelError
from edgekit.spec.card import ModelCard
from edgekit.spec.messages import Detection

SCORE_DECIMALS = 4
BOX_DECIMALS = 2
"""A hundredth of a pixel: finer than any detector, coarse enough for compact JSON.

``round`` is a pure function of the float32 value, so equal raw outputs give equal messages, on any
device and through any number of JSON round trips: answers can be compared with ``==``.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detections:
    """Boxes of one frame.

    Shapes: boxes_px (N, 4) float32, x1 y1 x2 y2 in pixels of the source; scores (N,) float32;
    class_ids (N,) int64.
    """

    boxes_px: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.scores) if np.ndim(self.scores) else 0
        expected = {
            "boxes_px": ((count, 4), "float32"),
            "scores": ((count,), "float32"),
            "class_ids": ((count,), "int64"),
        }
        for name, (shape, dtype) in expected.items():
            value = np.asarray(getattr(self, name))
            if value.shape != shape or value.dtype != dtype:
                raise ModelError(
                    f"detections.{name} must be {dtype}{list(shape)}, "
                    f"got {value.dtype}{list(value.shape)}",
                    hint="check the decoder that made them",
                )

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def none(cls) -> "Detections":
        """A frame in which nothing was found."""
        return cls(
            boxes_px=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            class_ids=np.zeros(0, np.int64),
        )

    def to_spec(self, card: ModelCard) -> tuple[Detection, ...]:
        """As messages: best score first, ties by class, then box; score to 4 decimals, box to 2."""
        keys = (*self.boxes_px.T[::-1], self.class_ids, -self.scores)
        return tuple(
            Detection(
                label=card.label_of(int(self.class_ids[index])),
                score=round(float(self.scores[index]), SCORE_DECIMALS),
                box=_rounded(self.boxes_px[index]),
            )
            for index in np.lexsort(keys)
        )


def _rounded(box_px: NDArray[np.float32]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (round(float(value), BOX_DECIMALS) for value in box_px)
    return x1, y1, x2, y2
