"""What the benches of quantization run on: real networks, frames, truths, and how rows are scored.

A Subject is one network with its calibration frames and its held-out set. Answers are taken once
per session and compared afterwards, so fp32 runs once for all rows beside it.
"""

import csv
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import msgspec
import numpy as np
import onnx

from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import to_bytes
from edgekit.builder.quantize.agreement import overlap
from edgekit.builder.quantize.evaluation_sets import class_set, detection_set
from edgekit.builder.quantize.frames import CalibrationFrames, digest_of, image_input
from edgekit.builder.quantize.score import AccuracyDrop, ClassSet, DetectionSet, class_drop
from edgekit.builder.train.augment import PIXEL_MEAN, PIXEL_SCALE, PIXEL_STD
from edgekit.builder.train.datasets import load_image_set
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import Session
from edgekit.spec.base import load
from edgekit.spec.card import InputCard, ModelCard
from edgekit.spec.messages import Detection
from edgekit.vision.answers import detections_of
from edgekit.vision.cards import resolve_card
from edgekit.vision.preprocess import preprocess
from edgekit.vision.scene.yard import YardScene
from edgekit.vision.sources import open_source
from tests.world import DATA

COCO = DATA / "datasets/coco_val2017_subset"
CIFAR = DATA / "datasets/cifar10_jpeg"
VTEST = DATA / "video/vtest_pedestrians"
SAMPLES = Path(__file__).parents[2] / "samples"
YOLOX = DATA / "models/yolox_nano/yolox_nano_416x416.onnx"
NANODET = DATA / "models/nanodet_m/nanodet_m_320.onnx"
RESNETS = DATA / "models/resnet_cifar10"
OURS = InputCard(
    resize="stretch", color="rgb", scale=PIXEL_SCALE, mean=(PIXEL_MEAN,) * 3, std=(PIXEL_STD,) * 3
)
IMAGENET = InputCard(
    resize="stretch", color="rgb", scale=1 / 255, mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)  # fmt: skip
CALIBRATION_COUNT = 48
BOOTSTRAP_COUNT = 1000
SMALL_SIDE_PX = 12.0
"""A box is small below it: the root of its area. The yard has 1592 such helmets in 400 frames."""
_LOW_SCORE = 0.05

Answers = Sequence[Any]
Pictures = Sequence[np.ndarray]


class Scorer(Protocol):
    """A held-out set: answers of a session, and what one loses against another."""

    @property
    def digests(self) -> frozenset[str]:
        """What tells its pictures apart."""

    def answers(self, session: Session) -> Answers:
        """One answer per picture."""

    def drop(self, before: Answers, after: Answers) -> AccuracyDrop:
        """The accuracy of both and the interval of the difference."""

    def compare(
        self, before: Session, after: Session, watch: Callable[[int], None]
    ) -> AccuracyDrop:
        """As the gate asks for it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """One network to quantize."""

    name: str
    loaded: LoadedModel
    card: ModelCard | None
    frames: CalibrationFrames
    scorer: Scorer


@dataclass(frozen=True, eq=False)
class Classes:
    """Top-1 on the pictures of a ClassSet."""

    of: ClassSet

    @property
    def digests(self) -> frozenset[str]:
        return self.of.digests

    def answers(self, session: Session) -> Answers:
        """Whether each picture was classified rightly."""
        height_px, width_px = self.of.model_input.shape[2:]
        right = []
        for picture, label in zip(self.of.pictures, self.of.labels, strict=True):
            tensor = preprocess(picture, self.of.card, height_px=height_px, width_px=width_px)
            (logits,) = session.run({self.of.model_input.name: tensor}).values()
            right.append(int(logits.argmax()) == label)
        return right

    def drop(self, before: Answers, after: Answers) -> AccuracyDrop:
        """With the interval of matched pairs."""
        return class_drop(before, after)

    def compare(
        self, before: Session, after: Session, watch: Callable[[int], None]
    ) -> AccuracyDrop:
        return self.drop(self.answers(before), self.answers(after))


@dataclass(frozen=True, eq=False)
class Boxes:
    """AP50 on the pictures of a DetectionSet, of boxes up to a size."""

    of: DetectionSet
    most_area_px2: float = float("inf")

    @property
    def digests(self) -> frozenset[str]:
        return self.of.digests

    def answers(self, session: Session) -> Answers:
        """What was found in each picture, matched with its truth."""
        height_px, width_px = self.of.model_input.shape[2:]
        matched = []
        for picture, truth in zip(self.of.pictures, self.of.truths, strict=True):
            tensor = preprocess(picture, self.of.card.input, height_px=height_px, width_px=width_px)
            found = detections_of(
                session.run({self.of.model_input.name: tensor}),
                self.of.card,
                model_input=self.of.model_input,
                source_height_px=picture.shape[0],
                source_width_px=picture.shape[1],
            )
            boxes = [[one for one in side if one.label == self.of.label] for side in (found, truth)]
            matched.append(match(*boxes, self.most_area_px2))
        return matched

    def drop(self, before: Answers, after: Answers) -> AccuracyDrop:
        """With the interval of a paired bootstrap over pictures."""
        generator = np.random.default_rng(0)
        count = len(before)
        drops = []
        for _ in range(BOOTSTRAP_COUNT):
            chosen = generator.integers(0, count, count).tolist()
            one, other = (ap50([side[k] for k in chosen]) for side in (before, after))
            drops.append(one - other)
        low, high = np.nanpercentile(drops, (2.5, 97.5)).tolist()
        one, other = ap50(before), ap50(after)
        small = "" if np.isinf(self.most_area_px2) else f" under {self.most_area_px2**0.5:g} px"
        return AccuracyDrop(
            metric=f"AP50 of {self.of.label}{small}", picture_count=count, before=one, after=other,
            drop_pp=100 * (one - other), low_pp=100 * low, high_pp=100 * high,
        )  # fmt: skip

    def compare(
        self, before: Session, after: Session, watch: Callable[[int], None]
    ) -> AccuracyDrop:
        return self.drop(self.answers(before), self.answers(after))


@dataclass(frozen=True, slots=True)
class Matched:
    """Boxes found in one picture, those left out that count neither way. Shapes: (found,) each."""

    scores: np.ndarray
    hits: np.ndarray
    truth_count: int


def match(
    found: Sequence[Detection], truth: Sequence[Detection], most_area_px2: float = float("inf")
) -> Matched:
    """COCO's rule at an overlap of one half: best scores first, each truth once; truths that are
    too large, what finds them, and what is too large and finds nothing, do not count.
    """
    sizes = [_area_px2(one) for one in truth]
    order = sorted(range(len(truth)), key=lambda k: sizes[k] >= most_area_px2)
    taken: set[int] = set()
    scores, hits = [], []
    for one in sorted(found, key=lambda box: -box.score):
        best, best_overlap = -1, 0.5
        for k in order:
            if k in taken:
                continue
            if best >= 0 and sizes[best] < most_area_px2 <= sizes[k]:
                break
            share = overlap(one.box, truth[k].box)
            if share >= best_overlap:
                best, best_overlap = k, share
        if best >= 0:
            taken.add(best)
        ignored = (sizes[best] if best >= 0 else _area_px2(one)) >= most_area_px2
        if not ignored:
            scores.append(one.score)
            hits.append(best >= 0)
    return Matched(
        np.array(scores), np.array(hits, bool), sum(size < most_area_px2 for size in sizes)
    )


def ap50(pictures: Sequence[Matched]) -> float:
    """COCO's AP at 101 recalls over all pictures together."""
    scores = np.concatenate([one.scores for one in pictures])
    hits = np.concatenate([one.hits for one in pictures])
    truth_count = sum(one.truth_count for one in pictures)
    if not truth_count:
        return float("nan")
    right = np.cumsum(hits[np.argsort(-scores, kind="stable")])
    if not len(right):
        return 0.0
    precision = right / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / truth_count, np.linspace(0, 1, 101), side="left")
    return float(np.append(envelope, 0.0)[np.minimum(places, len(envelope))].mean())


def _area_px2(one: Detection) -> float:
    x1, y1, x2, y2 = one.box
    return (x2 - x1) * (y2 - y1)


def session_of(proto: onnx.ModelProto) -> OrtSession:
    """A graph as a device would load it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(to_bytes(proto))
        return OrtSession(path)


def classifier(
    name: str, path: Path, card: InputCard, home: Path, at_most: int | None = None
) -> Subject:
    """Calibrated on training pictures of CIFAR-10, scored on test pictures."""
    loaded = load_model(path)
    given = image_input(loaded)
    training = load_image_set(CIFAR, home / "cache").train.pixels
    chosen = np.linspace(0, len(training) - 1, CALIBRATION_COUNT).astype(int)
    pictures = [np.ascontiguousarray(training[k][..., ::-1]) for k in chosen]
    held_out = class_set(CIFAR, card, given, home / "cache", at_most=at_most)
    return Subject(
        name=name, loaded=loaded, card=None, frames=as_frames(pictures, card, loaded),
        scorer=Classes(held_out),
    )  # fmt: skip


def coco_detector(name: str, path: Path) -> Subject:
    """Calibrated on the pictures without labelled persons, scored on those with."""
    loaded, card = _detector(path)
    labelled = {one.stem for one in (COCO / "labels_person").glob("*.txt")}
    unlabelled = [
        cv2.imread(str(one))
        for one in sorted((COCO / "images").glob("*.jpg"))
        if one.stem not in labelled
    ]
    held_out = detection_set(COCO, card, image_input(loaded))
    return Subject(
        name=name, loaded=loaded, card=card, frames=as_frames(unlabelled, card.input, loaded),
        scorer=Boxes(held_out),
    )  # fmt: skip


def vtest_detector(name: str, path: Path) -> Subject:
    """Calibrated on later frames of the video, scored on its 69 labelled ones."""
    loaded, card = _detector(path)
    source = open_source(str(VTEST / "vtest.mp4"), start_frame=0)
    frames = [source.read().image for _ in range(795)]
    source.close()
    later = [frames[k] for k in np.linspace(150, 794, CALIBRATION_COUNT).astype(int)]
    return Subject(
        name=name, loaded=loaded, card=card, frames=as_frames(later, card.input, loaded),
        scorer=vtest_scorer(loaded, card, frames[:69]),
    )  # fmt: skip


def vtest_scorer(loaded: LoadedModel, card: ModelCard, pictures: Pictures | None = None) -> Boxes:
    """The labelled frames of the video."""
    if pictures is None:
        source = open_source(str(VTEST / "vtest.mp4"), start_frame=0)
        pictures = [source.read().image for _ in range(69)]
        source.close()
    truths: list[list[Detection]] = [[] for _ in pictures]
    with (VTEST / "gt_frames1-69_480x360.csv").open() as file:
        for row in csv.DictReader(file):
            x, y, width, height = (float(row[key]) for key in ("x", "y", "w", "h"))
            box = (x, y, x + width, y + height)
            truths[int(row["frame"]) - 1].append(Detection(label="person", score=1.0, box=box))
    return Boxes(_held_out(pictures, truths, "person", _ranking(card), loaded))


def yard_detector(name: str, scene_count: int) -> Subject:
    """The detector of samples/yard: calibrated on scenes 501 to 506, scored on 1, 2, ..."""
    loaded = load_model(SAMPLES / "yard/yard.pt")
    card = load(SAMPLES / "yard/yard.toml", ModelCard)
    seen = [image for image, _ in _yard(range(501, 507))]
    scenes = list(_yard(range(1, 1 + scene_count)))
    held_out = _held_out(
        [image for image, _ in scenes], [truth for _, truth in scenes], "helmet", _ranking(card),
        loaded,
    )  # fmt: skip
    return Subject(
        name=name, loaded=loaded, card=card, frames=as_frames(seen, card.input, loaded),
        scorer=Boxes(held_out, SMALL_SIDE_PX**2),
    )  # fmt: skip


def as_frames(pictures: Pictures, card: InputCard, loaded: LoadedModel) -> CalibrationFrames:
    """Pictures as the network reads them."""
    height_px, width_px = image_input(loaded).shape[2:]
    return CalibrationFrames(
        tensors=tuple(
            preprocess(one, card, height_px=height_px, width_px=width_px) for one in pictures
        ),
        digests=frozenset(map(digest_of, pictures)),
        uri="pictures of the bench",
    )


def _yard(seeds: Sequence[int]) -> Iterator[tuple[np.ndarray, tuple[Detection, ...]]]:
    """Eight frames of each scene, five seconds apart."""
    for seed in seeds:
        scene = YardScene(seed)
        for number in range(8):
            yield scene.render(151 * number)


def _detector(path: Path) -> tuple[LoadedModel, ModelCard]:
    loaded = load_model(path)
    card, _ = resolve_card(path, decoder=None, inputs=loaded.inputs, outputs=loaded.outputs)
    return loaded, card


def _ranking(card: ModelCard) -> ModelCard:
    """The card with a score threshold that AP can rank below."""
    output = msgspec.structs.replace(card.output, score_threshold=_LOW_SCORE)
    return msgspec.structs.replace(card, output=output)


def _held_out(
    pictures: Pictures, truths: Sequence[Sequence[Detection]], label: str, card: ModelCard,
    loaded: LoadedModel,
) -> DetectionSet:  # fmt: skip
    return DetectionSet(
        pictures=tuple(pictures),
        truths=tuple(tuple(one) for one in truths),
        label=label,
        card=card,
        model_input=image_input(loaded),
        digests=frozenset(map(digest_of, pictures)),
    )
