"""Folding whole torch networks, and the proof that comes with it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgekit.builder.fold import torch_front
from edgekit.builder.fold.algebra import add_branches
from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.fold.torch_front import fold_module
from edgekit.builder.zoo.blocks import BranchedConv, ConvBlock, FoldedConv, RepBlock, Sppf
from edgekit.errors import ModelError

SAME = ConvGeometry.square(3)


def lived_in(module: nn.Module, seed: int = 0) -> nn.Module:
    """``module`` in evaluation mode, with BatchNorm statistics as after training."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            with torch.no_grad():
                norm.running_mean.normal_(0, 0.3, generator=generator)
                norm.running_var.uniform_(0.05, 3, generator=generator)
                norm.weight.normal_(0.5, 0.3, generator=generator)
                norm.bias.normal_(0, 0.3, generator=generator)
    return module.eval()


def largest_error(one: nn.Module, other: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        want, got = one(x), other(x)
    return float((want - got).abs().max() / want.abs().max())


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.sampled_from((1, 3, 5, 7)), stride=st.integers(1, 3), dilation=st.integers(1, 3),
    groups=st.integers(1, 3), channels=st.integers(1, 4), same=st.booleans(),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_a_folded_block_answers_as_the_trained_one(
    kernel: int, stride: int, dilation: int, groups: int, channels: int, same: bool, seed: int
) -> None:
    """Random kernels, strides, dilations, groups and channels, with and without identity."""
    torch.manual_seed(seed)
    geometry = ConvGeometry.square(kernel, stride=stride, dilation=dilation, groups=groups)
    in_count = channels * groups
    out_count = in_count if same else in_count + groups
    block = lived_in(RepBlock(geometry, in_count, out_count, relu=False), seed)
    assert ("identity" in block.branches) == (same and stride == 1)
    folded = fold_module(block)
    assert isinstance(folded, FoldedConv)
    assert largest_error(block, folded, torch.randn(2, in_count, 20, 24)) <= 1e-5


def test_every_block_of_a_network_is_folded_and_the_network_is_untouched() -> None:
    """The caller may go on training what was given."""
    network = lived_in(
        nn.Sequential(ConvBlock(SAME, 3, 8), nn.Sequential(RepBlock(SAME, 8, 8)), Sppf(8, 8))
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fold_module(network, probe_shape=(1, 3, 32, 32))
    kinds = [type(module) for module in folded.modules()]
    assert kinds.count(FoldedConv) == 4
    assert not any(issubclass(kind, BranchedConv | nn.BatchNorm2d) for kind in kinds)
    assert largest_error(network, folded, torch.randn(1, 3, 32, 32)) <= 1e-5
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_folding_gives_the_same_bits_each_time() -> None:
    """Builds must be reproducible."""
    network = lived_in(nn.Sequential(RepBlock(SAME, 8, 8), RepBlock(SAME, 8, 12)))
    one, two = fold_module(network).state_dict(), fold_module(network).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_activation_of_a_block_survives() -> None:
    """A ReLU that got lost would still pass a test on positive outputs."""
    x = torch.randn(1, 4, 8, 8)
    for relu in (True, False):
        folded = fold_module(lived_in(RepBlock(SAME, 4, 4, relu=relu)))
        assert bool((folded(x) < 0).any()) is not relu


def test_a_fold_that_is_not_equal_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof must be able to fail: here the last branch gets lost, as in the paper's code."""
    monkeypatch.setattr(
        torch_front, "add_branches", lambda kernels, g: add_branches(kernels[:-1] or kernels, g)
    )
    network = lived_in(nn.Sequential(ConvBlock(SAME, 3, 4), RepBlock(SAME, 4, 4)))
    with pytest.raises(ModelError, match="block 1 by"):
        fold_module(network)


def test_dead_channels_do_not_hide_a_wrong_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind ReLU this block is 0 everywhere, whatever its kernel; so we compare before it."""
    block = lived_in(RepBlock(SAME, 4, 4))
    with torch.no_grad():
        for norm in block.norms:
            norm.bias.fill_(-100.0)
    assert fold_module(block)(torch.randn(1, 4, 8, 8)).abs().max() == 0
    monkeypatch.setattr(
        torch_front, "add_branches", lambda kernels, g: add_branches(kernels[:-1], g)
    )
    with pytest.raises(ModelError, match="block RepBlock"):
        fold_module(block)


def test_a_fold_is_judged_by_the_function_not_by_the_rounding_of_the_branches() -> None:
    """Two branches that nearly cancel: the folded block is the exact one of the two."""
    block = lived_in(RepBlock(SAME, 4, 8, relu=False))
    for norm in block.norms:
        nn.init.ones_(norm.weight)
        norm.load_state_dict({**norm.state_dict(), "running_var": torch.ones(8)})
    dense, point = (branch.conv.weight for branch in block.linear_branches)
    with torch.no_grad():
        dense[:, :, 1, 1] += 1e4
        point -= 1e4
    folded, exact = fold_module(block), torch_front.in_float64(block)
    x = torch.randn(1, 4, 9, 9)
    with torch.no_grad():
        want = exact(x.double())
        errors = [float((want - net(x)).abs().max()) for net in (folded, block)]
    assert errors[0] * 100 < errors[1]


def test_a_network_in_training_mode_is_refused() -> None:
    """Its BatchNorms depend on the batch: there is no one function to fold."""
    with pytest.raises(ModelError, match=r"training mode.*eval"):
        fold_module(nn.Sequential(RepBlock(SAME, 4, 4)))


def test_a_block_with_nan_is_refused_by_name() -> None:
    """NaN compares unequal to everything, so a careless proof passes it."""
    network = lived_in(nn.Sequential(ConvBlock(SAME, 3, 4), RepBlock(SAME, 4, 4)))
    with torch.no_grad():
        network[1].branches["dense"].conv.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"block 1: a kernel holds NaN"):
        fold_module(network)


def test_a_negative_variance_is_refused_by_name() -> None:
    """A damaged checkpoint; its square root is NaN."""
    block = lived_in(nn.Sequential(RepBlock(SAME, 4, 4)))
    block[0].branches["identity"].running_var[2] = -1.0
    with pytest.raises(ModelError, match="block 0: a BatchNorm has the variance -1"):
        fold_module(block)


def test_a_batch_norm_outside_any_block_is_refused_by_name() -> None:
    """Unknown means stop: it would stay live without anybody having chosen that."""
    network = lived_in(nn.Sequential(ConvBlock(SAME, 3, 4), nn.BatchNorm2d(4)))
    with pytest.raises(ModelError, match="1 is a BatchNorm outside any block"):
        fold_module(network)


def test_a_batch_norm_without_statistics_is_refused() -> None:
    """It has no evaluation mode."""
    block = lived_in(RepBlock(SAME, 4, 4))
    block.branches["identity"] = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(ModelError, match="no running statistics"):
        fold_module(block.eval())


def test_branches_share_one_geometry() -> None:
    """Written twice, it drifts: stride, dilation and groups must reach every branch."""
    geometry = ConvGeometry.square(3, stride=2, dilation=2, groups=2)
    block = RepBlock(geometry, 4, 8)
    assert block.branches["pointwise"].geometry == geometry.pointwise
    conv = block.branches["pointwise"].conv
    assert (conv.stride, conv.groups, conv.kernel_size) == ((2, 2), 2, (1, 1))
