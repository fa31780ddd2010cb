"""ShuffleNetV1 (3 groups) with branches: each depthwise 3x3 has a 1x1 and an identity beside it.

In:  images (B, C, H, W).  Out: logits (B, class_count).  Fully folded it is ShuffleNetV1 g=3.
Grouped 1x1 convolutions change the number of channels, so they have no identity. The sum with the
shortcut of a unit is no branch: a ReLU lies on its other side.
Source: Zhang et al., "ShuffleNet", CVPR 2018, Table 1 and figure 2; Ding et al., "RepVGG", CVPR
2021 (branches).
"""

from typing import cast

import torch
from torch import Tensor, nn

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.zoo.blocks import ConvBlock, RepBlock
from edgekit.builder.zoo.classifier import Classifier, ClassifierConfig

GROUPS = 3
STEM_CHANNELS = 24
STAGES = ((240, 4), (480, 8), (960, 4))
"""Channels and units of stages 2, 3 and 4; the first unit of each halves the size."""
_BOTTLENECK = 4
_MULTIPLE = 24
"""Channels divide by 3 groups after a bottleneck of 4, and by 8."""


class RepShuffleNetV1(Classifier):
    """ShuffleNetV1 g=3, 1.9 M parameters folded. Total stride 32, or 8 for small inputs.

    ``width`` is the paper's scale factor s; channels are rounded to a multiple of 24, which its own
    0.5, 1, 1.5 and 2 are.
    """

    def make_features(self, config: ClassifierConfig) -> tuple[nn.Module, int]:
        """Stem, then three stages of units."""
        before = _scaled(STEM_CHANNELS, config.width)
        stem = ConvGeometry.square(3, stride=1 if config.small_input else 2)
        layers: list[nn.Module] = [RepBlock(stem, config.channel_count, before)]
        if not config.small_input:
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        for stage, (channels, units) in enumerate(STAGES):
            # A stage appends to what enters it, so it has more channels at any width.
            after = max(_scaled(channels, config.width), before + _MULTIPLE)
            # The stem has so few channels that the paper leaves its first 1x1 in one group.
            layers.append(_Down(before, after, first_groups=GROUPS if stage else 1))
            layers += [_Unit(after) for _ in range(units - 1)]
            before = after
        return nn.Sequential(*layers), before


def _scaled(channels: int, width: float) -> int:
    return max(round(channels * width / _MULTIPLE), 1) * _MULTIPLE


class _Shuffle(nn.Module):
    """Channel i of each group in turn, so that the next groups see all of these."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        count, channels, height, width = x.shape
        apart = x.reshape(count, GROUPS, channels // GROUPS, height, width)
        return apart.transpose(1, 2).reshape(count, channels, height, width)


def _residual(in_count: int, hidden: int, out_count: int, stride: int, groups: int) -> nn.Module:
    """What the shortcut is added to: 1x1, shuffle, depthwise 3x3 (linear), 1x1 (linear)."""
    return nn.Sequential(
        ConvBlock(ConvGeometry.square(1, groups=groups), in_count, hidden),
        _Shuffle(),
        RepBlock(
            ConvGeometry.square(3, stride=stride, groups=hidden), hidden, hidden, relu=False
        ),
        ConvBlock(ConvGeometry.square(1, groups=GROUPS), hidden, out_count, relu=False),
    )  # fmt: skip


class _Unit(nn.Module):
    """Figure 2 (b): the size and the channels stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = _residual(channels, channels // _BOTTLENECK, channels, 1, GROUPS)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return cast(Tensor, self.act(x + self.residual(x)))


class _Down(nn.Module):
    """Figure 2 (c): half the size; the averaged input is part of the output."""

    def __init__(self, in_count: int, out_count: int, *, first_groups: int) -> None:
        super().__init__()
        hidden = out_count // _BOTTLENECK
        self.residual = _residual(in_count, hidden, out_count - in_count, 2, first_groups)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H / 2, W / 2), rounded up."""
        return cast(Tensor, self.act(torch.cat([self.pool(x), self.residual(x)], dim=1)))
