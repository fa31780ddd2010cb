"""GoogLeNet with branches, in two forms: one that folds back to GoogLeNet, one summed throughout.

In:  images (B, C, H, W).  Out: logits (B, class_count).
GoogLeNet joins four columns by concatenation, and each ends in a ReLU: that is no sum of linear
branches over one input, so no fold can merge the columns of a module. What can fold:
- RepGoogLeNet keeps the modules, and gives every kxk kernel linear side branches of all smaller
  sizes: 7x7 + 3x3 + 1x1 (stem), 5x5 + 3x3 + 1x1, 3x3 + 1x1, summed before its ReLU. Fully folded it
  is GoogLeNet, 7.0 M parameters and 1.6 G multiply-adds.
- RepGoogLeNetSummed replaces each module by one block: 1x1 + 3x3 + 5x5 + average pool + identity
  over the whole input, linear and summed, folding into one 5x5. It has the widths of Table 1, but
  without the thin 1x1 reductions, which end in a ReLU, it has 81 M parameters and 13 G
  multiply-adds folded: use it narrow, or to study blocks with many kinds of branches.
Against the paper both have BatchNorm (which folds away) in place of local response normalisation,
and neither the auxiliary classifiers nor dropout, which serve training only.
Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, Table 1; Ding et al., "Diverse
Branch Block", CVPR 2021 (branches).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.zoo.blocks import BranchedConv, ConvBlock, ConvBn, pool_branch
from edgekit.builder.zoo.classifier import Classifier, ClassifierConfig

STEM_CHANNELS, SECOND_CHANNELS = 64, 192
_POINT = ConvGeometry.square(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """One module of Table 1: the output channels of its convolutions."""

    point: int
    reduce3: int
    three: int
    reduce5: int
    five: int
    pool: int

    @property
    def out_count(self) -> int:
        """Channels of the columns together."""
        return self.point + self.three + self.five + self.pool

    def scaled(self, config: ClassifierConfig) -> "Columns":
        """The same module at another width."""
        return _columns(*(config.scaled(getattr(self, field.name)) for field in fields(self)))


def _columns(*counts: int) -> Columns:
    names = (field.name for field in fields(Columns))
    return Columns(**dict(zip(names, counts, strict=True)))


STAGES = (
    (_columns(64, 96, 128, 16, 32, 32), _columns(128, 128, 192, 32, 96, 64)),
    (
        _columns(192, 96, 208, 16, 48, 64),
        _columns(160, 112, 224, 24, 64, 64),
        _columns(128, 128, 256, 24, 64, 64),
        _columns(112, 144, 288, 32, 64, 64),
        _columns(256, 160, 320, 32, 128, 128),
    ),
    (_columns(256, 160, 320, 32, 128, 128), _columns(384, 192, 384, 48, 128, 128)),
)
"""Modules 3a-3b, 4a-4e and 5a-5b; a max-pool stands before each stage."""


def _branches(
    sizes: Sequence[int], in_count: int, out_count: int, *, stride: int = 1
) -> dict[str, nn.Module]:
    return {
        f"k{size}": ConvBn(ConvGeometry.square(size, stride=stride), in_count, out_count)
        for size in sizes
    }


def _branched(
    sizes: Sequence[int], in_count: int, out_count: int, *, stride: int = 1
) -> BranchedConv:
    """Kernels of these sizes over one input, the largest first, and one ReLU."""
    branches = _branches(sizes, in_count, out_count, stride=stride)
    geometry = ConvGeometry.square(sizes[0], stride=stride)
    return BranchedConv(geometry, in_count, out_count, branches)


class SummedModule(BranchedConv):
    """5x5 + 3x3 + 1x1 + average pool over one input, and the identity where channels allow it.

    Where they do not, a 1x1 brings the pool to the right channels. It pads for the pool, so that
    the border of what the pool reads is the 1x1's own bias: else the two were no convolution.
    """

    def __init__(self, in_count: int, out_count: int) -> None:
        branches = _branches((5, 3, 1), in_count, out_count)
        if in_count == out_count:
            branches["pool"] = pool_branch(ConvGeometry.square(3), in_count)
            branches["identity"] = nn.BatchNorm2d(in_count)
        else:
            padded = ConvGeometry(kernel=(1, 1), padding=(1, 1))
            branches["pool"] = nn.Sequential(
                ConvBn(padded, in_count, out_count),
                nn.AvgPool2d(3, stride=1),
                nn.BatchNorm2d(out_count),
            )
        super().__init__(ConvGeometry.square(5), in_count, out_count, branches)


class InceptionModule(nn.Module):
    """Four columns over one input, joined channel by channel (figure 2 (b) of the paper)."""

    def __init__(self, in_count: int, columns: Columns) -> None:
        super().__init__()
        self.point = ConvBlock(_POINT, in_count, columns.point)
        self.three = nn.Sequential(
            ConvBlock(_POINT, in_count, columns.reduce3),
            _branched((3, 1), columns.reduce3, columns.three),
        )
        self.five = nn.Sequential(
            ConvBlock(_POINT, in_count, columns.reduce5),
            _branched((5, 3, 1), columns.reduce5, columns.five),
        )
        self.pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), ConvBlock(_POINT, in_count, columns.pool)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H, W)."""
        return torch.cat([self.point(x), self.three(x), self.five(x), self.pool(x)], dim=1)


class RepGoogLeNet(Classifier):
    """GoogLeNet whose kernels have branches. Total stride 32, or 8 for small inputs."""

    def make_features(self, config: ClassifierConfig) -> tuple[nn.Module, int]:
        """Stem, then the nine modules, each four columns."""
        return _features(config, InceptionModule)


class RepGoogLeNetSummed(Classifier):
    """One linear block of many branches for each module. Total stride 32, or 8 for small inputs."""

    def make_features(self, config: ClassifierConfig) -> tuple[nn.Module, int]:
        """Stem, then the nine modules, each one sum."""
        return _features(config, lambda before, columns: SummedModule(before, columns.out_count))


def _features(
    config: ClassifierConfig, make_module: Callable[[int, Columns], nn.Module]
) -> tuple[nn.Module, int]:
    first, before = config.scaled(STEM_CHANNELS), config.scaled(SECOND_CHANNELS)
    layers: list[nn.Module] = [
        _branched((7, 3, 1), config.channel_count, first, stride=1 if config.small_input else 2),
        *([] if config.small_input else [_halving()]),
        ConvBlock(_POINT, first, first),
        _branched((3, 1), first, before),
    ]
    for stage in STAGES:
        layers.append(_halving())
        for columns in stage:
            scaled = columns.scaled(config)
            layers.append(make_module(before, scaled))
            before = scaled.out_count
    return nn.Sequential(*layers), before


def _halving() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, padding=1)
