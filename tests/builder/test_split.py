"""Splitting: the chained shards are the whole model, bit by bit, at any legal cuts."""

from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import to_bytes
from edgekit.builder.split import shard_weight_bytes, split_model
from edgekit.builder.verify import VerifyReport, random_labelled, verify_chain
from edgekit.builder.workload import workload_of
from edgekit.errors import PlanError
from edgekit.planner.cuts import legal_cuts, partition, resolve_cut
from edgekit.spec.plan import Cut
from edgekit.spec.workload import Workload
from tests.graphs import random_models, residual_model, saved


def verified(
    loaded: LoadedModel, workload: Workload, cuts: list[Cut], folder: Path
) -> VerifyReport:
    """Write the shards, run them in a chain, compare with the whole."""
    paths = []
    for index, shard in enumerate(split_model(loaded, workload, cuts)):
        onnx.checker.check_model(shard)
        paths.append(folder / f"shard-{index}.onnx")
        paths[-1].write_bytes(to_bytes(shard))
    leaving = [*(cut.names for cut in cuts), loaded.parts.output_names]
    return verify_chain(loaded, paths, leaving, random_labelled(loaded.inputs, [5]))


def random_chain(workload: Workload, data: st.DataObject) -> list[Cut]:
    """Up to three cuts, each below the one before."""
    chain: list[Cut] = []
    cuts = legal_cuts(workload, max_tensors=6).cuts
    for cut in data.draw(st.lists(st.sampled_from(cuts), max_size=6)) if cuts else []:
        for position in range(len(chain) + 1):
            longer = [*chain[:position], cut, *chain[position:]]
            try:
                partition(workload, longer)
            except PlanError:
                continue
            chain = longer
            break
    return chain[:3]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_models(), st.data())
def test_any_chain_of_legal_cuts_gives_the_whole_model_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, proto: onnx.ModelProto, data: st.DataObject
) -> None:
    """Skip connections, several outputs, early outputs, split tensors, made weights."""
    folder = tmp_path_factory.mktemp("split")
    loaded = load_model(saved(proto, folder / "whole.onnx"))
    workload = workload_of(loaded)
    report = verified(loaded, workload, random_chain(workload, data), folder)
    equal, compared = report.bit_equal("extended")
    assert equal == compared > 0
    assert report.worst("all") <= 1e-5


@pytest.fixture
def residual(tmp_path: Path) -> tuple[LoadedModel, Workload]:
    loaded = load_model(saved(residual_model(), tmp_path / "net.onnx"))
    return loaded, workload_of(loaded)


def test_a_shard_declares_what_it_reads_and_makes_and_nothing_else(
    residual: tuple[LoadedModel, Workload],
) -> None:
    """An early output is carried past the second shard, not through it."""
    loaded, workload = residual
    first, second = (resolve_cut(workload, names) for names in (["r0", "early"], ["early", "sum"]))
    shards = split_model(loaded, workload, [first, second])
    ends = [([v.name for v in s.graph.input], [v.name for v in s.graph.output]) for s in shards]
    assert ends == [(["image"], ["r0", "early"]), (["r0"], ["sum"]), (["sum"], ["late"])]
    assert [[t.name for t in s.graph.initializer] for s in shards] == [["w0"], ["w1"], []]


def test_weights_are_counted_once_per_shard(residual: tuple[LoadedModel, Workload]) -> None:
    """Two 2x2x3x3 kernels in seven operators."""
    loaded, _ = residual
    assert shard_weight_bytes(loaded, range(7)) == 2 * 36 * 4
    assert shard_weight_bytes(loaded, [1, 2]) == 0


def test_no_cut_gives_the_normalised_model(residual: tuple[LoadedModel, Workload]) -> None:
    """One shard, all operators."""
    loaded, workload = residual
    (shard,) = split_model(loaded, workload, [])
    assert list(shard.graph.node) == list(loaded.proto.graph.node)
    assert [v.name for v in shard.graph.output] == ["early", "late"]


def test_the_same_cut_gives_the_same_bytes(residual: tuple[LoadedModel, Workload]) -> None:
    """Digests name deployments."""
    loaded, workload = residual
    cut = resolve_cut(workload, ["early", "sum"])
    one, two = (
        [to_bytes(shard) for shard in split_model(loaded, workload, [cut])] for _ in range(2)
    )
    assert one == two


def test_a_constant_that_two_shards_need_is_in_both(tmp_path: Path) -> None:
    """Constants never cross."""
    import numpy as np
    from onnx import helper, numpy_helper

    from tests.graphs import FULL, model

    value = numpy_helper.from_array(np.array([0.5], np.float32))
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["half"], value=value),
        helper.make_node("Mul", ["image", "half"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "half"], ["out"]),
    ]
    proto = model(nodes, {"image": FULL}, ["out"], weights={"shape": np.array(FULL)})
    loaded = load_model(saved(proto, tmp_path / "net.onnx"))
    workload = workload_of(loaded)
    shards = split_model(loaded, workload, [resolve_cut(workload, ["b"])])
    kinds = [[node.op_type for node in shard.graph.node] for shard in shards]
    assert kinds == [["ConstantOfShape", "Mul", "Sigmoid"], ["ConstantOfShape", "Mul"]]
    with pytest.raises(PlanError, match="constants cannot cross"):
        resolve_cut(workload, ["half", "b"])
