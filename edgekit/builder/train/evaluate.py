"""Top-1 accuracy over a whole split, with the answer for every image.

In:  labelled images and a function from inputs to logits: a torch network or a runtime's session.
Out: an Evaluation.  Two forms of one network are compared by their predictions, image by image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgekit.builder.compare import difference
from edgekit.builder.train.augment import to_input
from edgekit.builder.train.datasets import LabelledImages
from edgekit.errors import ModelError

Floats = npt.NDArray[np.float32]
Logits = Callable[[Floats], Floats]
"""From inputs (B, C, H, W) to logits (B, class_count)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """What a network answered and what was right. Shapes: logits (N, class_count), labels (N,)."""

    logits: Floats
    labels: npt.NDArray[np.int64]

    @property
    def predictions(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image, (N,)."""
        best: npt.NDArray[np.int64] = self.logits.argmax(axis=1).astype(np.int64)
        return best

    @property
    def correct_count(self) -> int:
        """Images whose most probable class is the right one."""
        return int((self.predictions == self.labels).sum())

    @property
    def top1(self) -> float:
        """The share of them, 0..1."""
        return self.correct_count / len(self.labels)

    def differing_count(self, other: "Evaluation") -> int:
        """Images for which another network predicts another class."""
        return int((self.predictions != other.predictions).sum())

    def relative_error(self, other: "Evaluation") -> float:
        """The largest difference of any logit from those here, relative to their largest."""
        return difference(self.logits, other.logits).relative_error


def evaluate(
    logits_of: Logits,
    images: LabelledImages,
    *,
    batch_image_count: int = 500,
    watch: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Answers for every image of ``images``; ``watch`` is told how many are done.

    The last batch may be smaller. Raises: ModelError if a logit is not finite or one is missing.
    """
    answers = []
    for start in range(0, len(images), batch_image_count):
        pixels = torch.from_numpy(images.pixels[start : start + batch_image_count])
        inputs: Floats = to_input(pixels).contiguous().numpy()
        logits = logits_of(inputs)
        if logits.ndim != 2 or len(logits) != len(inputs) or not np.isfinite(logits).all():
            raise ModelError(
                f"logits of {len(inputs)} images are {logits.shape}, or not all are finite",
                hint="check that the network is a classifier, and its training",
            )
        answers.append(logits)
        watch(start + len(inputs))
    return Evaluation(logits=np.concatenate(answers), labels=images.labels)


def torch_logits(model: nn.Module, device: torch.device | None = None) -> Logits:
    """A network in evaluation mode as a function of arrays. Raises: ModelError in training mode."""
    if model.training:
        raise ModelError(
            f"{type(model).__name__} is in training mode", hint="call .eval() on it first"
        )

    def logits_of(inputs: Floats) -> Floats:
        with torch.no_grad():
            given = torch.from_numpy(inputs).to(device or "cpu", memory_format=torch.channels_last)
            result: Floats = model(given).float().cpu().numpy()
        return result

    return logits_of
