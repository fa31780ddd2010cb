"""The proof of a fold fails when it should, names the block, and knows rounding from error."""

import logging
from pathlib import Path

import numpy as np
import pytest

from edgekit.builder.fold import onnx_conv_bn, onnx_emit
from edgekit.builder.fold.algebra import Kernel
from edgekit.builder.fold.merge import sum_branches
from edgekit.builder.fold.onnx_fold import fold_blocks, fold_model
from edgekit.errors import ModelError
from edgekit.spec.fusion import S3, S3_SS, FusionRule
from tests.branch_graphs import Graph, rep_block

ALL = [FusionRule(strategy=S3)]


def _wrong_by(share: float) -> object:
    def sum_wrongly(kernels: list[Kernel]) -> Kernel:
        right = sum_branches(kernels)
        return Kernel(geometry=right.geometry, weight=right.weight * (1 + share), bias=right.bias)

    return sum_wrongly


def test_a_wrong_block_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One part in ten thousand is enough."""
    graph = Graph()
    first = graph.op("Relu", [rep_block(graph)])
    total = rep_block(graph, first)
    loaded = graph.loaded(total, tmp_path)
    monkeypatch.setattr(onnx_emit, "sum_branches", _wrong_by(1e-4))
    with pytest.raises(ModelError, match=r"block \S+: folding moved its output by .*e-0[45]"):
        fold_model(loaded, ALL)
    with pytest.raises(ModelError, match=f"block {total}: "):
        fold_blocks(loaded, {total: S3})


def test_a_wrong_convolution_outside_blocks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those are proved together; the first that moved is looked for."""
    graph = Graph()
    first = graph.op("Relu", [graph.conv_norm("x")])
    loaded = graph.loaded(graph.conv_norm(first), tmp_path)
    right = onnx_conv_bn.fold_batch_norm

    def wrong_second(kernel: Kernel, norm: object) -> Kernel:
        wrong_second.calls += 1  # type: ignore[attr-defined]
        made = right(kernel, norm)  # type: ignore[arg-type]
        factor = 1.001 if wrong_second.calls == 2 else 1.0  # type: ignore[attr-defined]
        return Kernel(geometry=made.geometry, weight=made.weight * factor, bias=made.bias)

    wrong_second.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(onnx_conv_bn, "fold_batch_norm", wrong_second)
    name = loaded.proto.graph.node[3].name
    with pytest.raises(ModelError, match=f"the first that moved is block {name} "):
        fold_model(loaded, [])


def test_branches_that_nearly_cancel_are_no_error_of_the_fold(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In float32 the unfolded graph rounds large numbers away; float64 decides."""
    graph = Graph()
    dense, other = graph.conv("x", 4, 3), graph.conv("x", 4, 3)
    big, small = (graph.weights[node.input[1]] for node in graph.nodes)
    small[:] = -(big * 3e4) + small
    big *= 3e4
    total = graph.op("Add", [dense, other])
    loaded = graph.loaded(graph.op("Add", [total, graph.norm("x")]), tmp_path)
    caplog.set_level(logging.INFO)
    folded, report = fold_model(loaded, ALL)
    assert "comparing with float64" in caplog.text
    assert report.max_relative_error <= 1e-5
    assert [node.op_type for node in folded.proto.graph.node] == ["Conv", "Relu"]
    assert np.isfinite(report.blocks[0].relative_error)


def test_a_model_without_anything_to_fold_is_returned_as_it_is(tmp_path: Path) -> None:
    """No rewriting, no proof, no new bytes."""
    graph = Graph()
    loaded = graph.loaded(graph.conv("x"), tmp_path)
    folded, report = fold_model(loaded, [FusionRule(strategy=S3_SS)])
    assert folded is loaded
    assert (report.blocks, report.conv_bn_count, report.max_relative_error) == ((), 0, 0.0)
