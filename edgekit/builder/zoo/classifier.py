"""What all classifiers of the zoo share: their configuration, their seed, their head.

In:  images (B, C, H, W), float32.  Out: logits (B, class_count).
A family says which layers make its features; one seed gives one set of weights, whatever the
caller has drawn before.
Source: He et al., "Delving Deep into Rectifiers", ICCV 2015 (first weights).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from edgekit.builder.zoo.blocks import BranchedConv
from edgekit.errors import ModelError

_CHANNEL_MULTIPLE = 8
"""Runtimes block channels by 8 or 16; 4 channels take as long as 8."""
_HEAD_SPREAD = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig:
    """Everything that decides a classifier's shape and its first weights."""

    class_count: int = 1000
    width: float = 1.0
    """Factor on the channels of every layer but the last."""
    small_input: bool = False
    """The stem keeps the size (stride 1, nothing pooled): for images of about 32 px."""
    seed: int = 0
    input_shape: tuple[int, int, int, int] = (1, 3, 224, 224)
    """What an export takes where no other shape is asked for; the network has its channels."""

    def __post_init__(self) -> None:
        if not 0 < self.width <= 4:
            raise ModelError(f"width must lie in 0..4, got {self.width}", hint="use width 1.0")
        if not 1 <= self.class_count <= 100_000:
            raise ModelError(
                f"class_count must be 1..100000, got {self.class_count}",
                hint="use 10 for MNIST or CIFAR-10, 1000 for ImageNet",
            )
        if not 0 <= self.seed < 2**63:
            raise ModelError(f"seed must be 0 or more, got {self.seed}", hint="use 0")
        if len(self.input_shape) != 4 or min(self.input_shape) < 1:
            raise ModelError(
                f"input_shape {self.input_shape} is no (B, C, H, W)", hint="use (1, 3, 224, 224)"
            )

    @property
    def channel_count(self) -> int:
        """Channels of an image: 3 for color, 1 for gray."""
        return self.input_shape[1]

    def scaled(self, channels: float) -> int:
        """A layer's channels at this width; at width 1 exactly those of the paper."""
        return int(channels) if self.width == 1 else scaled_channels(channels, self.width)


def scaled_channels(channels: float, width: float) -> int:
    """``channels * width``, rounded to a multiple of 8 and at least 8."""
    return max(round(channels * width / _CHANNEL_MULTIPLE), 1) * _CHANNEL_MULTIPLE


class Classifier(nn.Module, ABC):
    """Features, mean over the map, one linear layer. Families override ``make_features``."""

    def __init__(
        self,
        *,
        class_count: int = 1000,
        width: float = 1.0,
        small_input: bool = False,
        seed: int = 0,
        input_shape: tuple[int, int, int, int] = (1, 3, 224, 224),
    ) -> None:
        super().__init__()
        self.config = ClassifierConfig(
            class_count=class_count,
            width=width,
            small_input=small_input,
            seed=seed,
            input_shape=input_shape,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.features, feature_count = self.make_features(self.config)
            self.head = nn.Linear(feature_count, class_count)
            draw_weights(self)

    @abstractmethod
    def make_features(self, config: ClassifierConfig) -> tuple[nn.Module, int]:
        """The layers before the mean, and how many channels they give."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, class_count)."""
        return cast(Tensor, self.head(self.features(images).mean(dim=(2, 3))))


def draw_weights(network: nn.Module) -> None:
    """Fresh weights from torch's generator, so seed it first.

    He initialisation for convolutions; the branches of a block share its variance, so a block adds
    none by having many; a head that starts near zero. BatchNorms are left as torch makes them.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=_HEAD_SPREAD)
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, BranchedConv):
            for norm in module.norms:
                nn.init.constant_(norm.weight, len(module.branches) ** -0.5)
