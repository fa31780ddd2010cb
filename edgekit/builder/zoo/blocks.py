"""Convolution blocks whose branches can be folded: one geometry, several branches, one activation.

In: (B, I, H, W).  Out: (B, O, H', W').  All branches of a block are built from its one
ConvGeometry, so they cannot drift apart.
Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, section 3; others
at the block that has them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.spec.fusion import COPY, IDENTITY, POINTWISE, POOL


def bare_conv(
    geometry: ConvGeometry, in_count: int, out_count: int, *, bias: bool = False
) -> nn.Conv2d:
    """A torch convolution of this geometry. Raises: ModelError if groups do not divide channels."""
    geometry.weight_shape(in_count, out_count)
    return nn.Conv2d(
        in_count,
        out_count,
        geometry.kernel,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
        bias=bias,
    )


class ConvBn(nn.Module):
    """A convolution and the BatchNorm after it: one branch."""

    def __init__(self, geometry: ConvGeometry, in_count: int, out_count: int) -> None:
        super().__init__()
        self.geometry = geometry
        self.conv = bare_conv(geometry, in_count, out_count)
        self.bn = nn.BatchNorm2d(out_count)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        return cast(Tensor, self.bn(self.conv(x)))


def pool_branch(geometry: ConvGeometry, channel_count: int) -> nn.Sequential:
    """An average over the block's window, padding counted, and its BatchNorm.

    Source: Ding et al., "Diverse Branch Block", CVPR 2021, transform V.
    """
    pool = nn.AvgPool2d(geometry.kernel, geometry.stride, geometry.padding)
    return nn.Sequential(pool, nn.BatchNorm2d(channel_count))


def pointwise_first_branch(
    geometry: ConvGeometry, in_count: int, hidden: int, out_count: int
) -> nn.Sequential:
    """1x1 + BN, then kxk + BN, nothing between them.

    The 1x1 does the padding, so that the border of what the kxk reads is the 1x1's bias and not
    zero: only then are the two one convolution.
    Source: Ding et al., "Diverse Branch Block", CVPR 2021, transform III.
    """
    first = ConvGeometry(kernel=(1, 1), padding=geometry.padding, groups=geometry.groups)
    last = replace(geometry, padding=(0, 0))
    return nn.Sequential(ConvBn(first, in_count, hidden), ConvBn(last, hidden, out_count))


def layers_of(branch: nn.Module) -> list[nn.Module]:
    """The layers of a branch in the order in which they run."""
    if isinstance(branch, ConvBn):
        return [branch.conv, branch.bn]
    if isinstance(branch, nn.Sequential):
        return [layer for part in branch for layer in layers_of(part)]
    return [branch]


class BranchedConv(nn.Module):
    """The sum of linear branches over one input, then an activation.

    ``branches`` maps a name to a ConvBn, a BatchNorm2d or Identity (the shortcut), an AvgPool2d, a
    Conv2d, or a Sequential of these. ``after`` is a BatchNorm over the sum. Without ``activation``
    the block ends in ReLU, or in nothing if ``relu`` is False. Folding turns the block into one
    convolution of ``geometry`` and the branches that stay live (edgekit.builder.fold.torch_front).
    """

    def __init__(
        self,
        geometry: ConvGeometry,
        in_count: int,
        out_count: int,
        branches: Mapping[str, nn.Module],
        *,
        relu: bool = True,
        activation: nn.Module | None = None,
        after: nn.BatchNorm2d | None = None,
    ) -> None:
        super().__init__()
        self.geometry, self.in_count, self.out_count = geometry, in_count, out_count
        self.branches = nn.ModuleDict(branches)
        self.after: nn.BatchNorm2d | None = after
        self.act: nn.Module = activation or (nn.ReLU() if relu else nn.Identity())

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        """The last BatchNorm of each branch that has one."""
        found = [
            [layer for layer in layers_of(branch) if isinstance(layer, nn.BatchNorm2d)]
            for branch in self.linear_branches
        ]
        return [norms[-1] for norms in found if norms]

    @property
    def linear_branches(self) -> list[nn.Module]:
        """The branches, in the order in which they are added."""
        return list(self.branches.values())

    @property
    def main(self) -> str:
        """Name of the main branch: the convolution with the largest kernel, the first of them."""
        return max(self.branches, key=lambda name: _rank(self.branches[name]))

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each branch but the main one, as a FusionStrategy names them."""
        main = self.main
        size = _kernel(self.branches[main])
        return {name: _kind(branch, size) for name, branch in self.branches.items() if name != main}

    def linear(self, x: Tensor) -> Tensor:
        """The sum of the branches, before the activation."""
        first, *others = self.linear_branches
        total: Tensor = first(x)
        for branch in others:
            total = total + branch(x)
        return total if self.after is None else cast(Tensor, self.after(total))

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        return cast(Tensor, self.act(self.linear(x)))


def _kernel(branch: nn.Module) -> tuple[int, int]:
    """Rows and columns that a branch looks at in one step: those of its largest layer."""
    sizes = [(1, 1)]
    for layer in layers_of(branch):
        size = getattr(layer, "kernel_size", 1)
        sizes.append((size, size) if isinstance(size, int) else size)
    return max(rows for rows, _ in sizes), max(columns for _, columns in sizes)


def _rank(branch: nn.Module) -> tuple[bool, bool, int]:
    """The larger, the more a branch is the main one."""
    layers = layers_of(branch)
    rows, columns = _kernel(branch)
    return (
        any(isinstance(layer, nn.Conv2d) for layer in layers),
        not any(isinstance(layer, nn.AvgPool2d) for layer in layers),
        rows * columns,
    )


def _kind(branch: nn.Module, main: tuple[int, int]) -> str:
    layers = layers_of(branch)
    if any(isinstance(layer, nn.AvgPool2d) for layer in layers):
        return POOL
    if not any(isinstance(layer, nn.Conv2d) for layer in layers):
        return IDENTITY
    rows, columns = size = _kernel(branch)
    if size == main:
        return COPY
    return POINTWISE if size == (1, 1) else f"{rows}x{columns}"


class ConvBlock(BranchedConv):
    """Conv + BN + activation: a block with a single branch."""

    def __init__(
        self,
        geometry: ConvGeometry,
        in_count: int,
        out_count: int,
        *,
        relu: bool = True,
        activation: nn.Module | None = None,
    ) -> None:
        branches = {"dense": ConvBn(geometry, in_count, out_count)}
        super().__init__(geometry, in_count, out_count, branches, relu=relu, activation=activation)


class RepBlock(BranchedConv):
    """kxk + 1x1 + identity, each with its BN; the identity only where shapes allow it."""

    def __init__(
        self,
        geometry: ConvGeometry,
        in_count: int,
        out_count: int,
        *,
        relu: bool = True,
        activation: nn.Module | None = None,
    ) -> None:
        branches: dict[str, nn.Module] = {
            "dense": ConvBn(geometry, in_count, out_count),
            "pointwise": ConvBn(geometry.pointwise, in_count, out_count),
        }
        if geometry.keeps_size and in_count == out_count:
            branches["identity"] = nn.BatchNorm2d(in_count)
        super().__init__(geometry, in_count, out_count, branches, relu=relu, activation=activation)


class QaRepBlock(BranchedConv):
    """A RepBlock that stays near its float self in int8: 1x1 and identity without BN, BN at last.

    Source: Chu, Li, Zhang, "Make RepVGG Greater Again: A Quantization-aware Approach", AAAI 2024.
    """

    def __init__(
        self,
        geometry: ConvGeometry,
        in_count: int,
        out_count: int,
        *,
        relu: bool = True,
        activation: nn.Module | None = None,
    ) -> None:
        branches: dict[str, nn.Module] = {
            "dense": ConvBn(geometry, in_count, out_count),
            "pointwise": bare_conv(geometry.pointwise, in_count, out_count),
        }
        if geometry.keeps_size and in_count == out_count:
            branches["identity"] = nn.Identity()
        super().__init__(
            geometry, in_count, out_count, branches,
            relu=relu, activation=activation, after=nn.BatchNorm2d(out_count),
        )  # fmt: skip


class MobileOneBlock(BranchedConv):
    """Several copies of kxk, a 1x1 beside kernels larger than that, and the identity.

    Source: Vasu et al., "MobileOne: An Improved One millisecond Mobile Backbone", CVPR 2023.
    """

    def __init__(
        self,
        geometry: ConvGeometry,
        in_count: int,
        out_count: int,
        *,
        copies: int = 4,
        relu: bool = True,
        activation: nn.Module | None = None,
    ) -> None:
        branches: dict[str, nn.Module] = {
            f"dense{number}": ConvBn(geometry, in_count, out_count) for number in range(copies)
        }
        if geometry.kernel != (1, 1):
            branches["pointwise"] = ConvBn(geometry.pointwise, in_count, out_count)
        if geometry.keeps_size and in_count == out_count:
            branches["identity"] = nn.BatchNorm2d(in_count)
        super().__init__(geometry, in_count, out_count, branches, relu=relu, activation=activation)


class FoldedConv(nn.Module):
    """What a block becomes: one convolution with bias, then the block's activation."""

    def __init__(self, block: BranchedConv) -> None:
        super().__init__()
        self.conv = bare_conv(block.geometry, block.in_count, block.out_count, bias=True)
        self.act = block.act

    def linear(self, x: Tensor) -> Tensor:
        """What comes before the activation."""
        return cast(Tensor, self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        return cast(Tensor, self.act(self.linear(x)))


class PartlyFolded(FoldedConv):
    """What a block becomes where a strategy keeps branches: the main convolution and those live."""

    def __init__(self, block: BranchedConv, live: Mapping[str, nn.Module]) -> None:
        super().__init__(block)
        self.live = nn.ModuleDict(live)

    def linear(self, x: Tensor) -> Tensor:
        """The sum of the main convolution and the live branches."""
        total = super().linear(x)
        for branch in self.live.values():
            total = total + branch(x)
        return total


class Sppf(nn.Module):
    """Spatial pyramid pooling, fast form: three 5x5 max-pools in a row see 5, 9 and 13 cells.

    Source: Jocher et al., YOLOv5 v6.0, after He et al., "Spatial Pyramid Pooling", ECCV 2014.
    """

    def __init__(self, in_count: int, out_count: int, *, kernel: int = 5) -> None:
        super().__init__()
        hidden = max(in_count // 2, 1)
        point = ConvGeometry.square(1)
        self.reduce = ConvBlock(point, in_count, hidden)
        self.pool = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)
        self.join = ConvBlock(point, hidden * 4, out_count)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H, W)."""
        seen = [self.reduce(x)]
        for _ in range(3):
            seen.append(self.pool(seen[-1]))
        return cast(Tensor, self.join(torch.cat(seen, dim=1)))
