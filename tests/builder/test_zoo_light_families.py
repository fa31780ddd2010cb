"""MobileNetV1, ShuffleNetV1, EfficientNet-B0, GoogLeNet: with branches, and folded just these."""

from itertools import combinations

import pytest
import torch
from torch import nn

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.fold.torch_front import fold_module, in_float64
from edgekit.builder.zoo.blocks import BranchedConv
from edgekit.builder.zoo.classifier import Classifier
from edgekit.builder.zoo.rep_efficientnet import STAGES, RepEfficientNetB0, _Excite, _MbConv
from edgekit.builder.zoo.rep_googlenet import STAGES as GOOGLENET_STAGES
from edgekit.builder.zoo.rep_googlenet import (
    Columns,
    InceptionModule,
    RepGoogLeNet,
    RepGoogLeNetSummed,
    SummedModule,
)
from edgekit.builder.zoo.rep_mobilenet import RepMobileNetV1
from edgekit.builder.zoo.rep_shufflenet import RepShuffleNetV1, _Down, _Shuffle, _Unit
from edgekit.spec.fusion import S3, S3_S1, S3_SS, S3_SS_S1, STRATEGIES, FusionStrategy
from tests.builder.zoo_world import (
    EVERY_BRANCH,
    exported,
    folded_multiply_adds,
    folded_parameter_count,
    images,
    kinds_of,
    lived_in,
    norm_channel_count,
    on_paper,
    parameter_count,
    relative_error,
    run_onnx,
)

Family = type[Classifier]
FAMILIES = (RepMobileNetV1, RepShuffleNetV1, RepEfficientNetB0, RepGoogLeNet, RepGoogLeNetSummed)
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)


def tiny(family: Family, *, small_input: bool = True, seed: int = 0) -> Classifier:
    return family(width=0.125, class_count=10, small_input=small_input, seed=seed)


@pytest.mark.parametrize(
    ("family", "published"),
    [(RepMobileNetV1, 4_231_976), (RepShuffleNetV1, 1_865_728), (RepEfficientNetB0, 5_288_548)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_folded_it_has_the_published_parameters(family: Family, published: int) -> None:
    """4.2 M, 1.87 M and 5.3 M: trained numbers of the networks that these tables describe.

    They count gamma and beta of each BatchNorm, of which a bias is left when it is folded.
    """
    network = on_paper(family)
    assert folded_parameter_count(network) + norm_channel_count(network) == published


def test_googlenet_has_the_published_parameters() -> None:
    """The published network has no BatchNorm but biases: what ours has when it is folded."""
    assert folded_parameter_count(on_paper(RepGoogLeNet)) == 6_998_552


@pytest.mark.parametrize(
    ("family", "published_m"),
    [(RepMobileNetV1, 569), (RepShuffleNetV1, 137), (RepEfficientNetB0, 390), (RepGoogLeNet, 1583)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_folded_it_has_the_published_work(family: Family, published_m: float) -> None:
    """Million multiply-adds for one image of 224 px: sizes and strides are those of the tables."""
    counted = folded_multiply_adds(on_paper(family), (1, 3, 224, 224))
    assert counted / 1e6 == pytest.approx(published_m, rel=0.015)


def test_the_summed_googlenet_is_as_large_as_its_docstring_says() -> None:
    """Nobody should choose it believing that it is GoogLeNet."""
    network = on_paper(RepGoogLeNetSummed)
    assert round(folded_parameter_count(network) / 1e6) == 81
    assert round(folded_multiply_adds(network, (1, 3, 224, 224)) / 1e9) == 13


def test_googlenet_joins_as_many_channels_as_table_1_says() -> None:
    """256, 480, then 512 to 832, then 832 and 1024."""
    widths = [[columns.out_count for columns in stage] for stage in GOOGLENET_STAGES]
    assert widths == [[256, 480], [512, 512, 512, 528, 832], [832, 1024]]


def test_the_stem_of_googlenet_has_the_branches_of_the_paper() -> None:
    """7x7 with 3x3 and 1x1 beside it, all with the stem's stride."""
    stem = tiny(RepGoogLeNet, small_input=False).features[0]
    assert isinstance(stem, BranchedConv)
    assert stem.geometry == ConvGeometry.square(7, stride=2)
    assert stem.kinds == {"k3": "3x3", "k1": "1x1"}


@each_family
def test_every_strategy_gives_the_function_that_was_trained(family: Family) -> None:
    """A branch is folded or live, never dropped; each block is proved too, by fold_module.

    The sizes differ: a strategy without any effect would pass a comparison of outputs.
    """
    network = lived_in(tiny(family))
    batch = images(1, 3, 32, 32)
    has_more = not kinds_of(network) <= {"identity", "1x1"}
    counts = {}
    with torch.no_grad():
        want = in_float64(network)(batch.double())
        for strategy in (*STRATEGIES, *([EVERY_BRANCH] if has_more else [])):
            folded = fold_module(network, strategy=strategy)
            assert relative_error(want, folded(batch)) <= 1e-5, str(strategy)
            assert not any(isinstance(m, nn.BatchNorm2d | BranchedConv) for m in folded.modules())
            counts[strategy] = parameter_count(folded)
    assert counts[S3] == folded_parameter_count(network)
    assert counts[S3] < counts[S3_S1] <= counts[S3_SS_S1]
    assert (counts[S3] < counts[S3_SS]) is ("identity" in kinds_of(network))


def test_any_subset_of_branches_may_stay_live() -> None:
    """2^4 strategies of one GoogLeNet block, all of them one function (fold_module proves it)."""
    kinds = ("identity", "1x1", "3x3", "pool")
    for in_count, possible in ((8, set(kinds)), (4, set(kinds) - {"identity"})):
        block = lived_in(SummedModule(in_count, 8))
        assert set(block.kinds.values()) == possible
        for live in (some for size in range(5) for some in combinations(kinds, size)):
            folded = fold_module(block, strategy=FusionStrategy(live=live))
            convs = sum(isinstance(layer, nn.Conv2d) for layer in folded.modules())
            pools = sum(isinstance(layer, nn.AvgPool2d) for layer in folded.modules())
            assert pools == ("pool" in live)
            # The BatchNorm behind a live pool is a 1x1; where channels differ, one stands before.
            beside_pool = pools * (2 if in_count == 4 else 1)
            assert convs == 1 + len(set(live) & possible - {"pool"}) + beside_pool


@each_family
@pytest.mark.parametrize(("small_input", "stride"), [(True, 8), (False, 32)], ids=["8", "32"])
def test_small_inputs_are_halved_less_often(family: Family, small_input: bool, stride: int) -> None:
    """32 px end as 4x4, where total stride 32 would leave one pixel."""
    network = tiny(family, small_input=small_input).eval()
    with torch.no_grad():
        features = network.features(torch.zeros(1, 3, 2 * stride, 3 * stride))
        logits = network(torch.zeros(2, 3, 2 * stride, 3 * stride))
    assert features.shape[2:] == (2, 3)
    assert logits.shape == (2, 10)


@each_family
def test_gray_images_of_28_px_are_taken_too(family: Family) -> None:
    """MNIST; the number of channels is that of the configuration's input shape."""
    network = family(width=0.125, class_count=10, small_input=True, input_shape=(1, 1, 28, 28))
    assert network.eval()(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


@each_family
def test_one_seed_gives_one_set_of_weights_and_leaves_the_global_seed_alone(
    family: Family,
) -> None:
    """Training is deterministic; building a network must not shift anybody's random numbers."""
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, two, other = (tiny(family, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


@each_family
def test_all_weights_learn(family: Family) -> None:
    """A branch or column that is not connected would keep its first weights for ever."""
    network = tiny(family)
    network(images(4, 3, 32, 32)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@each_family
@pytest.mark.parametrize("width", [0.05, 0.25, 0.5, 0.75, 1.5], ids=str)
def test_any_width_is_a_network(family: Family, width: float) -> None:
    """Channels must divide by groups, and a stage that appends must have something to append."""
    network = on_paper(family, width=width)
    assert network(torch.zeros(1, 3, 64, 64, device="meta")).shape == (1, 1000)


def test_a_shuffle_deals_the_groups_out() -> None:
    """Figure 1 of the paper: after it, each group has channels of all groups."""
    channels = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert _Shuffle()(channels).flatten().tolist() == [0, 2, 4, 1, 3, 5]


def test_excitation_weighs_whole_channels() -> None:
    """Between 0 and 1, the same at every place of a channel."""
    batch = images(2, 4, 5, 6) + 5
    weights = (_Excite(4, 2)(batch) / batch).flatten(2)
    assert weights.std(dim=2).max() < 1e-6
    assert 0 < weights.min() <= weights.max() < 1


def test_each_kind_of_block_answers_in_onnx_as_in_torch() -> None:
    """All in one small network, half folded; the whole networks follow in the slow tests."""
    columns = Columns(point=8, reduce3=8, three=16, reduce5=8, five=8, pool=8)
    network = lived_in(
        nn.Sequential(
            _Down(24, 48, first_groups=1), _Unit(48), _MbConv(48, 48, STAGES[2], 1),
            InceptionModule(48, columns), SummedModule(40, 40), SummedModule(40, 8),
        )
    )  # fmt: skip
    batch = images(2, 24, 14, 10)
    with torch.no_grad():
        want = in_float64(network)(batch.double())
    (got,) = run_onnx(exported(fold_module(network, strategy=S3_S1), batch), batch)
    assert relative_error(want, got) <= 1e-5


@pytest.mark.slow
@each_family
@pytest.mark.parametrize("strategy", [None, *STRATEGIES], ids=lambda s: str(s or "as trained"))
def test_whole_networks_answer_in_onnx_as_in_torch(
    family: Family, strategy: FusionStrategy | None
) -> None:
    """The exporter takes seconds for each."""
    network = lived_in(tiny(family))
    batch = images(1, 3, 32, 32)
    with torch.no_grad():
        want = in_float64(network)(batch.double())
    form = network if strategy is None else fold_module(network, strategy=strategy)
    (got,) = run_onnx(exported(form, batch), batch)
    assert relative_error(want, got) <= 1e-5
