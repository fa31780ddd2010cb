"""What the comparisons run on: labelled frames, detectors, and fleets slowed down to suit.

In:  ../shared/data, samples/yard, weights of ``versus_cells`` where they lie.  Out: Workloads
(pictures in a folder, truth about each, a model, its card) and fleets.
Frames lie in a cache folder, so that filming one costs the same whatever they show: PNG where
they are rendered or come from a video, the JPEG files themselves where a data set holds those.
"""

import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np

from edgekit.builder.evaluate import average_precision_50
from edgekit.builder.load import load_model
from edgekit.errors import ConfigError
from edgekit.spec.base import load
from edgekit.spec.card import ModelCard
from edgekit.spec.fleet import Fleet
from edgekit.spec.messages import AnswerReport, Detection
from edgekit.spec.tensors import Array
from edgekit.vision.cards import resolve_card
from edgekit.vision.scene.yard import YardScene
from edgekit.vision.sources import open_source
from tests.world import DATA

ROOT = Path(__file__).parents[2]
LOW_SCORE = 0.05
"""Average precision looks at low scores too; the same for every method."""
CLOUD = "tx2-rtx4090"
CLOUD_RATIO = 6.0
"""Of this machine's core to the TX2 there: the paper's 124 would leave one frame of the TX2 in two
seconds, and this machine cannot be faster than itself."""
FLEETS = ("nano-nx", "tx1-nx", "tx2-nx", CLOUD)
STRONG_MS = 70.0
"""About what a frame of the whole model takes on the stronger device of a fleet of boards."""
PASSES_MS = {"yard": 18.0, "vtest": 27.0, "coco": 17.0, "cells": 5.5}
"""What it takes on the machine for which the slowdowns were chosen; nothing is measured by it."""
_DONE, _TRUTH = "complete", "truth.data"
_YARD_SCENES, _YARD_FRAMES, _YARD_STEP = 24, 4, 307
_PERSON = ("person",)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Frames with truth, and the detector that looks at them."""

    name: str
    detector: str
    model: Path
    card: ModelCard
    folder: Path
    truth: tuple[tuple[Detection, ...], ...]
    """Of each picture, in the order of the file names."""
    labels: tuple[str, ...]
    """That are counted."""

    def source(self, count: int, options: str = "mode=every") -> str:
        """The URI of ``count`` frames, again from the first where there are fewer."""
        return f"images:{self.folder}?loop=1&frames={count}&{options}"

    @property
    def picture(self) -> Path:
        """One of the frames."""
        return sorted(path for path in self.folder.iterdir() if path.name not in (_DONE, _TRUTH))[0]

    def ap50_percent(self, reports: Sequence[AnswerReport]) -> dict[str, float]:
        """AP50 of each label [%] over the first pass; a picture without an answer found nothing.

        Empty if the answers do not reach through all pictures.
        """
        found = {one.frame: one.detections for one in reports if one.frame < len(self.truth)}
        if not reports or max(one.frame for one in reports) < len(self.truth) - 1:
            return {}
        answers = [found.get(frame, ()) for frame in range(len(self.truth))]
        precisions = average_precision_50(answers, self.truth, self.labels)
        return {label: round(100 * value, 2) for label, value in precisions.items()}


def workload_of(name: str, cache: Path, cells: Path) -> Workload:
    """One of WORKLOADS; ``cells`` is where ``versus_cells`` left its weights."""
    return WORKLOADS[name](cache / f"versus-{name}", cells)


def why_missing(name: str, cells: Path) -> str:
    """Why a workload cannot be run, or an empty string."""
    if name == "cells" and not (cells / "cells.pt").exists():
        return f"no detector in {cells}: run `python tests/bench/versus_cells.py --out {cells}`"
    if name != "yard" and not DATA.is_dir():
        return "needs ../shared/data"
    return ""


def fleet_for(name: str, workload: str, *, slower: int = 1) -> Fleet:
    """A fleet of the paper, as slow as a frame of this workload needs to take some time.

    Boards: the stronger one is this machine divided by a whole number. The cloud is this machine.
    ``slower``: so many times slower still, where other work on the machine would disturb.
    """
    fleet = load(ROOT / f"tests/testbed/fleets/{name}.toml", Fleet)
    if name == CLOUD:
        weak, strong = fleet.device
        strong = msgspec.structs.replace(strong, relative_speed=CLOUD_RATIO * weak.relative_speed)
        host_speed = slower * strong.relative_speed
        return msgspec.structs.replace(fleet, device=(weak, strong), host_speed=host_speed)
    fastest = max(device.relative_speed for device in fleet.device)
    times = max(1, round(STRONG_MS / PASSES_MS[workload]))
    return msgspec.structs.replace(fleet, host_speed=slower * times * fastest)


def emulated(fleet: Fleet) -> str:
    """Such as "nano = host / 14.3, nx = host / 4"."""
    return ", ".join(f"{one.name} = host / {fleet.slowdown(one):.3g}" for one in fleet.device)


def _yard(folder: Path, cells: Path) -> Workload:
    def frames() -> list[Array]:
        scenes = [YardScene(seed) for seed in range(1, _YARD_SCENES + 1)]
        rendered = [scene.render(k * _YARD_STEP) for scene in scenes for k in range(_YARD_FRAMES)]
        truth = [boxes for _, boxes in rendered]
        (folder / _TRUTH).write_bytes(msgspec.json.encode(truth))
        return [image for image, _ in rendered]

    _write(folder, frames)
    truth = msgspec.json.decode(
        (folder / _TRUTH).read_bytes(), type=tuple[tuple[Detection, ...], ...]
    )
    card = load(ROOT / "samples/yard/yard.toml", ModelCard)
    return Workload(
        name="yard",
        detector="Table VI, width 1/4, 640x416",
        model=ROOT / "samples/yard/yard.pt",
        card=_low(card),
        folder=folder,
        truth=truth,
        labels=card.labels,
    )


def _vtest(folder: Path, cells: Path) -> Workload:
    video = DATA / "video/vtest_pedestrians"
    truth: dict[int, list[Detection]] = {}
    with (video / "gt_frames1-69_480x360.csv").open() as file:
        for row in csv.DictReader(file):
            x, y, width, height = (float(row[key]) for key in ("x", "y", "w", "h"))
            person = Detection(label="person", score=1.0, box=(x, y, x + width, y + height))
            truth.setdefault(int(row["frame"]) - 1, []).append(person)
    count = max(truth) + 1

    def frames() -> list[Array]:
        source = open_source(str(video / "vtest.mp4"))
        try:
            return [source.read().image for _ in range(count)]
        finally:
            source.close()

    _write(folder, frames)
    return _pretrained(
        "vtest", "YOLOX-nano 416", "models/yolox_nano/yolox_nano_416x416.onnx", folder,
        tuple(tuple(truth.get(index, ())) for index in range(count)),
    )  # fmt: skip


def _coco(folder: Path, cells: Path) -> Workload:
    data = DATA / "datasets/coco_val2017_subset"
    names = [path.stem for path in sorted((data / "labels_person").glob("*.txt"))]
    _copy(folder, [data / f"images/{name}.jpg" for name in names])
    truth = []
    for name in names:
        height_px, width_px = picture_of(folder / f"{name}.jpg").shape[:2]
        lines = (data / f"labels_person/{name}.txt").read_text().splitlines()
        rows = [[float(word) for word in line.split()[1:5]] for line in lines if line.strip()]
        truth.append(tuple(_person(row, width_px, height_px) for row in rows))
    return _pretrained(
        "coco", "NanoDet-m 320", "models/nanodet_m/nanodet_m_320.onnx", folder, tuple(truth)
    )


def _cells(folder: Path, cells: Path) -> Workload:
    from tests.bench.versus_cells import BCCD, CARD_FILE, SCALE, WEIGHTS, boxes_of, names_of

    names = sorted(names_of("test"))

    def frames() -> list[Array]:
        images = [picture_of(BCCD / f"JPEGImages/{name}.jpg") for name in names]
        return [
            cv2.resize(image, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_AREA)
            for image in images
        ]

    _write(folder, frames)
    card = load(cells / CARD_FILE, ModelCard)
    return Workload(
        name="cells",
        detector="Table VI, width 1/4, 320x256",
        model=cells / WEIGHTS,
        card=_low(card),
        folder=folder,
        truth=tuple(tuple(_scaled(box, SCALE) for box in boxes_of(name)) for name in names),
        labels=card.labels,
    )


WORKLOADS: dict[str, Callable[[Path, Path], Workload]] = {
    "yard": _yard,
    "vtest": _vtest,
    "coco": _coco,
    "cells": _cells,
}


def _pretrained(
    name: str, detector: str, path: str, folder: Path, truth: tuple[tuple[Detection, ...], ...]
) -> Workload:
    model = DATA / path
    loaded = load_model(model)
    card, _ = resolve_card(model, decoder=None, inputs=loaded.inputs, outputs=loaded.outputs)
    return Workload(
        name=name, detector=detector, model=model, card=_low(card), folder=folder, truth=truth,
        labels=_PERSON,
    )  # fmt: skip


def picture_of(path: Path) -> Array:
    """As BGR. Raises: ConfigError if it is no picture."""
    image = cv2.imread(str(path))
    if image is None:
        raise ConfigError(f"{path} is no picture", hint="fetch ../shared/data again")
    return np.asarray(image, np.uint8)


def _low(card: ModelCard) -> ModelCard:
    output = msgspec.structs.replace(card.output, score_threshold=LOW_SCORE)
    return msgspec.structs.replace(card, output=output)


def _person(row: Sequence[float], width_px: int, height_px: int) -> Detection:
    """From YOLO's centre and size as shares of the picture."""
    x, y, width, height = row
    corners = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    x1, y1, x2, y2 = (corners * (width_px, height_px, width_px, height_px)).tolist()
    return Detection(label="person", score=1.0, box=(x1, y1, x2, y2))


def _scaled(one: Detection, factor: float) -> Detection:
    x1, y1, x2, y2 = (factor * value for value in one.box)
    return msgspec.structs.replace(one, box=(x1, y1, x2, y2))


def _write(folder: Path, frames: Callable[[], Sequence[Array]]) -> None:
    """Frames as PNG files, packed lightly so that reading them is quick; once."""
    if (folder / _DONE).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, image in enumerate(frames()):
        path = str(folder / f"{number:05}.png")
        cv2.imwrite(path, image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    (folder / _DONE).touch()


def _copy(folder: Path, paths: Sequence[Path]) -> None:
    if (folder / _DONE).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in paths:
        shutil.copyfile(path, folder / path.name)
    (folder / _DONE).touch()
