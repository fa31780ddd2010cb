"""What the branches of a block are called, and which of them is the main one."""

import torch
from torch import nn

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.zoo.blocks import (
    BranchedConv,
    ConvBlock,
    ConvBn,
    MobileOneBlock,
    QaRepBlock,
    RepBlock,
    layers_of,
    pointwise_first_branch,
    pool_branch,
)

SAME, POINT = ConvGeometry.square(3), ConvGeometry.square(1)


def test_each_branch_has_the_kind_that_a_strategy_names() -> None:
    """S3+Ss, S3+S1 and the others mean what they say in every block of the zoo."""
    assert RepBlock(SAME, 4, 4).kinds == {"pointwise": "1x1", "identity": "identity"}
    assert RepBlock(SAME, 4, 8).kinds == {"pointwise": "1x1"}
    assert QaRepBlock(SAME, 4, 4).kinds == {"pointwise": "1x1", "identity": "identity"}
    assert ConvBlock(SAME, 4, 4).kinds == {}
    assert MobileOneBlock(SAME, 4, 4, copies=3).kinds == {
        "dense1": "copy", "dense2": "copy", "pointwise": "1x1", "identity": "identity",
    }  # fmt: skip


def test_beside_a_pointwise_main_branch_other_pointwise_ones_are_copies() -> None:
    """As in the second half of a MobileOne unit: there is nothing larger to fold them into."""
    block = MobileOneBlock(POINT, 4, 4, copies=2)
    assert block.main == "dense0"
    assert block.kinds == {"dense1": "copy", "identity": "identity"}


def test_the_largest_convolution_is_the_main_branch_wherever_it_stands() -> None:
    """A pool as large, or the shortcut, never is; of two as large the first is."""
    wide = ConvGeometry.square(5)
    block = BranchedConv(
        wide, 4, 4,
        {
            "shortcut": nn.Identity(),
            "mean": pool_branch(wide, 4),
            "point": ConvBn(POINT, 4, 4),
            "tall": ConvBn(ConvGeometry(kernel=(5, 1), padding=(2, 0)), 4, 4),
            "small": ConvBn(SAME, 4, 4),
            "large": ConvBn(wide, 4, 4),
            "deep": pointwise_first_branch(wide, 4, 8, 4),
        },
    )  # fmt: skip
    assert block.main == "large"
    assert block.kinds == {
        "shortcut": "identity", "mean": "pool", "point": "1x1", "tall": "5x1", "small": "3x3",
        "deep": "copy",
    }  # fmt: skip


def test_all_branches_have_the_geometry_of_their_block() -> None:
    """Written twice, it drifts: stride, dilation and groups must reach every branch."""
    geometry = ConvGeometry.square(3, stride=2, dilation=2, groups=2)
    for block in (RepBlock(geometry, 4, 8), MobileOneBlock(geometry, 4, 8)):
        assert block.branches["pointwise"].geometry == geometry.pointwise
        for branch in block.linear_branches:
            conv = layers_of(branch)[0]
            assert isinstance(conv, nn.Conv2d)
            assert (conv.stride, conv.groups) == ((2, 2), 2)


def test_a_block_ends_in_the_activation_asked_for() -> None:
    """ReLU unless told otherwise; MobileNets use ReLU6, EfficientNet SiLU."""
    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert isinstance(RepBlock(SAME, 4, 4).act, nn.ReLU)
    assert isinstance(RepBlock(SAME, 4, 4, relu=False).act, nn.Identity)
    for kind in (RepBlock, QaRepBlock, MobileOneBlock, ConvBlock):
        block = kind(SAME, 4, 4, activation=nn.SiLU()).eval()
        assert torch.equal(block(x), nn.functional.silu(block.linear(x)))


def test_the_published_qarep_block_normalises_the_sum() -> None:
    """3x3 with BN, 1x1 and identity without, and one BN at the end (Chu et al., AAAI 2024)."""
    block = QaRepBlock(SAME, 4, 4)
    assert isinstance(block.branches["dense"], ConvBn)
    assert isinstance(block.branches["pointwise"], nn.Conv2d)
    assert isinstance(block.branches["identity"], nn.Identity)
    assert isinstance(block.after, nn.BatchNorm2d)
