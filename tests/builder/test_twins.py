"""Operators that compute the same are found, and weights stored as integers are told apart."""

from pathlib import Path

import numpy as np
from onnx import helper

from edgekit.builder.load import load_model
from edgekit.builder.workload import workload_of
from edgekit.spec.workload import OpCost
from tests.graphs import model, saved

IMAGE = (1, 4, 8, 8)


def ops(tmp_path: Path, *nodes: object, **weights: np.ndarray) -> dict[str, OpCost]:
    """Operators by the name of their result; the model's output is "out"."""
    proto = model(list(nodes), {"image": IMAGE}, ["out"], weights=weights)
    found = workload_of(load_model(saved(proto, tmp_path / "net.onnx"))).ops
    return {one.outputs[0]: one for one in found}


def test_equal_operators_on_equal_constants_are_twins(tmp_path: Path) -> None:
    """Whatever the constants are called; and what reads them is a twin in turn."""
    found = ops(
        tmp_path,
        helper.make_node("Mul", ["image", "k"], ["a"]),
        helper.make_node("Mul", ["image", "l"], ["b"]),
        helper.make_node("Relu", ["a"], ["c"]),
        helper.make_node("Relu", ["b"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["out"]),
        k=np.float32([2]),
        l=np.float32([2]),
    )
    assert found["b"].twin == found["a"].name
    assert found["d"].twin == found["c"].name
    assert not found["a"].twin and not found["out"].twin


def test_other_constants_attributes_or_inputs_make_no_twins(tmp_path: Path) -> None:
    """Each alone is enough."""
    found = ops(
        tmp_path,
        helper.make_node("Mul", ["image", "k"], ["a"]),
        helper.make_node("Mul", ["image", "l"], ["b"]),
        helper.make_node("LeakyRelu", ["a"], ["c"], alpha=0.1),
        helper.make_node("LeakyRelu", ["a"], ["d"], alpha=0.2),
        helper.make_node("LeakyRelu", ["b"], ["e"], alpha=0.1),
        helper.make_node("Sum", ["c", "d", "e"], ["out"]),
        k=np.float32([2]),
        l=np.float32([3]),
    )
    assert not any(one.twin for one in found.values())


def test_dequantised_weights_count_as_the_bytes_they_are_stored_in(tmp_path: Path) -> None:
    """And are named, with their type: a runtime may run the operator on them as they are."""
    found = ops(
        tmp_path,
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["floats"]),
        helper.make_node("Conv", ["image", "floats"], ["out"], pads=[1] * 4),
        w=np.ones((6, 4, 3, 3), np.int8),
        s=np.float32(0.5),
        z=np.int8(0),
    )
    (weight,) = found["out"].dequantized
    assert (weight.dtype, weight.shape) == ("int8", (6, 4, 3, 3))
    assert found["out"].weight_bytes == 6 * 4 * 9
    assert found["out"].parameter_count == 6 * 4 * 9
