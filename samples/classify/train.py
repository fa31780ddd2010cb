"""Train a classifier of the zoo: ``python samples/classify/train.py --help``; see README.md.

Stop it when you like, by Ctrl-C or by force: the same command goes on after the last whole epoch,
and ends in the same weights as if it had not been stopped.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from edgekit.builder.checkpoint import save_checkpoint
from edgekit.builder.train.augment import Augmentation
from edgekit.builder.train.datasets import ImageSet, load_image_set
from edgekit.builder.train.evaluate import evaluate, torch_logits
from edgekit.builder.train.loop import (
    EpochReport,
    StepReport,
    Watch,
    epochs_within,
    measure_epoch_s,
    pick_device,
    repeatable,
    steps_per_epoch,
    train,
)
from edgekit.builder.train.recipe import Recipe
from edgekit.builder.train.state import Training, saved_recipe
from edgekit.builder.zoo.registry import ARCHITECTURES, build
from edgekit.errors import EdgeKitError

SMALL_PX = 64
CLASSIFIERS = [name for name, entry in ARCHITECTURES.items() if entry.task == "classifier"]


def make_model(name: str, width: float, small: bool | None, seed: int, data: ImageSet) -> nn.Module:
    """A fresh network for the images at hand."""
    shape = data.image_shape
    return build(
        name,
        class_count=len(data.classes),
        width=width,
        small_input=max(shape[1:]) <= SMALL_PX if small is None else small,
        seed=seed,
        input_shape=(1, *shape),
    )


def settle_epochs(
    recipe: Recipe, minutes: float | None, state: Path, model: nn.Module, data: ImageSet,
    device: torch.device, console: Console,
) -> Recipe:  # fmt: skip
    """As many epochs as fit the time limit; those of the run that is being taken up, if any."""
    if minutes is None:
        return recipe
    saved = saved_recipe(state)
    if saved is not None:
        console.print(f"{state}: going on, {saved.epoch_count} epochs as first planned")
        return replace(recipe, epoch_count=saved.epoch_count)
    epoch_s = measure_epoch_s(model, recipe, data.train, device)
    count = epochs_within(minutes * 60, epoch_s)
    console.print(f"an epoch takes {epoch_s:.0f} s: {count} epochs fit {minutes:g} min")
    return replace(recipe, epoch_count=count)


def run(training: Training, data: ImageSet, state: Path, console: Console) -> None:
    """Train with a bar and the time that is left."""
    columns = (
        TextColumn("training"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    total = steps_per_epoch(len(data.train), training.recipe) * training.recipe.epoch_count
    with Progress(*columns, console=console, speed_estimate_period=120) as bar:
        task = bar.add_task("", total=total, completed=training.step, note="")

        def on_step(report: StepReport) -> None:
            note = f"loss {report.loss:.3f}  right {100 * report.accuracy:.1f} %"
            bar.update(task, completed=report.step, note=note)

        def on_epoch(report: EpochReport) -> None:
            bar.console.print(
                f"epoch {report.epoch} of {report.epoch_count}: loss {report.loss:.4f}, "
                f"right {100 * report.accuracy:.2f} %, {report.duration_s:.0f} s"
            )

        train(training, data.train, state, Watch(step=on_step, epoch=on_epoch))


def finish(training: Training, data: ImageSet, out: Path, console: Console) -> dict[str, Any]:
    """Write the averaged weights, and say how good they are."""
    model = training.average.cpu()
    save_checkpoint(model, out)
    result = evaluate(torch_logits(model), data.test)
    minutes = training.spent_s / 60
    console.print(
        f"{out}: {100 * result.top1:.2f} % of {len(data.test)} test images right, "
        f"{training.recipe.epoch_count} epochs in {minutes:.1f} min"
    )
    return {
        "top1": result.top1,
        "test_image_count": len(data.test),
        "epoch_count": training.recipe.epoch_count,
        "duration_s": training.spent_s,
        "parameter_count": sum(weight.numel() for weight in model.parameters()),
        "file_bytes": out.stat().st_size,
        **training.about,
    }


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder with train/<class>/ and test/<class>/, or a tar archive of one.",
)
@click.option(
    "--model", "name", type=click.Choice(CLASSIFIERS), default="repvgg-a0", show_default=True
)
@click.option("--width", type=float, default=0.25, show_default=True, help="Factor on channels.")
@click.option(
    "--small-input/--large-input",
    "small",
    default=None,
    help=f"Whether the stem keeps the size.  [default: small up to {SMALL_PX} px]",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .pt to write.")
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("build/classify"),
    show_default=True,
    help="For decoded images and the state of unfinished runs.",
)
@click.option("--epochs", type=click.IntRange(1), default=30, show_default=True)
@click.option(
    "--time-limit",
    "minutes",
    type=click.FloatRange(0, min_open=True),
    help="Minutes; as many epochs as fit, instead of --epochs.",
)
@click.option("--batch", type=click.IntRange(2), default=128, show_default=True)
@click.option("--rate", type=float, default=0.1, show_default=True, help="Peak learning rate.")
@click.option("--decay", type=float, default=5e-4, show_default=True, help="Weight decay.")
@click.option(
    "--average",
    type=float,
    default=0.998,
    show_default=True,
    help="Share of the averaged weights that a step keeps.",
)
@click.option("--shift", type=click.IntRange(0), default=4, show_default=True, help="In px.")
@click.option(
    "--crop",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Train on squares of so many px cut out of the images; 0: on whole images.",
)
@click.option(
    "--mirror/--no-mirror", default=True, show_default=True, help="Not for digits and letters."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option("--fresh", is_flag=True, help="Start again, also if a state of this run is there.")
def main(
    data: Path, name: str, width: float, small: bool | None, out: Path, work: Path, epochs: int,
    minutes: float | None, batch: int, rate: float, decay: float, average: float, shift: int,
    crop: int, mirror: bool, seed: int, threads: int, device: str, fresh: bool,
) -> None:  # fmt: skip
    """Train a classifier of the zoo on images in class folders."""
    console = Console()
    state = work / out.stem / "state.pt"
    try:
        recipe = Recipe(
            epoch_count=epochs, batch_image_count=batch, peak_rate=rate, weight_decay=decay,
            average_decay=average, seed=seed,
            augmentation=Augmentation(shift_px=shift, crop_px=crop, mirror=mirror),
        )  # fmt: skip
        place = pick_device(device)
        images = load_image_set(data, work / "images")
        if fresh:
            state.unlink(missing_ok=True)
        with repeatable(threads):
            model = make_model(name, width, small, seed, images)
            recipe = settle_epochs(recipe, minutes, state, model, images, place, console)
            about = {"network": f"{name} {model.config}", "data": images.sha256,
                     "threads": str(threads), "device": place.type}  # fmt: skip
            training = Training(model, recipe, device=place, about=about)
            if state.is_file():
                training.restore(state)
                console.print(f"{state}: going on after epoch {training.epoch}")
            run(training, images, state, console)
            facts = finish(training, images, out, console)
    except EdgeKitError as error:
        raise click.ClickException(str(error)) from error
    (state.parent / "result.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
