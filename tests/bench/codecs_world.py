"""What the codec bench runs on: detectors, frames, pictures; and how detections are compared."""

import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import cv2
import msgspec
import numpy as np

from edgekit.builder.load import load_model
from edgekit.builder.workload import workload_of
from edgekit.planner.cuts import legal_cuts
from edgekit.planner.dag import Dag
from edgekit.planner.kernel_groups import inner_names
from edgekit.runtime.ort import OrtSession
from edgekit.spec.card import ModelCard
from edgekit.spec.messages import Detection
from edgekit.spec.plan import Cut
from edgekit.spec.tensors import Array
from edgekit.vision.answers import detections_of
from edgekit.vision.cards import resolve_card
from edgekit.vision.geometry import geometry_for
from edgekit.vision.preprocess import preprocess
from edgekit.vision.sources import open_source
from tests.vision.average_precision import average_precision
from tests.world import DATA, DETECTORS, three_cuts

VIDEO = DATA / "video/vtest_pedestrians"
LOW_SCORE, SHOWN_SCORE = 0.05, 0.3
FORMATS = {
    "JPEG": (".jpg", cv2.IMWRITE_JPEG_QUALITY),
    "WebP": (".webp", cv2.IMWRITE_WEBP_QUALITY),
}
SMALL = "small "
KINDS = (*FORMATS, *(SMALL + name for name in FORMATS))
"""Small: the frame as the sender would shrink it to what the model sees."""

Found = Sequence[Sequence[Detection]]


@dataclass
class Pictures:
    """Images as compressed pictures at one quality: medians over images."""

    data: list[Array]
    nbytes: float
    encode_s: float
    decode_s: float

    def images(self) -> list[Array]:
        """What a receiver makes of them."""
        return [cv2.imdecode(one, cv2.IMREAD_COLOR) for one in self.data]


class Detector:
    """A whole model, its card, and the frames it is tried on."""

    def __init__(self, name: str, frames: list[Array]) -> None:
        (entry,) = (one for one in DETECTORS if one.name == name)
        self.name, self.path, self.frames = name, DATA / entry.model, frames
        self.loaded = load_model(self.path)
        self.workload = workload_of(self.loaded)
        session = OrtSession(self.path, optimization="extended")
        card, _ = resolve_card(
            self.path, decoder=None, inputs=session.inputs, outputs=session.outputs
        )
        output = msgspec.structs.replace(card.output, score_threshold=LOW_SCORE)
        self.card: ModelCard = msgspec.structs.replace(card, output=output)
        self.input = session.inputs[0]
        self.session = session
        self._pictures: dict[tuple[str, int], Pictures] = {}
        self._found: dict[tuple[str, int], Found] = {}

    def tensor(self, image: Array) -> Array:
        height_px, width_px = self.input.shape[2:]
        return preprocess(image, self.card.input, height_px=height_px, width_px=width_px)

    def detections(self, outputs: dict[str, Array]) -> tuple[Detection, ...]:
        height_px, width_px = self.frames[0].shape[:2]
        return detections_of(
            outputs,
            self.card,
            model_input=self.input,
            source_height_px=height_px,
            source_width_px=width_px,
        )

    def whole(self, images: Sequence[Array]) -> Found:
        """What the uncut model finds."""
        return [
            self.detections(self.session.run({self.input.name: self.tensor(image)}))
            for image in images
        ]

    def pictures(self, kind: str, quality: int) -> Pictures:
        """All frames as pictures of a kind; the small ones at the size that the model sees."""
        if (kind, quality) not in self._pictures:
            images = self.frames
            if kind.startswith(SMALL):
                images = [self._shrunk(image) for image in images]
            suffix, flag = FORMATS[kind.removeprefix(SMALL)]
            self._pictures[kind, quality] = as_pictures(images, suffix, [flag, quality])
        return self._pictures[kind, quality]

    def found_in(self, kind: str, quality: int) -> Found:
        """What the uncut model finds in frames that were such pictures."""
        if (kind, quality) not in self._found:
            self._found[kind, quality] = self.whole(self.pictures(kind, quality).images())
        return self._found[kind, quality]

    def _shrunk(self, image: Array) -> Array:
        height_px, width_px = self.input.shape[2:]
        size = geometry_for(
            self.card.input,
            source_height_px=image.shape[0],
            source_width_px=image.shape[1],
            height_px=height_px,
            width_px=width_px,
        )
        return np.asarray(cv2.resize(image, (size.resized_width_px, size.resized_height_px)))


def read_frames(first: int, count: int, step: int) -> list[Array]:
    """Frames of the video."""
    source = open_source(str(VIDEO / "vtest.mp4"), start_frame=first)
    images = [source.read().image for _ in range((count - 1) * step + 1)]
    source.close()
    return images[::step]


def labels(step: int) -> dict[int, Array]:
    """Boxes of persons by position among the frames used; frame 1 of the file is the first."""
    boxes: dict[int, list[tuple[float, ...]]] = {}
    with (VIDEO / "gt_frames1-69_480x360.csv").open() as file:
        for row in csv.DictReader(file):
            x, y, width, height = (float(row[key]) for key in ("x", "y", "w", "h"))
            index, rest = divmod(int(row["frame"]) - 1, step)
            if not rest:
                boxes.setdefault(index, []).append((x, y, x + width, y + height))
    return {index: np.array(rows) for index, rows in boxes.items()}


def as_pictures(images: Sequence[Array], suffix: str, settings: list[int]) -> Pictures:
    """All images as pictures of a format, and back, timed."""
    data, there, back = [], [], []
    for image in images:
        started_s = time.perf_counter()
        _, one = cv2.imencode(suffix, image, settings)
        middle_s = time.perf_counter()
        cv2.imdecode(one, cv2.IMREAD_COLOR)
        back.append(time.perf_counter() - middle_s)
        there.append(middle_s - started_s)
        data.append(one)
    return Pictures(data, median(one.size for one in data), median(there), median(back))


def agreement_percent(one: Found, other: Found) -> float:
    """Share of boxes that both have, of those that are shown; 100 if neither has any."""
    matched = total = 0
    for mine, theirs in zip(one, other, strict=True):
        shown = [found for found in mine if found.score >= SHOWN_SCORE]
        left = [found for found in theirs if found.score >= SHOWN_SCORE]
        total += len(shown) + len(left)
        for found in shown:
            same = [k for k in left if k.label == found.label and overlap(k.box, found.box) >= 0.5]
            if same:
                left.remove(max(same, key=lambda k: overlap(k.box, found.box)))
                matched += 1
    return 100 * 2 * matched / total if total else 100.0


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes x1 y1 x2 y2."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared) if shared else 0.0


def person_ap50(found: Found, truth: Mapping[int, Array]) -> float:
    """AP50 of persons [%]."""
    people = {index: [one for one in found[index] if one.label == "person"] for index in truth}
    return 100 * average_precision(people, truth)[0]


def distinct_cuts(detector: Detector) -> list[Cut]:
    """``tests.world.three_cuts``; where its early and late cut are one, another late one beside."""
    chosen = list(dict.fromkeys(three_cuts(detector.path)))
    workload = detector.workload
    inner = inner_names(Dag(workload))
    others = [cut for cut in legal_cuts(workload).cuts if inner.isdisjoint(cut.names)]
    others.sort(key=lambda cut: abs(cut.work_flop_before - 0.7 * workload.work_flop))
    return [*chosen, *(cut for cut in others if cut not in chosen)][:3]
