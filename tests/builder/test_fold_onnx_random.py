"""Folding of ONNX graphs: whatever the block, every strategy is the same function."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.builder.fold.onnx_cost import strategies_of
from edgekit.builder.fold.onnx_find import find_blocks
from edgekit.builder.fold.onnx_fold import fold_model
from edgekit.builder.probe import run_proto, seeded_inputs
from edgekit.spec.fusion import FusionRule
from tests.branch_graphs import Graph, random_blocks


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_blocks(), st.data())
def test_random_blocks_are_found_whole_and_equal_under_every_strategy(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[Graph, str], data: st.DataObject
) -> None:
    """Sizes 1 to 7, strides, groups, dilation, bias, Sum and Add, Mul and Add as BatchNorm."""
    graph, total = made
    loaded = graph.loaded(total, tmp_path_factory.mktemp("fold"))
    found = find_blocks(loaded)
    assert found.names, found.near_misses
    (block,) = found.blocks
    assert len(block.ops) == len(loaded.proto.graph.node) - 1, (block.note, block.ops)
    strategy = data.draw(st.sampled_from(strategies_of(block.live_kinds)))
    folded, report = fold_model(loaded, [FusionRule(strategy=strategy)])
    assert report.max_relative_error <= 1e-5
    kinds = [node.op_type for node in folded.proto.graph.node]
    assert "BatchNormalization" not in kinds
    assert block.output in {name for node in folded.proto.graph.node for name in node.output}
    if not strategy.live:
        assert kinds == ["Conv", "Relu"]
    again = run_proto(folded.proto, seeded_inputs(loaded.inputs, 1), optimization="all")
    assert again.keys() == {"end"}
