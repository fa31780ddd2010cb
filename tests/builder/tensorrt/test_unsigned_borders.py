"""Unsigned integers at a shard's borders, written in words that TensorRT knows."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.builder.probe import run_proto
from edgekit.builder.tensorrt_build.obstacles import obstacles_of
from edgekit.builder.tensorrt_build.unsigned import without_unsigned

COUNT = 64


def graph(
    nodes: list[onnx.NodeProto], given: int, made: int, scale: float, zero: int, kind: str = "uint8"
) -> onnx.ModelProto:
    """One input ``x`` and one output ``y`` of COUNT numbers each."""
    inner = helper.make_graph(
        nodes,
        "borders",
        [helper.make_tensor_value_info("x", given, (COUNT,))],
        [helper.make_tensor_value_info("y", made, (COUNT,))],
        [
            numpy_helper.from_array(np.float32(scale), "s"),
            numpy_helper.from_array(np.array(zero, kind), "z"),
        ],
    )
    return helper.make_model(inner, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def arriving(scale: float, zero: int, kind: str = "uint8") -> onnx.ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["f"], "back"),
        helper.make_node("Neg", ["f"], ["y"], "neg"),
    ]
    return graph(nodes, getattr(TensorProto, kind.upper()), TensorProto.FLOAT, scale, zero, kind)


def leaving(scale: float, zero: int, kind: str = "uint8") -> onnx.ModelProto:
    nodes = [
        helper.make_node("Neg", ["x"], ["f"], "neg"),
        helper.make_node("QuantizeLinear", ["f", "s", "z"], ["y"], "round"),
    ]
    return graph(nodes, TensorProto.FLOAT, getattr(TensorProto, kind.upper()), scale, zero, kind)


def kinds(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def same(one: onnx.ModelProto, other: onnx.ModelProto, x: np.ndarray) -> bool:
    results = [run_proto(proto, {"x": x}, optimization="all")["y"] for proto in (one, other)]
    return results[0].dtype == results[1].dtype and bool(np.array_equal(*results))


SCALES = st.floats(2.0**-20, 2.0**12, width=32)


@settings(max_examples=25, deadline=None)
@given(SCALES, st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_what_arrives_is_the_same_bit_by_bit(scale: float, zero: int, seed: int) -> None:
    """The steps are those of the operator: cast, shift, scale."""
    before = arriving(scale, zero)
    after = without_unsigned(before)
    assert kinds(after) == ["Cast", "Sub", "Mul", "Neg"]
    assert same(before, after, np.random.default_rng(seed).integers(0, 256, COUNT, np.uint8))
    assert obstacles_of(before) and not obstacles_of(after)


@settings(max_examples=25, deadline=None)
@given(SCALES, st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_what_leaves_is_the_same_bit_by_bit(scale: float, zero: int, seed: int) -> None:
    """Halves go to the even step, and what is beyond 0..255 is cut off."""
    before = leaving(scale, zero)
    after = without_unsigned(before)
    assert kinds(after) == ["Neg", "Div", "Round", "Add", "Clip", "Cast"]
    steps = np.random.default_rng(seed).integers(-700, 700, COUNT) / 2
    assert same(before, after, (steps * scale).astype(np.float32))
    assert obstacles_of(before) and not obstacles_of(after)


@pytest.mark.parametrize("made", [arriving, leaving])
def test_signed_integers_stay_as_they_are(made: object) -> None:
    """TensorRT rounds to them itself, in one kernel with the layer."""
    proto = made(0.5, 0, "int8")  # type: ignore[operator]
    assert without_unsigned(proto) == proto
    assert not obstacles_of(proto)


def test_rounding_inside_of_a_shard_is_not_touched() -> None:
    """There it would be integers as floats; the table of obstacles names it instead."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "round"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "back"),
    ]
    proto = graph(nodes, TensorProto.FLOAT, TensorProto.FLOAT, 0.5, 3)
    assert without_unsigned(proto) == proto
    assert [one.node for one in obstacles_of(proto)] == ["round", "back"]


def test_new_names_do_not_meet_old_ones() -> None:
    proto = arriving(0.5, 3)
    proto.graph.node[1].input[0] = proto.graph.node[0].output[0] = "f_cast"
    proto.graph.node[1].name = "back_as_cast"
    after = without_unsigned(proto)
    onnx.checker.check_model(after)
    assert len({node.name for node in after.graph.node}) == 4
    assert same(proto, after, np.arange(COUNT, dtype=np.uint8))
