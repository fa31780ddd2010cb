"""Each device gets its shard folded as it likes; the pieces still equal the trained model."""

from pathlib import Path

import pytest

from edgekit.builder.build import build_bundle
from edgekit.builder.fuse import fuse
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.verify import verify_bundle
from edgekit.errors import ConfigError, PlanError
from edgekit.spec.fleet import Device, Fleet, local_fleet
from edgekit.spec.fusion import S3, S3_S1, S3_SS, S3_SS_S1, STRATEGIES, FusionRule, FusionStrategy
from tests.branch_graphs import Graph, rep_block
from tests.graphs import residual_model, saved


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Four blocks in a row, each followed by its activation."""
    graph = Graph(size=12)
    tensor = "x"
    for number in range(4):
        tensor = graph.op("Relu", [rep_block(graph, tensor)], f"stage{number}")
    return saved(graph.made(tensor), tmp_path / "net.onnx")


@pytest.fixture
def loaded(net: Path) -> LoadedModel:
    return load_model(net)


def kinds(shards) -> list[list[FusionStrategy]]:
    return [list(shard.values()) for shard in shards]


def test_without_rules_every_block_becomes_one_convolution(loaded: LoadedModel) -> None:
    fused = fuse(loaded, local_fleet(2), "auto")
    assert kinds(fused.strategies) == [[S3, S3], [S3, S3]]
    assert [op.op_type for op in fused.workload.ops if op.op_type != "Relu"] == ["Conv"] * 4


def test_each_device_folds_its_own_blocks_its_own_way(loaded: LoadedModel) -> None:
    """A board that runs int8 wants the identity live; one that runs fp32 does not."""
    fleet = Fleet(
        name="pair",
        device=(Device(name="a", fusion="S3+Ss"), Device(name="b", fusion_at={"3": "S3+S1"})),
    )
    fused = fuse(loaded, fleet, ["stage1"])
    assert kinds(fused.strategies) == [[S3_SS, S3_SS], [S3, S3_S1]]
    assert fused.cuts[0].names == ("stage1",)


def test_a_rule_of_the_command_line_wins_over_the_fleet_file(loaded: LoadedModel) -> None:
    fleet = Fleet(name="pair", device=(Device(name="a", fusion="S3+Ss"), Device(name="b")))
    rules = [FusionRule(strategy=S3_S1), FusionRule(strategy=S3_SS_S1, device="b", blocks="2")]
    assert kinds(fuse(loaded, fleet, ["stage1"], rules).strategies) == [
        [S3_S1, S3_S1],
        [S3_SS_S1, S3_S1],
    ]


def test_a_cut_means_the_same_under_every_strategy(loaded: LoadedModel) -> None:
    """So that a plan can change the strategy without looking for another cut."""
    found = [
        fuse(loaded, local_fleet(3), ["stage0", "stage2"], [FusionRule(strategy=strategy)])
        for strategy in STRATEGIES
    ]
    assert len({tuple(cut.names for cut in one.cuts) for one in found}) == 1
    assert len({tuple(cut.tensors for cut in one.cuts) for one in found}) == 1


def test_a_cut_through_a_block_is_refused_with_the_way_out(loaded: LoadedModel) -> None:
    inner = next(node.output[0] for node in loaded.proto.graph.node if node.op_type == "Conv")
    with pytest.raises(PlanError, match="inside the block") as caught:
        fuse(loaded, local_fleet(2), [inner])
    assert "--strategy none" in str(caught.value.hint)


def test_a_model_may_be_left_as_it_came(loaded: LoadedModel) -> None:
    fused = fuse(loaded, local_fleet(2), "auto", None)
    assert fused.model is loaded and fused.report is None


def test_a_rule_for_blocks_that_do_not_exist_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(ConfigError, match="matches none of the 4 blocks"):
        fuse(loaded, local_fleet(2), "auto", [FusionRule(strategy=S3_SS, blocks="4")])


def test_a_model_without_blocks_keeps_its_operators(tmp_path: Path) -> None:
    loaded = load_model(saved(residual_model(), tmp_path / "net.onnx"))
    assert fuse(loaded, local_fleet(2), "auto", [FusionRule(strategy=S3_SS)]).model is loaded
    with pytest.raises(ConfigError, match="matches none of the 0"):
        fuse(loaded, local_fleet(2), "auto", [FusionRule(strategy=S3_SS, blocks="0")])


def test_a_bundle_says_how_its_blocks_were_folded_and_equals_the_trained_model(
    net: Path, tmp_path: Path
) -> None:
    fleet = Fleet(name="pair", device=(Device(name="a", fusion="S3+Ss"), Device(name="b")))
    result = build_bundle(net, fleet=fleet, out=tmp_path / "bundle", rule=["stage1"])
    said = [[one.strategy for one in p.fusion] for p in result.bundle.plan.placements]
    assert said == [["S3+Ss", "S3+Ss"], ["S3", "S3"]]
    assert result.folded is not None and result.folded.max_relative_error <= 1e-5
    verify_bundle(result.bundle, net).raise_if_bad()


def test_a_strategy_that_cannot_be_read_names_the_device() -> None:
    with pytest.raises(ConfigError, match=r"device 'a'.*S9"):
        Device(name="a", fusion="S9")
