"""The epoch loop: shuffled batches through a Training, its state on disk after each epoch.

In:  a Training, labelled images, and the path of the state.  Out: the trained weights inside the
Training; progress through callbacks.  Order and variations of an epoch follow from seed and epoch
alone, so a run that was killed and started again ends in the same weights.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekit.builder.train.augment import augment, to_input
from edgekit.builder.train.datasets import LabelledImages
from edgekit.builder.train.recipe import Recipe
from edgekit.builder.train.state import Training, check_finite
from edgekit.errors import ConfigError

log = logging.getLogger(__name__)

_REPORT_STEPS = 10
_RESERVE_SHARE = 0.1
"""Part of a time limit that is kept for starting up and for a machine that gets busier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """Where a training is: ``loss`` and ``accuracy`` are means over the epoch so far."""

    epoch: int
    step: int
    step_count: int
    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """One finished epoch. ``accuracy`` is on varied training images, so it is a low estimate."""

    epoch: int
    epoch_count: int
    loss: float
    accuracy: float
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who is told about progress; the defaults keep quiet."""

    step: Callable[[StepReport], None] = lambda report: None
    epoch: Callable[[EpochReport], None] = lambda report: None


@contextmanager
def repeatable(thread_count: int | None = None) -> Iterator[None]:
    """Only algorithms that give the same bits each time, and so many threads; undone at the end.

    On CUDA torch warns of an operator that has no such algorithm (max-pooling, backwards); on a CPU
    there is none in the zoo.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA asks for it
    torch.use_deterministic_algorithms(True, warn_only=True)
    if thread_count is not None:
        torch.set_num_threads(thread_count)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])


def pick_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda``. Raises: ConfigError if torch sees no such device."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"there is no device {name!r}", hint="use auto, cpu or cuda")
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ConfigError("torch sees no CUDA device", hint="use --device cpu")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def steps_per_epoch(image_count: int, recipe: Recipe) -> int:
    """Whole batches in an epoch; the images left over are other ones in each epoch."""
    return max(image_count // recipe.batch_image_count, 1)


def train(training: Training, images: LabelledImages, state_path: Path, watch: Watch) -> None:
    """Train to the last epoch of the recipe, from where ``training`` is.

    Raises: ConfigError if the loss is no longer finite, or the state cannot be written.
    """
    recipe = training.recipe
    pixels = torch.from_numpy(images.pixels).to(training.device)
    labels = torch.from_numpy(images.labels).to(training.device)
    while training.epoch < recipe.epoch_count:
        start_s = time.perf_counter()
        last = _epoch(training, pixels, labels, watch)
        duration_s = time.perf_counter() - start_s
        training.epoch += 1
        training.spent_s += duration_s
        training.save(state_path)
        report = EpochReport(
            epoch=training.epoch,
            epoch_count=recipe.epoch_count,
            loss=last.loss,
            accuracy=last.accuracy,
            duration_s=duration_s,
        )
        watch.epoch(report)
        log.info(
            "epoch %d of %d: loss=%.4f train_accuracy=%.4f seconds=%.1f",
            report.epoch, report.epoch_count, report.loss, report.accuracy, report.duration_s,
        )  # fmt: skip


def _epoch(training: Training, pixels: Tensor, labels: Tensor, watch: Watch) -> StepReport:
    per_epoch = steps_per_epoch(len(labels), training.recipe)
    step_count = per_epoch * training.recipe.epoch_count
    losses = torch.zeros((), device=training.device)
    right = torch.zeros((), dtype=torch.int64, device=training.device)
    seen = 0
    for number, (inputs, kinds) in enumerate(epoch_batches(training, pixels, labels), start=1):
        loss, correct = training.advance(inputs, kinds, step_count)
        losses += loss
        right += correct
        seen += len(kinds)
        if number % _REPORT_STEPS == 0 or number == per_epoch:
            report = StepReport(
                epoch=training.epoch,
                step=training.step,
                step_count=step_count,
                loss=float(losses) / number,
                accuracy=int(right) / seen,
            )
            check_finite(report.loss, training.step)
            watch.step(report)
    return report


def epoch_batches(
    training: Training, pixels: Tensor, labels: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of the epoch that ``training`` is at, shuffled and varied.

    Shapes: pixels (N, H, W, C) uint8, labels (N,). Yields: inputs (B, C, H, W), labels (B,).
    """
    recipe = training.recipe
    generator = torch.Generator().manual_seed(recipe.seed * 100_003 + training.epoch)
    order = torch.randperm(len(labels), generator=generator).to(pixels.device)
    for number in range(steps_per_epoch(len(labels), recipe)):
        start = number * recipe.batch_image_count
        chosen = order[start : start + recipe.batch_image_count]
        varied = augment(pixels[chosen], recipe.augmentation, generator)
        yield to_input(varied), labels[chosen]


def measure_epoch_s(
    model: nn.Module,
    recipe: Recipe,
    images: LabelledImages,
    device: torch.device,
    *,
    steps: int = 8,
) -> float:
    """How long an epoch takes now, from a few steps on a copy of ``model``; moves no generator."""
    count = min(len(images), recipe.batch_image_count * steps)
    pixels = torch.from_numpy(images.pixels[:count]).to(device)
    labels = torch.from_numpy(images.labels[:count]).to(device)
    spent_s: list[float] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        training = Training(deepcopy(model), recipe, device=device)
        start_s = time.perf_counter()
        for inputs, kinds in epoch_batches(training, pixels, labels):
            loss, _ = training.advance(inputs, kinds, step_count=steps)
            float(loss)  # waits for a GPU
            spent_s.append(time.perf_counter() - start_s)
            start_s = time.perf_counter()
    usual_s = sorted(spent_s[1:] or spent_s)[len(spent_s[1:]) // 2]  # the first one warms up
    return usual_s * steps_per_epoch(len(images), recipe)


def epochs_within(limit_s: float, epoch_s: float) -> int:
    """Whole epochs that fit a time limit with a tenth of it in reserve.

    Raises: ConfigError if not even one does.
    """
    count = math.floor(limit_s * (1 - _RESERVE_SHARE) / epoch_s)
    if count < 1:
        raise ConfigError(
            f"one epoch takes {epoch_s / 60:.1f} min, more than the limit of "
            f"{limit_s / 60:.1f} min leaves",
            hint="allow more time, or choose a smaller --width",
        )
    return count
