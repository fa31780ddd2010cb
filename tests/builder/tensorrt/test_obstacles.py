"""What TensorRT is known to refuse is named before a board finds out."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, defs, helper, numpy_helper

from edgekit.builder.load import load_model
from edgekit.builder.probe import seeded_inputs, to_bytes
from edgekit.builder.quantize.operators import select_operators
from edgekit.builder.quantize.pieces import Model, ShardMaker, Ways
from edgekit.builder.quantize.recipes import recipe_for
from edgekit.builder.tensorrt_build import parser
from edgekit.builder.tensorrt_build.form import prove_form
from edgekit.builder.tensorrt_build.obstacles import (
    ELSEWHERE,
    FROM_FLOAT,
    UNSUPPORTED,
    obstacles_of,
)
from edgekit.builder.tensorrt_build.parser import parser_obstacles
from edgekit.builder.workload import workload_of
from edgekit.errors import ModelError, PlanError
from edgekit.planner.cuts import legal_cuts, partition
from edgekit.runtime.tensorrt import refusals_of
from tests.builder.tensorrt.engine_world import library_here
from tests.graphs import random_models, residual_model, saved

SHAPE = (1, 2, 4, 4)
CONSTANTS: dict[str, np.ndarray] = {
    "s": np.array(0.1, np.float32),
    "zero": np.array(0, np.int8),
    "five": np.array(5, np.int8),
    "unsigned": np.array(0, np.uint8),
    "wide": np.array(0, np.int32),
    "bias": np.arange(2, dtype=np.int32),
}


def graph(
    kind: str,
    inputs: list[str],
    *,
    reads: int = TensorProto.FLOAT,
    makes: tuple[int, ...] = (TensorProto.FLOAT,),
    **more: Any,
) -> onnx.ModelProto:
    """One operator called "it"; ``x`` is what the shard reads."""
    made = [f"y{index}" for index in range(len(makes))]
    node = helper.make_node(kind, inputs, made, "it", **more)
    inner = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", reads, SHAPE)],
        list(map(helper.make_tensor_value_info, made, makes, [None] * len(made))),
        [numpy_helper.from_array(value, name) for name, value in CONSTANTS.items()],
    )
    return helper.make_model(inner, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


Q, DQ = "QuantizeLinear", "DequantizeLinear"
U8, I8, I64 = (TensorProto.UINT8,), (TensorProto.INT8,), (TensorProto.INT64,)
REFUSED = [
    ("QLinearConv", "no TensorRT has", graph("QLinearConv", ["x"], makes=U8), FROM_FLOAT),
    ("DynamicQuantizeLinear", "no TensorRT has",
     graph("DynamicQuantizeLinear", ["x"], makes=U8), FROM_FLOAT),
    ("Unique", "no TensorRT has", graph("Unique", ["x"]), ELSEWHERE),
    ("com.microsoft::QLinearAdd", "com.microsoft",
     graph("QLinearAdd", ["x"], domain="com.microsoft"), FROM_FLOAT),
    ("com.microsoft::FusedConv", "com.microsoft",
     graph("FusedConv", ["x"], domain="com.microsoft"), ELSEWHERE),
    ("NonZero", "depends on the numbers", graph("NonZero", ["x"], makes=I64), ELSEWHERE),
    ("MaxPool", "indices", graph("MaxPool", ["x"], makes=(TensorProto.FLOAT, *I64),
     kernel_shape=[2, 2]), ELSEWHERE),
    (DQ, "uint8", graph(DQ, ["x", "s", "unsigned"], reads=U8[0]), FROM_FLOAT),
    (DQ, "not 0", graph(DQ, ["x", "s", "five"], reads=I8[0]), FROM_FLOAT),
    (DQ, "int32", graph(DQ, ["bias", "s", "wide"]), FROM_FLOAT),
    (DQ, "int32", graph(DQ, ["bias", "s"]), FROM_FLOAT),
    ("Cast", "int16", graph("Cast", ["x"], reads=TensorProto.INT16, to=1), ELSEWHERE),
    ("Max", "may only be cast", graph("Max", ["x", "x"], reads=U8[0], makes=U8), ELSEWHERE),
]  # fmt: skip
"""What the parser of TensorRT-RTX refuses as well."""
TAKEN_FOR_SOMETHING_ELSE = [
    (Q, "uint8", graph(Q, ["x", "s", "unsigned"], makes=U8), FROM_FLOAT),
    (Q, "without a zero point", graph(Q, ["x", "s"], makes=U8), FROM_FLOAT),
    ("Relu", "float64", graph("Relu", ["x"], reads=TensorProto.DOUBLE,
     makes=(TensorProto.DOUBLE,)), ELSEWHERE),
]  # fmt: skip
"""What it parses as if it were int8, or float32: the engine would give other numbers."""
TAKEN_BY_SOME = [
    (Q, "computed", graph(Q, ["x", "x", "zero"], makes=I8), FROM_FLOAT),
    (Q, "computed", graph(Q, ["x", "s", "x"], makes=I8), FROM_FLOAT),
]
"""What versions before it refuse."""
TAKEN = [
    graph(Q, ["x", "s", "zero"], makes=I8),
    graph(DQ, ["x", "s", "zero"], reads=I8[0]),
    graph(DQ, ["x", "s"], reads=I8[0]),
    graph("Cast", ["x"], reads=U8[0], to=1),
    graph("MaxPool", ["x"], kernel_shape=[2, 2]),
    graph("Relu", ["x"]),
]


@pytest.mark.parametrize(
    ("operator", "why", "proto", "hint"), [*REFUSED, *TAKEN_FOR_SOMETHING_ELSE, *TAKEN_BY_SOME]
)
def test_each_obstacle_names_operator_node_and_what_to_try(
    operator: str, why: str, proto: onnx.ModelProto, hint: str
) -> None:
    (found,) = obstacles_of(proto)
    assert (found.operator, found.node, found.hint) == (operator, "it", hint)
    assert why in str(found)


@pytest.mark.parametrize("proto", TAKEN)
def test_what_tensorrt_takes_is_no_obstacle(proto: onnx.ModelProto) -> None:
    assert obstacles_of(proto) == ()


def test_unsigned_integers_inside_of_a_shard_are_an_obstacle() -> None:
    """They may leave it, though."""
    proto = graph("Cast", ["x"], makes=U8, to=U8[0])
    assert obstacles_of(proto) == ()
    proto.graph.node.append(helper.make_node("Cast", ["y0"], ["z"], "again", to=1))
    (found,) = obstacles_of(proto)
    assert (found.operator, found.node) == ("Cast", "it")


def test_a_computed_constant_counts_as_one() -> None:
    """Exporters write scales as Constant operators."""
    proto = graph(Q, ["x", "c", "zero"])
    value = numpy_helper.from_array(np.float32(0.1))
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["c"], "c", value=value))
    assert obstacles_of(proto) == ()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(random_models(), st.data())
def test_whatever_is_built_for_tensorrt_has_no_obstacle(
    proto: onnx.ModelProto, data: st.DataObject
) -> None:
    """Any model, any cut, any precision on both sides, any device beside it."""
    with TemporaryDirectory() as folder:
        loaded = load_model(saved(proto, Path(folder) / "net.onnx"))
    workload = workload_of(loaded)
    cuts = legal_cuts(workload).cuts
    assume(cuts)
    cut = data.draw(st.sampled_from(cuts))
    try:
        partition(workload, (cut,))
        selection = select_operators(loaded, ("none",))
    except (PlanError, ModelError):
        assume(False)
    targets = data.draw(st.permutations(["tensorrt", data.draw(st.sampled_from(["x86", "arm"]))]))
    precisions = [data.draw(st.sampled_from(("fp32", "fp16", "int8"))) for _ in targets]
    ways = Ways(
        recipes=tuple(map(recipe_for, targets)), selection=selection, calibrators=("minmax",)
    )
    frames = [seeded_inputs(loaded.inputs, seed) for seed in range(4)]
    maker = ShardMaker(Model(loaded=loaded, workload=workload, cuts=(cut,)), ways, frames)
    chain, index = maker.chain(precisions), targets.index("tensorrt")
    shard = chain.shipped.shards[index]
    onnx.checker.check_model(shard)
    prove_form(chain.shards[index])
    assert obstacles_of(shard) == ()


def test_without_a_tensorrt_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table alone decides then."""
    monkeypatch.setattr(parser, "find_spec", lambda name: None)
    assert parser_obstacles(b"not read") == ("", ())


@pytest.mark.parametrize("child", ["import os; os._exit(139)", "print('nonsense')", "1 / 0"])
def test_a_tensorrt_that_dies_refuses_nothing(
    child: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is this machine's that is broken, not the board's."""
    (tmp_path / "broken_parser.py").write_text(child)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(parser, "_CHILD", "broken_parser")
    monkeypatch.setattr(parser, "find_spec", lambda name: True)
    assert parser_obstacles(to_bytes(residual_model())) == ("", ())


@pytest.mark.integration
def test_the_table_is_what_the_parser_says_of_every_operator_of_onnx() -> None:
    """A new TensorRT that learns an operator makes this fail, and the table shorter."""
    module = library_here().module
    logger = module.Logger(module.Logger.ERROR)
    builder = module.Builder(logger)
    network = builder.create_network(0)
    asked = module.OnnxParser(network, logger)
    known = {one.name for one in defs.get_all_schemas_with_history() if one.domain == ""}
    refused = {name for name in known if not asked.supports_operator(name)}
    assert refused == UNSUPPORTED & known
    assert len(refused) > 40


@pytest.mark.integration
@pytest.mark.parametrize(("operator", "why", "proto", "hint"), REFUSED)
def test_the_parser_refuses_it_too(
    operator: str, why: str, proto: onnx.ModelProto, hint: str, tmp_path: Path
) -> None:
    """An input whose type it does not know belongs to no operator; it says so of the file."""
    (found, *_) = refusals_of(library_here(), saved(proto, tmp_path / "one.onnx"))
    assert found.operator == (operator.rsplit("::")[-1] if why != "int16" else "")


@pytest.mark.integration
@pytest.mark.parametrize("proto", [*TAKEN, *(proto for _, _, proto, _ in TAKEN_FOR_SOMETHING_ELSE)])
def test_the_parser_takes_the_rest(proto: onnx.ModelProto, tmp_path: Path) -> None:
    """Also what it then computes otherwise: uint8 is cut off at 127, without a word."""
    assert refusals_of(library_here(), saved(proto, tmp_path / "one.onnx")) == ()


@pytest.mark.integration
def test_the_parser_here_is_asked_in_a_process_of_its_own(tmp_path: Path) -> None:
    """It names the operator as well; what it takes has no obstacle."""
    library = library_here()
    (bad,) = (proto for operator, _, proto, _ in REFUSED if operator == "MaxPool")
    label, (obstacle,) = parser_obstacles(to_bytes(bad))
    assert label == library.label and obstacle.operator == "MaxPool" and obstacle.hint
    assert parser_obstacles(to_bytes(residual_model())) == (library.label, ())
