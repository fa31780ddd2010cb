"""How much accuracy a quantized model loses on pictures it was not calibrated on, with an interval.

In:  an EvaluationSet and two sessions of one interface.  Out: an AccuracyDrop.
Detectors: AP50, its interval by bootstrap over the pictures. Classifiers: top-1, the interval of
the difference from the pictures on which the two disagree.
Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13; Wilson, JASA 22,
1927; Agresti, "Categorical Data Analysis", 2013, sec. 11.1 (difference of matched proportions).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import numpy as np

from edgekit.builder.evaluate import average_precision_50
from edgekit.builder.quantize.frames import Picture
from edgekit.errors import ModelError
from edgekit.runtime.session import Session
from edgekit.spec.card import InputCard, ModelCard
from edgekit.spec.messages import Detection
from edgekit.spec.tensors import TensorSpec
from edgekit.vision.answers import detections_of
from edgekit.vision.preprocess import preprocess

BOOTSTRAP_COUNT = 200
_Z95 = 1.959964
Watch = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyDrop:
    """Accuracies 0..1; the drop in percentage points, with its 95 % interval."""

    metric: str
    picture_count: int
    before: float
    after: float
    drop_pp: float
    low_pp: float
    high_pp: float


class EvaluationSet(Protocol):
    """Pictures with the truth. Real: DetectionSet, ClassSet below; a fake is a list of answers."""

    @property
    def digests(self) -> frozenset[str]:
        """What tells its pictures apart."""

    def compare(self, before: Session, after: Session, watch: Watch) -> AccuracyDrop:
        """Score both on every picture."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetectionSet:
    """Pictures with boxes, for a detector."""

    pictures: tuple[Picture, ...]
    truths: tuple[tuple[Detection, ...], ...]
    label: str
    card: ModelCard
    """Its score threshold is the one to score with: a low one, as AP ranks all boxes."""
    model_input: TensorSpec
    digests: frozenset[str]

    def compare(self, before: Session, after: Session, watch: Watch) -> AccuracyDrop:
        """AP50 of ``label`` by both."""
        found: tuple[list[list[Detection]], list[list[Detection]]] = ([], [])
        for done, picture in enumerate(self.pictures, start=1):
            for session, answers in zip((before, after), found, strict=True):
                answers.append(self._found(session, picture))
            watch(done)
        return detection_drop(*found, self.truths, self.label)

    def _found(self, session: Session, picture: Picture) -> list[Detection]:
        height_px, width_px = self.model_input.shape[2:]
        tensor = preprocess(picture, self.card.input, height_px=height_px, width_px=width_px)
        detections = detections_of(
            session.run({self.model_input.name: tensor}),
            self.card,
            model_input=self.model_input,
            source_height_px=picture.shape[0],
            source_width_px=picture.shape[1],
        )
        return [one for one in detections if one.label == self.label]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassSet:
    """Pictures with the index of their class, for a classifier."""

    pictures: Sequence[Picture]
    labels: Sequence[int]
    card: InputCard
    model_input: TensorSpec
    digests: frozenset[str]

    def compare(self, before: Session, after: Session, watch: Watch) -> AccuracyDrop:
        """Top-1 of both."""
        right: tuple[list[bool], list[bool]] = ([], [])
        height_px, width_px = self.model_input.shape[2:]
        for done, (picture, label) in enumerate(
            zip(self.pictures, self.labels, strict=True), start=1
        ):
            tensor = preprocess(picture, self.card, height_px=height_px, width_px=width_px)
            for session, answers in zip((before, after), right, strict=True):
                (logits,) = session.run({self.model_input.name: tensor}).values()
                if label >= logits.size:
                    raise ModelError(
                        f"the model knows {logits.size} classes, the pictures have class {label}",
                        hint="evaluate on pictures of the classes it was trained for",
                    )
                answers.append(int(logits.reshape(-1).argmax()) == label)
            watch(done)
        return class_drop(*right)


def detection_drop(
    before: Sequence[Sequence[Detection]],
    after: Sequence[Sequence[Detection]],
    truths: Sequence[Sequence[Detection]],
    label: str,
    *,
    bootstrap_count: int = BOOTSTRAP_COUNT,
) -> AccuracyDrop:
    """The drop of AP50 from the boxes of one model to those of another, frame by frame.

    The interval is the middle 95 % of the drops on ``bootstrap_count`` random sets of frames.
    """

    def scores(frames: Sequence[int]) -> tuple[float, float]:
        first, second = (
            average_precision_50([found[k] for k in frames], [truths[k] for k in frames], (label,))[
                label
            ]
            for found in (before, after)
        )
        return first, second

    whole = scores(range(len(truths)))
    generator = np.random.default_rng(0)
    drops = []
    for _ in range(bootstrap_count):
        one, other = scores(generator.integers(0, len(truths), len(truths)).tolist())
        if not np.isnan(one):
            drops.append(one - other)
    low, high = np.percentile(drops, (2.5, 97.5)).tolist() if drops else (np.nan, np.nan)
    return AccuracyDrop(
        metric=f"AP50 of {label}",
        picture_count=len(truths),
        before=whole[0],
        after=whole[1],
        drop_pp=100 * (whole[0] - whole[1]),
        low_pp=100 * low,
        high_pp=100 * high,
    )


def class_drop(before: Sequence[bool], after: Sequence[bool]) -> AccuracyDrop:
    """The drop of top-1 from one model to another on the same pictures."""
    count = len(before)
    lost = sum(one and not other for one, other in zip(before, after, strict=True))
    won = sum(other and not one for one, other in zip(before, after, strict=True))
    drop = (lost - won) / count
    margin = _Z95 * sqrt(max(lost + won - (lost - won) ** 2 / count, 0.0)) / count
    return AccuracyDrop(
        metric="top-1",
        picture_count=count,
        before=sum(before) / count,
        after=sum(after) / count,
        drop_pp=100 * drop,
        low_pp=100 * (drop - margin),
        high_pp=100 * (drop + margin),
    )


def wilson_interval(right_count: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, 0..1, from ``right_count`` of ``count``."""
    share, z2 = right_count / count, _Z95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    margin = _Z95 / (1 + z2 / count) * sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, centre - margin), min(1.0, centre + margin)
