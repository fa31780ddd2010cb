"""The cost table: known formulas, and no silent zero."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekit.builder.load import load_model
from edgekit.builder.workload import workload_of
from edgekit.errors import ModelError
from tests.graphs import model, saved

IMAGE = (1, 4, 8, 8)


def cost(tmp_path: Path, kind: str, *weights: np.ndarray, **attributes: object) -> tuple[int, ...]:
    """Work, traffic, weight bytes and parameters of a single operator on a (1, 4, 8, 8) image."""
    names = [f"w{i}" for i in range(len(weights))]
    node = helper.make_node(kind, ["image", *names], ["out"], **attributes)
    proto = model([node], {"image": IMAGE}, ["out"], weights=dict(zip(names, weights, strict=True)))
    (op,) = workload_of(load_model(saved(proto, tmp_path / "net.onnx"))).ops
    return op.work_flop, op.traffic_bytes, op.weight_bytes, op.parameter_count


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_a_convolution_is_two_flop_per_multiply_add(tmp_path: Path) -> None:
    """6 output channels, 3x3 over 4 channels, 8x8 pixels; the bias starts the sum."""
    found = cost(tmp_path, "Conv", floats(6, 4, 3, 3), floats(6), pads=[1, 1, 1, 1])
    weight_bytes = 4 * (6 * 4 * 9 + 6)
    traffic_bytes = weight_bytes + 4 * (4 + 6) * 64
    assert found == (2 * 64 * 6 * 4 * 9, traffic_bytes, weight_bytes, 6 * 4 * 9 + 6)


def test_groups_divide_the_work(tmp_path: Path) -> None:
    """Depthwise: one input channel per output."""
    assert cost(tmp_path, "Conv", floats(4, 1, 3, 3), group=4)[0] == 2 * 36 * 4 * 9


def test_a_transposed_convolution_counts_its_inputs(tmp_path: Path) -> None:
    """Every input pixel is spread over the kernel."""
    assert cost(tmp_path, "ConvTranspose", floats(4, 5, 2, 2), strides=[2, 2])[0] == 2 * 256 * 20


def test_a_matrix_product_counts_its_inner_dimension(tmp_path: Path) -> None:
    """(1, 4, 8, 8) x (8, 3)."""
    assert cost(tmp_path, "MatMul", floats(8, 3))[0] == 2 * 4 * 8 * 3 * 8


@pytest.mark.parametrize(
    ("kind", "attributes", "work_flop"),
    [
        ("Relu", {}, 256),
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}, 64 * 4),
        ("GlobalAveragePool", {}, 256),
        ("LRN", {"size": 5}, 256 * 14),
        ("Softmax", {}, 4 * 256),
        ("Transpose", {}, 0),
        ("Flatten", {}, 0),
    ],
)
def test_simple_operators_follow_the_table(
    tmp_path: Path, kind: str, attributes: dict[str, object], work_flop: int
) -> None:
    """Moving data costs no arithmetic, but traffic."""
    found = cost(tmp_path, kind, **attributes)
    assert found[0] == work_flop
    assert found[1] > 0


@pytest.mark.parametrize(("mode", "taps"), [("nearest", 0), ("linear", 4), ("cubic", 16)])
def test_a_resize_counts_its_taps(tmp_path: Path, mode: str, taps: int) -> None:
    """Two dimensions grow."""
    scales = np.array([1, 1, 2, 2], np.float32)
    node = helper.make_node("Resize", ["image", "", "s"], ["out"], mode=mode)
    proto = model([node], {"image": IMAGE}, ["out"], weights={"s": scales})
    (op,) = workload_of(load_model(saved(proto, tmp_path / "net.onnx"))).ops
    assert op.work_flop == 2 * taps * 4 * 256


def test_shapes_and_indices_are_no_parameters(tmp_path: Path) -> None:
    """Nobody trained them, though they are read."""
    found = cost(tmp_path, "Reshape", np.array([1, -1]))
    assert found[2:] == (16, 0)


def test_a_shared_weight_is_counted_once_but_read_twice(tmp_path: Path) -> None:
    """Parameters are the model's, traffic is the operator's."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["out"]),
    ]
    proto = model(nodes, {"image": IMAGE}, ["out"], weights={"w": floats(4, 4, 3, 3)})
    found = workload_of(load_model(saved(proto, tmp_path / "net.onnx")))
    assert [op.parameter_count for op in found.ops] == [144, 0]
    assert [op.weight_bytes for op in found.ops] == [576, 576]


def test_an_operator_without_a_rule_is_an_error_that_names_it(tmp_path: Path) -> None:
    """Never a silent zero."""
    node = helper.make_node("Einsum", ["image", "image"], ["out"], equation="abcd,abcd->abcd")
    proto: onnx.ModelProto = model([node], {"image": IMAGE}, ["out"])
    with pytest.raises(ModelError, match=r"ai\.onnx\.Einsum \(Einsum_0\) is not in the cost table"):
        workload_of(load_model(saved(proto, tmp_path / "net.onnx")))
