"""Folding whole torch networks, each block by its strategy, and the proof that comes with it."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgekit.builder.fold import torch_front
from edgekit.builder.fold.algebra import add_branches
from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.fold.torch_front import block_names, fold_module
from edgekit.builder.zoo.blocks import (
    BranchedConv,
    ConvBlock,
    ConvBn,
    FoldedConv,
    MobileOneBlock,
    PartlyFolded,
    QaRepBlock,
    RepBlock,
    Sppf,
    pointwise_first_branch,
    pool_branch,
)
from edgekit.errors import ConfigError, ModelError
from edgekit.spec.fusion import (
    S3,
    S3_S1,
    S3_SS,
    S3_SS_S1,
    STRATEGIES,
    FusionRule,
    FusionStrategy,
    parse_strategy,
)

SAME, POINT = ConvGeometry.square(3), ConvGeometry.square(1)


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


def largest_error(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    """Against float64, as everywhere: cancelling branches round in float32, folded or not."""
    with torch.no_grad():
        want, got = torch_front.in_float64(one)(x.double()), other(x)
    return float((want - got).abs().max() / want.abs().max())


def diverse(geometry: ConvGeometry, in_count: int, out_count: int, names: set[str]) -> nn.Module:
    """A block with all kinds of branches that exist, of which ``names`` are taken."""
    same = geometry.keeps_size and in_count == out_count
    choices: dict[str, Callable[[], nn.Module]] = {
        "deep": lambda: pointwise_first_branch(geometry, in_count, 2 * in_count, out_count),
        "point": lambda: ConvBn(geometry.pointwise, in_count, out_count),
        "bare": lambda: nn.Conv2d(
            in_count, out_count, geometry.kernel, geometry.stride, geometry.padding,
            geometry.dilation, geometry.groups,
        ),
    }  # fmt: skip
    if same:
        choices |= {"shortcut": nn.Identity, "scaled": lambda: nn.BatchNorm2d(in_count)}
    if in_count == out_count and geometry.dilation == (1, 1):
        choices["mean"] = lambda: pool_branch(geometry, in_count)
    branches: dict[str, nn.Module] = {"dense": ConvBn(geometry, in_count, out_count)}
    branches |= {name: make() for name, make in choices.items() if name in names}
    after = nn.BatchNorm2d(out_count) if "after" in names else None
    return BranchedConv(geometry, in_count, out_count, branches, relu=False, after=after)


@settings(max_examples=80, deadline=None)
@given(
    kernel=st.sampled_from((1, 3, 5, 7)), stride=st.integers(1, 3), dilation=st.integers(1, 3),
    groups=st.integers(1, 3), channels=st.integers(1, 4), same=st.booleans(),
    names=st.sets(
        st.sampled_from(("deep", "point", "bare", "shortcut", "scaled", "mean", "after"))
    ),
    live=st.sets(st.sampled_from(("identity", "1x1", "copy", "pool"))), seed=st.integers(0, 1000),
)  # fmt: skip
def test_a_folded_block_answers_as_the_trained_one(
    kernel: int, stride: int, dilation: int, groups: int, channels: int, same: bool,
    names: set[str], live: set[str], seed: int,
) -> None:  # fmt: skip
    """Random geometries, sets of branches and strategies: nothing is dropped."""
    torch.manual_seed(seed)
    geometry = ConvGeometry.square(kernel, stride=stride, dilation=dilation, groups=groups)
    in_count = channels * groups
    out_count = in_count if same else in_count + groups
    block = lived_in(diverse(geometry, in_count, out_count, names), seed)
    folded = fold_module(block, strategy=FusionStrategy(live=tuple(sorted(live))))
    assert isinstance(folded, FoldedConv)
    kept = sum(kind in live for kind in block.kinds.values())
    assert len(getattr(folded, "live", ())) == kept
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert largest_error(block, folded, torch.randn(2, in_count, 20, 24)) <= 1e-5


def rep_network() -> nn.Module:
    return lived_in(
        nn.Sequential(
            ConvBlock(SAME, 3, 8),
            RepBlock(SAME, 8, 8),
            nn.Sequential(RepBlock(SAME, 8, 16), RepBlock(SAME, 16, 16)),
            Sppf(16, 8),
        )
    )


def live_branches(network: nn.Module) -> dict[str, list[str]]:
    return {
        name: list(block.live)
        for name, block in network.named_modules()
        if isinstance(block, PartlyFolded)
    }


def test_every_block_of_a_network_is_folded_and_the_network_is_untouched() -> None:
    """The caller may go on training what was given."""
    network = rep_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fold_module(network, probe_shape=(1, 3, 32, 32))
    kinds = [type(module) for module in folded.modules()]
    assert kinds.count(FoldedConv) == 6
    assert not any(issubclass(kind, BranchedConv | nn.BatchNorm2d) for kind in kinds)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_all_strategies_are_the_same_function(strategy: FusionStrategy) -> None:
    """A branch is folded or kept live, never dropped: the paper's own code drops it."""
    network = rep_network()
    folded = fold_module(network, strategy=strategy, probe_shape=(1, 3, 32, 32))
    wanted = {"identity": "identity", "1x1": "pointwise"}
    names = [wanted[kind] for kind in ("1x1", "identity") if strategy.keeps(kind)]
    all_live = {"1": names, "2.0": [n for n in names if n == "pointwise"], "2.1": names}
    assert live_branches(folded) == {name: live for name, live in all_live.items() if live}
    assert largest_error(network, folded, torch.rand(2, 3, 24, 40)) <= 1e-5


def test_blocks_are_named_by_path_and_single_branches_are_none() -> None:
    """The names and numbers that rules use; a plain convolution has nothing to choose."""
    assert block_names(rep_network()) == ("1", "2.0", "2.1")
    assert block_names(RepBlock(SAME, 4, 4)) == ("RepBlock",)
    assert block_names(nn.Sequential(ConvBlock(SAME, 3, 4))) == ()


def test_each_block_may_have_its_own_strategy() -> None:
    """By name, where the others fold fully; or by rules over names, numbers and ranges."""
    network = rep_network()
    assert live_branches(fold_module(network, strategy={"1": S3_SS, "2.0": S3})) == {
        "1": ["identity"]
    }
    rules = [FusionRule(strategy=S3_SS_S1), FusionRule(strategy=S3_S1, blocks="1-2")]
    by_range = live_branches(fold_module(network, strategy=rules))
    assert by_range == {
        "1": ["pointwise", "identity"], "2.0": ["pointwise"], "2.1": ["pointwise"],
    }  # fmt: skip


def test_a_strategy_for_a_block_that_is_not_there_is_refused() -> None:
    """A typing error must not fold a model in another way than asked."""
    with pytest.raises(ConfigError, match=r"no block '0' with branches.*1, 2\.0, 2\.1"):
        fold_module(rep_network(), strategy={"0": S3_SS})
    with pytest.raises(ConfigError, match="matches none of the 3 blocks"):
        fold_module(rep_network(), strategy=[FusionRule(strategy=S3, blocks="7")])


def test_further_kinds_of_branches_stay_live_when_asked() -> None:
    """Pools, copies and other kernel sizes, as Rep-GoogLeNet and MobileOne have them."""
    wide = ConvGeometry.square(5)
    branches = {
        "large": ConvBn(wide, 4, 4), "copy": ConvBn(wide, 4, 4), "small": ConvBn(SAME, 4, 4),
        "mean": pool_branch(wide, 4),
    }  # fmt: skip
    block = lived_in(BranchedConv(wide, 4, 4, branches, relu=False))
    for text, kept in (("S3+Sp", ["mean"]), ("S3+Sc", ["copy"]), ("S3+S3x3+Sp", ["small", "mean"])):
        folded = fold_module(block, strategy=parse_strategy(text))
        assert isinstance(folded, PartlyFolded)
        assert list(folded.live) == kept
        assert largest_error(block, folded, torch.randn(1, 4, 9, 9)) <= 1e-5


def test_a_live_shortcut_without_any_number_stays_an_identity() -> None:
    """Nothing to multiply: no convolution is made up for it."""
    block = BranchedConv(SAME, 4, 4, {"dense": ConvBn(SAME, 4, 4), "shortcut": nn.Identity()})
    folded = fold_module(lived_in(block), strategy=S3_SS)
    assert isinstance(folded.live["shortcut"], nn.Identity)


def test_a_batch_norm_over_the_sum_is_shared_out_to_the_branches() -> None:
    """Its scale to all of them, its shift to one: QARepVGG folds under every strategy."""
    block = lived_in(QaRepBlock(SAME, 6, 6, relu=False))
    for strategy in STRATEGIES:
        folded = fold_module(block, strategy=strategy)
        assert largest_error(block, folded, torch.randn(2, 6, 9, 9)) <= 1e-5


def test_a_block_that_is_used_twice_is_folded_at_both_places() -> None:
    """Weights may be shared; a place that was missed would keep its BatchNorm."""
    shared = RepBlock(SAME, 4, 4)
    network = lived_in(nn.Sequential(shared, nn.MaxPool2d(2), shared))
    folded = fold_module(network, strategy=S3_SS, probe_shape=(1, 4, 16, 16))
    assert folded[0] is folded[2]
    assert block_names(network) == ("0",)


def test_folding_what_is_folded_changes_nothing() -> None:
    """So the order of tools does not matter."""
    once = fold_module(rep_network(), strategy=S3_SS)
    twice = fold_module(once).state_dict()
    assert all(torch.equal(value, twice[name]) for name, value in once.state_dict().items())


def test_folding_gives_the_same_bits_each_time() -> None:
    """Builds must be reproducible."""
    network = lived_in(nn.Sequential(RepBlock(SAME, 8, 8), MobileOneBlock(SAME, 8, 12)))
    for strategy in (S3, S3_SS_S1):
        one, two = (fold_module(network, strategy=strategy).state_dict() for _ in range(2))
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_activation_of_a_block_survives() -> None:
    """A ReLU that got lost would still pass a test on positive outputs."""
    x = torch.randn(1, 4, 8, 8)
    for strategy in (S3, S3_SS):
        for relu in (True, False):
            folded = fold_module(lived_in(RepBlock(SAME, 4, 4, relu=relu)), strategy=strategy)
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
    x = torch.randn(1, 4, 9, 9)
    assert largest_error(block, fold_module(block), x) * 100 < largest_error(block, block, x)


def test_a_network_in_training_mode_is_refused() -> None:
    """Its BatchNorms depend on the batch: there is no one function to fold."""
    with pytest.raises(ModelError, match=r"training mode.*eval"):
        fold_module(nn.Sequential(RepBlock(SAME, 4, 4)))


def with_nan(block: BranchedConv) -> None:
    with torch.no_grad():
        block.branches["dense"].conv.weight[0, 0, 0, 0] = float("nan")


def with_negative_variance(block: BranchedConv) -> None:
    block.branches["identity"].running_var[2] = -1.0


def with_zero_variance(block: BranchedConv) -> None:
    block.branches["identity"].running_var[2] = 0.0
    block.branches["identity"].eps = 0.0


def with_no_statistics(block: BranchedConv) -> None:
    block.branches["identity"] = nn.BatchNorm2d(4, track_running_stats=False).eval()


def with_activation(block: BranchedConv) -> None:
    block.branches["pointwise"] = nn.Sequential(block.branches["pointwise"], nn.ReLU())


def with_other_stride(block: BranchedConv) -> None:
    block.branches["pointwise"] = ConvBn(ConvGeometry.square(1, stride=2), 4, 4).eval()


def with_other_size(block: BranchedConv) -> None:
    block.branches["pointwise"] = ConvBn(ConvGeometry(padding=(0, 0)), 4, 4).eval()


def with_larger_kernel(block: BranchedConv) -> None:
    block.branches["pointwise"] = ConvBn(ConvGeometry.square(5), 4, 4).eval()


def with_other_channels(block: BranchedConv) -> None:
    block.branches["pointwise"] = ConvBn(POINT, 4, 5).eval()


def with_other_padding(block: BranchedConv) -> None:
    block.branches["pointwise"] = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")


def with_pool_that_leaves_padding_out(block: BranchedConv) -> None:
    pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    block.branches["pointwise"] = pool


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (with_nan, "branch dense: a kernel holds NaN"),
        (with_negative_variance, "branch identity: a BatchNorm has the variance -1"),
        (with_zero_variance, "branch identity: a BatchNorm has the variance 0"),
        (with_no_statistics, "branch identity: .* no running statistics"),
        (with_activation, "branch pointwise: it holds a ReLU"),
        (with_other_stride, r"branch pointwise: stride \(2, 2\)"),
        (with_other_size, "branch pointwise: .* another output size"),
        (with_larger_kernel, r"branch pointwise: .*\(5, 5\)"),
        (with_other_channels, "branches have different channels"),
        (with_other_padding, "branch pointwise: .*'reflect'"),
        (with_pool_that_leaves_padding_out, "branch pointwise: .*does not count the padding"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_branch_that_cannot_be_folded_is_refused_by_name(
    spoil: Callable[[BranchedConv], None], why: str
) -> None:
    """The block, the branch and the reason; NaN compares unequal to everything and is seen."""
    network = lived_in(nn.Sequential(ConvBlock(SAME, 3, 4), RepBlock(SAME, 4, 4)))
    spoil(network[1])
    network.eval()
    with pytest.raises(ModelError, match=f"block 1: {why}"):
        fold_module(network)


def test_a_dead_channel_does_not_stop_a_fold() -> None:
    """After long training its variance is 0; with an epsilon the function is well defined."""
    block = lived_in(RepBlock(SAME, 4, 4))
    block.branches["identity"].running_var[2] = 0.0
    assert largest_error(block, fold_module(block), torch.randn(1, 4, 8, 8)) <= 1e-5


def test_a_part_in_training_mode_is_refused_by_name() -> None:
    """Whoever freezes parts of a network easily leaves one behind."""
    network = rep_network()
    network[1].branches["identity"].train()
    with pytest.raises(ModelError, match=r"^1\.branches\.identity is in training mode"):
        fold_module(network)


def test_folding_leaves_the_random_numbers_of_the_caller_alone() -> None:
    """Folding between two training steps must not change the second one."""
    network = rep_network()
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    fold_module(network, strategy=S3_SS, probe_shape=(1, 3, 32, 32))
    assert torch.equal(torch.rand(3), want)


class Amplifying(nn.Module):
    """Two blocks whose difference is small: rounding becomes a large part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.one = lived_in(RepBlock(SAME, 4, 4, relu=False))
        self.two = lived_in(RepBlock(SAME, 4, 4, relu=False))
        self.two.load_state_dict(self.one.state_dict())
        with torch.no_grad():
            self.two.branches["dense"].conv.weight[0, 0, 0, 0] += 1e-3

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) - self.two(x)


def test_a_network_that_amplifies_rounding_is_held_to_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No float32 form of it is within 1e-5, also not the trained one; so we say so and go on."""
    torch.manual_seed(0)
    network = Amplifying().eval()
    assert largest_error(network, network, torch.rand(1, 4, 16, 16)) > 1e-5
    fold_module(network, probe_shape=(1, 4, 16, 16))
    assert "off in float32 before anything is changed" in caplog.text


def test_rounding_is_no_excuse_for_a_wrong_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network may be four times as far off as it is anyway, and never more than 1e-3."""
    for rounding, limit in ((0.0, 1e-5), (2e-6, 1e-5), (1e-5, 4e-5), (0.1, 1e-3)):
        assert torch_front.float32_limit("it", rounding) == pytest.approx(limit)
    torch.manual_seed(0)
    network = Amplifying().eval()
    with torch.no_grad():
        network.two.load_state_dict(network.one.state_dict())
        network.two.branches["dense"].conv.weight[0, 0, 0, 0] += 1e-7
    with pytest.raises(ModelError, match=r"output 0 of Amplifying by .* limit 1e-03"):
        fold_module(network, probe_shape=(1, 4, 16, 16))
