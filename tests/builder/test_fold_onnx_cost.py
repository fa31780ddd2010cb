"""The costs of strategies are those of the folded model, block by block and as a whole."""

from pathlib import Path

from edgekit.builder.fold.onnx_cost import cost_of, cost_strategies, strategies_of
from edgekit.builder.fold.onnx_find import find_blocks
from edgekit.builder.fold.onnx_fold import fold_model
from edgekit.builder.workload import workload_of
from edgekit.spec.fusion import STRATEGIES, FusionRule
from tests.branch_graphs import Graph, rep_block


def test_costs_are_what_the_folded_model_costs(tmp_path: Path) -> None:
    """Two blocks; a 3x3 over 4 channels and 81 pixels is 2 * 81 * 4 * 36 flop."""
    graph = Graph()
    second = rep_block(graph, graph.op("Relu", [rep_block(graph)]))
    loaded = graph.loaded(second, tmp_path)
    costs = cost_strategies(loaded, find_blocks(loaded))
    assert [strategy for strategy, _ in costs.model.by_strategy] == list(STRATEGIES)
    for strategy, cost in costs.model.by_strategy:
        folded, report = fold_model(loaded, [FusionRule(strategy=strategy)])
        assert cost == cost_of(workload_of(folded).ops)
        assert cost.op_count == report.ops_after
    for block in costs.blocks:
        work = [cost.work_flop for _, cost in block.by_strategy]
        assert work[0] == 2 * 81 * 4 * 36
        assert work == sorted(work)
        assert block.unfolded.op_count == 7
        assert len({cost.traffic_bytes for _, cost in block.by_strategy}) == 4


def test_only_strategies_that_differ_are_listed() -> None:
    """Up to sixteen for four kinds of branches; of more kinds none, each, and all."""
    assert [str(one) for one in strategies_of([])] == ["S3"]
    assert [str(one) for one in strategies_of(["1x1", "identity"])] == [
        "S3", "S3+Ss", "S3+S1", "S3+Ss+S1",
    ]  # fmt: skip
    assert len(strategies_of(["1x1", "3x3", "5x5", "identity"])) == 16
    assert len(strategies_of(["1x1", "3x3", "5x5", "1x3", "identity"])) == 7


def test_blocks_of_different_branches_list_their_own(tmp_path: Path) -> None:
    """A block without identity has two strategies, one with it four."""
    graph = Graph()
    first = graph.op("Add", [graph.conv_norm("x"), graph.conv_norm("x", 4, 1)])
    loaded = graph.loaded(rep_block(graph, graph.op("Relu", [first])), tmp_path)
    costs = cost_strategies(loaded, find_blocks(loaded))
    assert [len(block.by_strategy) for block in costs.blocks] == [2, 4]
