"""How well the yard detector sees scenes new to it: ``python samples/yard/evaluate.py``.

The trained weights are folded to ONNX and run in ONNX Runtime, as on a device, on frames of the
held-out scenes with seeds 1, 2, 3, ... Prints AP50 per class and for small objects.
"""

import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
import onnx
from rich.console import Console
from rich.progress import track
from rich.table import Table

from edgekit.builder.evaluate import average_precision_50
from edgekit.builder.load import load_model
from edgekit.errors import EdgeKitError
from edgekit.runtime.ort import OrtSession
from edgekit.spec.base import load
from edgekit.spec.card import ModelCard
from edgekit.spec.messages import Detection
from edgekit.vision.answers import detections_of
from edgekit.vision.preprocess import preprocess
from edgekit.vision.scene.surfaces import Image
from edgekit.vision.scene.yard import FIRST_TRAINING_SEED, LABELS, YardScene

HERE = Path(__file__).parent
FRAMES_PER_SCENE = 8
FRAME_STEP = 151
"""Frames of one scene are taken 5 s apart: everybody has moved on."""
LEAST_SCORE = 0.01
"""Average precision looks at all scores, not only those above the card's threshold."""
SIZES_PX2 = {
    "all": (0.0, math.inf),
    "up to 8 px": (0.0, 8.0**2),
    "8 to 12 px": (8.0**2, 12.0**2),
    "12 to 24 px": (12.0**2, 24.0**2),
    "over 24 px": (24.0**2, math.inf),
}
"""By the square root of the box's area."""

Boxes = tuple[Detection, ...]


class Detector:
    """The sample's model as it runs on a device."""

    def __init__(self, weights: Path, card: ModelCard) -> None:
        model = load_model(weights)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "yard.onnx"
            onnx.save(model.proto, path)
            self._session = OrtSession(path)
        self._card = card
        self._input = self._session.inputs[0]

    def detect(self, image: Image) -> Boxes:
        """Boxes in one frame."""
        _, _, height, width = self._input.shape
        tensor = preprocess(image, self._card.input, height_px=height, width_px=width)
        return detections_of(
            self._session.run({self._input.name: tensor}),
            self._card,
            model_input=self._input,
            source_height_px=image.shape[0],
            source_width_px=image.shape[1],
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was found and what was there, frame by frame."""

    found: list[Boxes]
    truth: list[Boxes]

    def precisions(self) -> dict[str, dict[str, float]]:
        """AP50 by size and label."""
        return {
            size: average_precision_50(self.found, self.truth, LABELS, area_px2=area)
            for size, area in SIZES_PX2.items()
        }

    def counts(self) -> dict[str, dict[str, int]]:
        """How many true boxes each of them is about."""
        return {
            size: {
                label: sum(
                    detection.label == label and low <= _area_px2(detection) < high
                    for frame in self.truth
                    for detection in frame
                )
                for label in LABELS
            }
            for size, (low, high) in SIZES_PX2.items()
        }


def _area_px2(detection: Detection) -> float:
    x1, y1, x2, y2 = detection.box
    return (x2 - x1) * (y2 - y1)


def evaluate(weights: Path, frame_count: int, first_seed: int = 1) -> Evaluation:
    """Run the detector on ``frame_count`` held-out frames."""
    card = load(HERE / "yard.toml", ModelCard)
    output = msgspec.structs.replace(card.output, score_threshold=LEAST_SCORE)
    detector = Detector(weights, msgspec.structs.replace(card, output=output))
    result = Evaluation([], [])
    scene = None
    for index in track(range(frame_count), "evaluating", console=Console(stderr=True)):
        seed, number = divmod(index, FRAMES_PER_SCENE)
        if scene is None or scene.seed != first_seed + seed:
            scene = YardScene(first_seed + seed)
        image, truth = scene.render(number * FRAME_STEP)
        result.found.append(detector.detect(image))
        result.truth.append(truth)
    return result


def render(console: Console, evaluation: Evaluation, frame_count: int, spent_s: float) -> None:
    """Print a table."""
    table = Table("AP50", *LABELS, title=f"{frame_count} held-out frames, {spent_s:.0f} s")
    counts = evaluation.counts()
    for size, by_label in evaluation.precisions().items():
        cells = (f"{by_label[label]:.3f}  ({counts[size][label]} boxes)" for label in LABELS)
        table.add_row(size, *cells)
    console.print(table)


@click.command()
@click.option("--weights", type=click.Path(path_type=Path), default=HERE / "yard.pt")
@click.option("--frames", type=click.IntRange(1), default=400, show_default=True)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write the numbers here."
)
def main(weights: Path, frames: int, json_path: Path | None) -> None:
    """AP50 per class of the yard detector on held-out scenes."""
    start_s = time.monotonic()
    console = Console()
    try:
        evaluation = evaluate(weights, frames)
    except EdgeKitError as error:
        raise click.ClickException(str(error)) from error
    render(console, evaluation, frames, time.monotonic() - start_s)
    precisions = evaluation.precisions()
    if json_path is not None:
        last_seed = 1 + (frames - 1) // FRAMES_PER_SCENE
        assert last_seed < FIRST_TRAINING_SEED
        result = {
            "frames": frames,
            "seeds": [1, last_seed],
            # JSON has no nan: null where no box of that size was there.
            "ap50": {
                size: {label: None if math.isnan(ap) else ap for label, ap in row.items()}
                for size, row in precisions.items()
            },
            "boxes": evaluation.counts(),
        }
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    overall = precisions["all"]
    print("RESULT " + " ".join(f"ap50_{label}={overall[label]:.4f}" for label in LABELS))


if __name__ == "__main__":
    main()
