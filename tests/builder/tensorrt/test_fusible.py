"""Roundings where TensorRT fuses them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit.builder.load import LoadedModel
from edgekit.builder.probe import run_proto, seeded_inputs
from edgekit.builder.quantize import qdq
from edgekit.builder.quantize.operators import select_operators
from edgekit.builder.quantize.qdq import quantized
from edgekit.builder.quantize.ranges import ranges_of
from edgekit.builder.quantize.recipes import recipe_for
from edgekit.builder.tensorrt_build.fusible import rounded_once, with_float_weights
from tests.builder.quantize.quantize_nets import frames, loaded_net

RECIPE = recipe_for("tensorrt")


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    return loaded_net(tmp_path)


@pytest.fixture
def twice(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """As ONNX Runtime's quantizer writes it: rounded before and behind each Relu."""
    monkeypatch.setattr(qdq, "rounded_once", lambda proto: proto)
    integer = select_operators(loaded).integer
    kinds = {node.op_type for node in loaded.proto.graph.node if node.name in integer}
    ranges = ranges_of(loaded.proto, kinds, frames(8), "minmax")
    return quantized(loaded.proto, integer, ranges, RECIPE)


def sources_of(proto: onnx.ModelProto, kind: str) -> list[str]:
    makers = {name: node.op_type for node in proto.graph.node for name in node.output}
    return [makers[node.input[0]] for node in proto.graph.node if node.op_type == kind]


def same(one: onnx.ModelProto, other: onnx.ModelProto, loaded: LoadedModel) -> bool:
    """At level "none", where each operator computes what it says."""
    for seed in range(3):
        given = seeded_inputs(loaded.inputs, seed)
        want, got = (run_proto(proto, given, optimization="none") for proto in (one, other))
        if not all(np.array_equal(want[name], got[name]) for name in want):
            return False
    return True


def test_nothing_is_rounded_between_a_layer_and_its_activation(
    twice: onnx.ModelProto, loaded: LoadedModel
) -> None:
    """They become one kernel, and the numbers are those of two roundings to one grid."""
    once = rounded_once(twice)
    assert sources_of(twice, "Relu") == ["DequantizeLinear"] * 2
    assert sources_of(once, "Relu") == ["Conv"] * 2
    assert len(once.graph.node) == len(twice.graph.node) - 4
    assert same(twice, once, loaded)


def test_another_grid_behind_the_activation_keeps_both_roundings(
    twice: onnx.ModelProto, loaded: LoadedModel
) -> None:
    scales = [one for one in twice.graph.initializer if one.name == "r0_scale"]
    scales[0].CopyFrom(numpy_helper.from_array(np.float32(0.7), "r0_scale"))
    once = rounded_once(twice)
    assert sorted(sources_of(once, "Relu")) == ["Conv", "DequantizeLinear"]
    assert same(twice, once, loaded)


def test_what_somebody_else_reads_stays_rounded(twice: onnx.ModelProto) -> None:
    """Such as a shard behind a cut at that tensor."""
    relu = next(node for node in twice.graph.node if node.op_type == "Relu")
    twice.graph.output.append(onnx.ValueInfoProto(name=relu.input[0]))
    assert sorted(sources_of(rounded_once(twice), "Relu")) == ["Conv", "DequantizeLinear"]


def test_weights_are_floats_that_round_to_the_same_integers(
    twice: onnx.ModelProto, loaded: LoadedModel
) -> None:
    """TensorRT 8 takes no integers as constants; one scale per channel stays one per channel."""
    floats = with_float_weights(rounded_once(twice))
    stored = [numpy_helper.to_array(one) for one in floats.graph.initializer]
    assert not [one for one in stored if one.dtype == np.int8 and one.any()]
    assert sum(one.ndim == 4 for one in stored) == 4
    assert same(twice, floats, loaded)
    assert with_float_weights(loaded.proto).graph.node == loaded.proto.graph.node
