"""Convolution blocks whose branches can be folded: one geometry, several branches, one activation.

In: (B, I, H, W).  Out: (B, O, H', W').  All branches of a block are built from its one
ConvGeometry, so they cannot drift apart.
Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, section 3.
"""

from typing import cast

import torch
from torch import Tensor, nn

from edgekit.builder.fold.geometry import ConvGeometry


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


class BranchedConv(nn.Module):
    """The sum of linear branches over one input, then an activation.

    ``branches`` maps a name to a ConvBn, or to a BatchNorm2d for the identity. Folding turns the
    block into one convolution of ``geometry`` (edgekit.builder.fold.torch_front).
    """

    def __init__(
        self,
        geometry: ConvGeometry,
        in_count: int,
        out_count: int,
        branches: dict[str, ConvBn | nn.BatchNorm2d],
        *,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.geometry, self.in_count, self.out_count = geometry, in_count, out_count
        self.branches = nn.ModuleDict(branches)
        self.act: nn.Module = nn.ReLU() if relu else nn.Identity()

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        """The BatchNorm of each branch."""
        return [b.bn if isinstance(b, ConvBn) else b for b in self.linear_branches]

    @property
    def linear_branches(self) -> list[ConvBn | nn.BatchNorm2d]:
        """The branches, in the order in which they are added."""
        return [cast("ConvBn | nn.BatchNorm2d", branch) for branch in self.branches.values()]

    def linear(self, x: Tensor) -> Tensor:
        """The sum of the branches, before the activation."""
        first, *others = self.linear_branches
        total: Tensor = first(x)
        for branch in others:
            total = total + branch(x)
        return total

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        return cast(Tensor, self.act(self.linear(x)))


class ConvBlock(BranchedConv):
    """Conv + BN + ReLU: a block with a single branch."""

    def __init__(
        self, geometry: ConvGeometry, in_count: int, out_count: int, *, relu: bool = True
    ) -> None:
        branches: dict[str, ConvBn | nn.BatchNorm2d] = {
            "dense": ConvBn(geometry, in_count, out_count)
        }
        super().__init__(geometry, in_count, out_count, branches, relu=relu)


class RepBlock(BranchedConv):
    """kxk + 1x1 + identity, each with its BN; the identity only where shapes allow it."""

    def __init__(
        self, geometry: ConvGeometry, in_count: int, out_count: int, *, relu: bool = True
    ) -> None:
        branches: dict[str, ConvBn | nn.BatchNorm2d] = {
            "dense": ConvBn(geometry, in_count, out_count),
            "pointwise": ConvBn(geometry.pointwise, in_count, out_count),
        }
        if geometry.keeps_size and in_count == out_count:
            branches["identity"] = nn.BatchNorm2d(in_count)
        super().__init__(geometry, in_count, out_count, branches, relu=relu)


class FoldedConv(nn.Module):
    """What a block becomes: one convolution with bias, then the block's activation."""

    def __init__(self, block: BranchedConv) -> None:
        super().__init__()
        self.conv = bare_conv(block.geometry, block.in_count, block.out_count, bias=True)
        self.act = block.act

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        return cast(Tensor, self.act(self.conv(x)))


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
