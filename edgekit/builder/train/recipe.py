"""The training recipe: everything that decides the weights besides network, data and machine.

SGD with Nesterov momentum, warm-up then cosine, label smoothing, weight decay on kernels only, and
a moving average of the weights, which is what is kept.
Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017 (warm-up); Loshchilov and Hutter,
"SGDR", ICLR 2017 (cosine); Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016
(label smoothing); Polyak and Juditsky, "Acceleration of Stochastic Approximation", 1992 (average).
"""

import math
from dataclasses import dataclass, field

from torch import nn, optim

from edgekit.builder.train.augment import Augmentation
from edgekit.errors import ConfigError

_RANGES = {
    "epoch_count": (1, 100_000),
    "batch_image_count": (2, 65_536),
    "peak_rate": (1e-8, 100.0),
    "warmup_share": (0.0, 0.9),
    "momentum": (0.0, 0.9999),
    "weight_decay": (0.0, 1.0),
    "label_smoothing": (0.0, 0.9),
    "average_decay": (0.0, 0.999999),
    "seed": (0, 2**62),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Rates are per step of one batch; the loss is the mean over its images."""

    epoch_count: int = 30
    batch_image_count: int = 128
    peak_rate: float = 0.1
    warmup_share: float = 0.1
    """Part of all steps in which the rate rises from 0 to its peak."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    average_decay: float = 0.998
    """Share of the old average that a step keeps; less at first, while weights are still bad."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(
                    f"{name} must be {low}..{high}, got {value}",
                    hint=f"the default is {type(self).__dataclass_fields__[name].default}",
                )

    def rate(self, step: int, step_count: int) -> float:
        """Learning rate of ``step`` out of ``step_count``: a line up, half a cosine down to 0."""
        warmup = round(step_count * self.warmup_share)
        if step < warmup:
            return self.peak_rate * (step + 1) / (warmup + 1)
        done = (step - warmup) / max(step_count - warmup, 1)
        return self.peak_rate * (1 + math.cos(math.pi * done)) / 2

    def averaging(self, step: int) -> float:
        """Share of the old average that is kept after ``step`` steps."""
        return min(self.average_decay, (1 + step) / (10 + step))


def make_optimizer(model: nn.Module, recipe: Recipe) -> optim.SGD:
    """SGD over all weights; decay on kernels and matrices, not on biases and BatchNorms."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]
    return optim.SGD(
        [group for group in groups if group["params"]],
        lr=recipe.peak_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )
