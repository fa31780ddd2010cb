"""Train the yard detector on generated scenes: ``python samples/yard/train.py``.

Some 20 minutes of one core, after two minutes of rendering. The same seed, steps, batch, scenes and
threads give the same weights on the same machine and library versions; another number of threads
sums in another order. Interrupted? Run it again with ``--resume``.
"""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from yard_frames import Batch, LabelledFrame, draw_batch, render_scenes
from yard_loss import detection_loss

from edgekit.builder.checkpoint import save_checkpoint
from edgekit.builder.zoo.cells import cell_grid, corner_boxes, flat_levels
from edgekit.builder.zoo.table6 import Table6Detector
from edgekit.errors import ConfigError, EdgeKitError
from edgekit.spec.base import load
from edgekit.spec.card import ModelCard
from edgekit.vision.scene.yard import LABELS

HERE = Path(__file__).parent
WARMUP_STEPS = 100
PEAK_RATE, FINAL_SHARE, WEIGHT_DECAY = 3e-3, 0.02, 0.02
AVERAGE_DECAY = 0.998
SAVE_EVERY_STEPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the trained weights."""

    seed: int
    steps: int
    batch: int
    scenes: int
    threads: int


class Training:
    """Weights, their moving average and the optimizer, with the step they have reached."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.step = recipe, 0
        self.model = Table6Detector(class_count=len(LABELS), seed=recipe.seed).to(
            memory_format=torch.channels_last
        )
        self.average = deepcopy(self.model).eval().requires_grad_(False)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": WEIGHT_DECAY},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=PEAK_RATE,
        )

    def advance(self, batch: Batch) -> tuple[float, float]:
        """One step. Returns: the box and class parts of the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.recipe.steps)
        self.model.train()
        images = torch.from_numpy(batch.images).contiguous(memory_format=torch.channels_last)
        boxes, logits, centres, strides = predict(self.model, images)
        truth, classes = torch.from_numpy(batch.boxes), torch.from_numpy(batch.classes)
        loss, box, kind = detection_loss(boxes, logits, centres, strides, truth, classes)
        if not torch.isfinite(loss.detach()):
            raise ConfigError(
                f"the loss became {loss.item()} at step {self.step}",
                hint="lower PEAK_RATE in train.py",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.step += 1
        self._follow()
        return float(box), float(kind)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights; faster at first, while they are still bad."""
        decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        ours, theirs = self.average.state_dict(), self.model.state_dict()
        for name, value in ours.items():
            if value.dtype.is_floating_point:
                value.lerp_(theirs[name], 1 - decay)
            else:
                value.copy_(theirs[name])

    def save(self, path: Path) -> None:
        """Write everything needed to go on; a crash leaves the old file or the new one."""
        state = {
            "recipe": vars_of(self.recipe),
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        fresh = path.with_name(path.name + ".new")
        torch.save(state, fresh)
        fresh.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from a saved state. Raises: ConfigError if it was made by another recipe."""
        if not path.is_file():
            raise ConfigError(f"there is no {path}", hint="train without --resume first")
        state = torch.load(path, weights_only=True)
        if state["recipe"] != vars_of(self.recipe):
            raise ConfigError(
                f"{path} was made with {state['recipe']}, not {vars_of(self.recipe)}",
                hint="give the same options, or train without --resume",
            )
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])


def vars_of(recipe: Recipe) -> dict[str, int]:
    """The recipe as plain values."""
    return {name: getattr(recipe, name) for name in Recipe.__slots__}


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine."""
    if step < WARMUP_STEPS:
        return PEAK_RATE * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(steps - WARMUP_STEPS, 1)
    return PEAK_RATE * (FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * done)) / 2)


def predict(model: Table6Detector, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes (B, A, 4) in px, logits (B, A, C), cell centres (A, 2) in px and strides (A,)."""
    distances, logits = flat_levels(model(images))
    grid = cell_grid(model.strides, images.shape[-2], images.shape[-1])
    boxes = corner_boxes(distances, grid).transpose(1, 2)
    return boxes, logits.transpose(1, 2), grid.centres_px.T, grid.strides_px


def prepared_batches(
    frames: list[LabelledFrame], card: ModelCard, recipe: Recipe, first: int
) -> Iterator[Batch]:
    """The batches from step ``first`` on, each cut while the last one is being learned from."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(draw_batch, frames, card.input, recipe.batch, recipe.seed, first)
        for step in range(first, recipe.steps):
            batch = waiting.result()
            if step + 1 < recipe.steps:
                waiting = pool.submit(
                    draw_batch, frames, card.input, recipe.batch, recipe.seed, step + 1
                )
            yield batch


def progress(console: Console) -> Progress:
    """A bar with what is left to do."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"), console=console,
    )  # fmt: skip


def render_frames(recipe: Recipe, workers: int, console: Console) -> list[LabelledFrame]:
    """All training frames, in memory: 6 MB a scene."""
    frames: list[LabelledFrame] = []
    with progress(console) as bar:
        task = bar.add_task("rendering scenes", total=recipe.scenes, note="")
        for scene in render_scenes(recipe.seed, recipe.scenes, workers):
            frames += scene
            bar.advance(task)
    return frames


def learn(
    training: Training, frames: list[LabelledFrame], card: ModelCard,
    out: Path, deadline_s: float, console: Console,
) -> bool:  # fmt: skip
    """Train to the last step. Returns: False if the time ran out first."""
    recipe, state = training.recipe, out.with_suffix(".resume")
    box_mean = kind_mean = 0.0
    with progress(console) as bar:
        task = bar.add_task("training", total=recipe.steps, completed=training.step, note="")
        for batch in prepared_batches(frames, card, recipe, training.step):
            box, kind = training.advance(batch)
            share = 0.02 if box_mean else 1.0
            box_mean += share * (box - box_mean)
            kind_mean += share * (kind - kind_mean)
            bar.update(task, advance=1, note=f"box {box_mean:.3f}  class {kind_mean:.3f}")
            late = time.monotonic() > deadline_s
            if training.step % SAVE_EVERY_STEPS == 0 or late:
                training.save(state)
                console.log(f"step {training.step}: box {box_mean:.4f}, class {kind_mean:.4f}")
            if late and training.step < recipe.steps:
                return False
    return True


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "yard.pt", show_default=True)
@click.option("--steps", type=click.IntRange(1), default=1500, show_default=True)
@click.option("--minutes", type=float, help="Stop after this long; go on later with --resume.")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True)
@click.option("--scenes", type=click.IntRange(1), default=240, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=2, show_default=True)
@click.option("--resume", is_flag=True, help="Go on from the last saved state.")
def main(
    out: Path, steps: int, minutes: float | None, batch: int, scenes: int,
    seed: int, threads: int, workers: int, resume: bool,
) -> None:  # fmt: skip
    """Train the yard detector on generated scenes."""
    console = Console()
    recipe = Recipe(seed=seed, steps=steps, batch=batch, scenes=scenes, threads=threads)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    start_s = time.monotonic()
    try:
        card = load(HERE / "yard.toml", ModelCard)
        training = Training(recipe)
        if resume:
            training.restore(out.with_suffix(".resume"))
        frames = render_frames(recipe, workers, console)
        deadline_s = math.inf if minutes is None else start_s + 60 * minutes
        done = learn(training, frames, card, out, deadline_s, console)
        save_checkpoint(training.average, out)
    except EdgeKitError as error:
        raise click.ClickException(str(error)) from error
    spent = (time.monotonic() - start_s) / 60
    if done:
        out.with_suffix(".resume").unlink(missing_ok=True)
    state = "finished" if done else "stopped; go on with --resume"
    console.print(f"{out}: {state} at step {training.step} of {steps} after {spent:.1f} min")


if __name__ == "__main__":
    main()
