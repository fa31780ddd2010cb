"""Accuracy of a trained classifier on the whole test set, for each fusion strategy.

``python samples/classify/evaluate.py samples/classify/mnist-repvgg.pt --data ...``: the network is
folded in four ways, exported, and run in ONNX Runtime as on a device. All four and the trained
network itself must predict the same class for every image, with logits that differ by no more than
1e-5 of their range; if one does not, the exit code is 1.
"""

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import onnx
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from edgekit.builder.checkpoint import load_checkpoint
from edgekit.builder.compare import MAX_RELATIVE_ERROR
from edgekit.builder.export import export_module
from edgekit.builder.fold.torch_front import fold_module
from edgekit.builder.train.datasets import ImageSet, LabelledImages, load_image_set
from edgekit.builder.train.evaluate import Evaluation, Floats, Logits, evaluate, torch_logits
from edgekit.errors import EdgeKitError, ModelError
from edgekit.runtime.ort import OrtSession
from edgekit.spec.fusion import STRATEGIES, FusionStrategy, parse_strategy

BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One form of a network on the test set, beside the trained network in torch."""

    strategy: str
    operator_count: int
    correct_count: int
    differing_count: int
    """Images for which the trained network predicts another class."""
    max_relative_error: float
    """Of the logits."""
    duration_s: float


def onnx_form(model: nn.Module, strategy: FusionStrategy, image_shape: tuple[int, ...]) -> bytes:
    """The network folded by ``strategy``, for batches of BATCH images."""
    folded = fold_module(model, strategy=strategy)
    return export_module(folded, (BATCH, *image_shape), fold=False)


def session_logits(session: OrtSession) -> Logits:
    """A session of a fixed batch as a function of any number of images up to that."""
    name, answer = session.inputs[0].name, session.outputs[0].name

    def logits_of(inputs: Floats) -> Floats:
        filled = np.zeros((BATCH, *inputs.shape[1:]), np.float32)
        filled[: len(inputs)] = inputs
        return session.run({name: filled})[answer][: len(inputs)]

    return logits_of


def measure(
    model: nn.Module, strategy: FusionStrategy, images: LabelledImages, want: Evaluation
) -> Row:
    """One row of the table."""
    _, height, width, channels = images.pixels.shape
    data = onnx_form(model, strategy, (channels, height, width))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        session = OrtSession(path)
    start_s = time.perf_counter()
    got = evaluate(session_logits(session), images, batch_image_count=BATCH)
    return Row(
        strategy=str(strategy),
        operator_count=len(onnx.load_from_string(data).graph.node),
        correct_count=got.correct_count,
        differing_count=want.differing_count(got),
        max_relative_error=want.relative_error(got),
        duration_s=time.perf_counter() - start_s,
    )


def check_fits(model: nn.Module, images: ImageSet, weights: Path) -> None:
    """Raises: ModelError if the network was trained for other images."""
    config = model.config
    if (config.class_count, config.channel_count) != (len(images.classes), images.image_shape[0]):
        raise ModelError(
            f"{weights} knows {config.class_count} classes in {config.channel_count} channels, "
            f"the images have {len(images.classes)} in {images.image_shape[0]}",
            hint="give the images it was trained for",
        )


def show(console: Console, weights: Path, rows: list[Row], want: Evaluation) -> None:
    """Print the table."""
    total = len(want.labels)
    title = f"{weights.name}: {want.correct_count} of {total} right in torch ({want.top1:.2%})"
    columns = ("strategy", "operators", "right", "predicted otherwise", "max relative error", "s")
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(
            row.strategy, str(row.operator_count), str(row.correct_count),
            str(row.differing_count), f"{row.max_relative_error:.1e}", f"{row.duration_s:.1f}",
        )  # fmt: skip
    console.print(table)


@click.command()
@click.argument("weights", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder with train/<class>/ and test/<class>/, or a tar archive of one.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("build/classify"),
    show_default=True,
    help="For decoded images.",
)
@click.option(
    "--strategy",
    "words",
    multiple=True,
    help="One or more.  [default: all four]",
    default=[str(strategy) for strategy in STRATEGIES],
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write numbers here.")
def main(
    weights: Path, data: Path, work: Path, words: tuple[str, ...], json_path: Path | None
) -> None:
    """Top-1 accuracy on the whole test set for each fusion strategy."""
    console = Console()
    torch.set_num_threads(1)
    try:
        strategies = [parse_strategy(text) for text in words]
        model = load_checkpoint(weights)
        images = load_image_set(data, work / "images")
        check_fits(model, images, weights)
        want = evaluate(torch_logits(model), images.test, batch_image_count=BATCH)
        rows = [
            measure(model, strategy, images.test, want)
            for strategy in track(strategies, weights.name, console=Console(stderr=True))
        ]
    except EdgeKitError as error:
        raise click.ClickException(str(error)) from error
    show(console, weights, rows, want)
    if json_path is not None:
        facts = {"weights": weights.name, "test_image_count": len(want.labels),
                 "top1": want.top1, "strategies": [asdict(row) for row in rows]}  # fmt: skip
        json_path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    differing = sum(row.differing_count for row in rows)
    error = max(row.max_relative_error for row in rows)
    print(f"RESULT top1={want.top1:.4f} differing={differing} max_relative_error={error:.1e}")
    raise SystemExit(1 if differing or not error <= MAX_RELATIVE_ERROR else 0)


if __name__ == "__main__":
    main()
