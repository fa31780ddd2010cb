"""The planner sees the model once for each strategy that makes a difference, and the same cuts."""

from pathlib import Path

import pytest

from edgekit.builder.load import load_model
from edgekit.builder.plan_inputs import variants_of
from edgekit.planner.cuts import legal_cuts, resolve_cut
from tests.branch_graphs import Graph, rep_block
from tests.graphs import residual_model, saved
from tests.world import data


def test_every_strategy_is_a_variant_with_the_same_cuts(tmp_path: Path) -> None:
    """A cut of the folded model must exist under all of them."""
    graph = Graph(size=12)
    first = graph.op("Relu", [rep_block(graph)], "stage0")
    path = saved(graph.made(rep_block(graph, first)), tmp_path / "net.onnx")
    variants = variants_of(load_model(path))
    assert [one.strategy for one in variants] == ["S3", "S3+Ss", "S3+S1", "S3+Ss+S1"]
    reference = variants[0].workload
    assert all(len(one.workload.ops) > len(reference.ops) for one in variants[1:])
    for cut in legal_cuts(reference).cuts:
        for one in variants:
            assert resolve_cut(one.workload, cut.names).nbytes == cut.nbytes


def test_a_model_without_blocks_has_one_variant(tmp_path: Path) -> None:
    """Four equal ones would only make the search four times as long."""
    variants = variants_of(load_model(saved(residual_model(), tmp_path / "net.onnx")))
    assert [one.strategy for one in variants] == ["S3"]


@pytest.mark.integration
def test_a_real_detector_without_branches_has_one_variant() -> None:
    path = data("models/yolox_nano/yolox_nano_416x416.onnx")
    assert len(variants_of(load_model(path))) == 1
