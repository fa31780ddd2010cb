"""BatchNorms and constants per channel go into the operator before them, wherever it is linear."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.builder.fold.onnx_fold import fold_model
from edgekit.builder.load import LoadedModel, load_model
from tests.branch_graphs import Graph
from tests.graphs import model, saved


def folded_kinds(loaded: LoadedModel) -> list[str]:
    """Types of the operators after folding; fold_model itself proves equality."""
    folded, report = fold_model(loaded, [])
    assert report.max_relative_error <= 1e-5
    return [node.op_type for node in folded.proto.graph.node]


def test_everything_that_scales_and_shifts_goes_in_at_once(tmp_path: Path) -> None:
    """Conv, BatchNormalization, Mul, Add: one Conv; the tensor behind the last keeps its name."""
    graph = Graph()
    end = graph.scale(graph.conv_norm("x", 4, 3))
    loaded = graph.loaded(end, tmp_path)
    folded, report = fold_model(loaded, [])
    assert [node.op_type for node in folded.proto.graph.node] == ["Conv", "Relu"]
    assert folded.proto.graph.node[0].output[0] == end
    assert folded.proto.graph.node[0].name == "Conv_t0"
    assert (report.conv_bn_count, report.ops_before, report.ops_after) == (1, 5, 2)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["Conv", "ConvTranspose"]),
    groups=st.sampled_from([1, 2, 4]),
    out=st.sampled_from([4, 8]),
    dimensions=st.sampled_from([1, 2, 3]),
    bias=st.booleans(),
)
def test_convolutions_of_any_dimension_and_direction(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    groups: int,
    out: int,
    dimensions: int,
    bias: bool,
) -> None:
    """Weights lie differently in ConvTranspose, and channels are always the second axis."""
    graph = Graph()
    lead = (out, 4 // groups) if kind == "Conv" else (4, out // groups)
    inputs = ["x", graph.weight(graph.numbers(*lead, *[2] * dimensions))]
    if bias:
        inputs.append(graph.weight(graph.numbers(out)))
    head = graph.op(kind, inputs, group=groups)
    graph.op("Relu", [graph.norm(head, out)], "end")
    shape = (1, 4, *[5] * dimensions)
    proto = model(graph.nodes, {"x": shape}, ["end"], weights=graph.weights, opset=17)
    loaded = load_model(saved(proto, tmp_path_factory.mktemp("conv") / "net.onnx"))
    assert folded_kinds(loaded) == [kind, "Relu"]


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [None, (1,), (5,), (1, 5), (3, 1), (3, 5)])
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_a_gemm_takes_its_batch_norm(
    tmp_path: Path, transposed: int, bias: tuple[int, ...] | None, beta: float
) -> None:
    """Unless its bias is not one number per output."""
    graph = Graph()
    inputs = ["x", graph.weight(graph.numbers(*((5, 4) if transposed else (4, 5))))]
    if bias is not None:
        inputs.append(graph.weight(graph.numbers(*bias)))
    head = graph.op("Gemm", inputs, transB=transposed, alpha=2.0, beta=beta)
    graph.op("Relu", [graph.norm(head, 5)], "end")
    proto = model(graph.nodes, {"x": (3, 4)}, ["end"], weights=graph.weights, opset=17)
    loaded = load_model(saved(proto, tmp_path / "net.onnx"))
    is_foldable = bias not in [(3, 1), (3, 5)]
    want = ["Gemm", "Relu"] if is_foldable else ["Gemm", "BatchNormalization", "Relu"]
    assert folded_kinds(loaded) == want


@pytest.mark.parametrize(
    "value",
    [
        np.ones((1, 4, 9, 9)), np.ones((9,)), np.ones((1, 1, 9, 1)), np.ones((4, 1)),
        np.ones((1, 1, 4, 1, 1)),
    ],
)  # fmt: skip
def test_constants_that_differ_inside_a_channel_stay(tmp_path: Path, value: np.ndarray) -> None:
    """A grid, a row, or one axis more."""
    if value.shape == (4, 1):
        value = np.ones((9, 1))
    graph = Graph()
    end = graph.op("Mul", [graph.conv("x"), graph.weight(value)])
    if value.ndim == 5:
        end = graph.op("Squeeze", [end, "axis"])
        graph.weights["axis"] = np.array([0])
    loaded = graph.loaded(end, tmp_path)
    assert "Mul" in folded_kinds(loaded)


@pytest.mark.parametrize("kind", ["Sub", "Div"])
@pytest.mark.parametrize("constant_first", [False, True])
def test_subtraction_and_division_know_their_order(
    tmp_path: Path, kind: str, constant_first: bool
) -> None:
    """c - x is linear, c / x is not."""
    graph = Graph()
    pair = [graph.conv("x", bias=True), graph.weight(1 + graph.numbers(4, 1, 1) ** 2)]
    end = graph.op(kind, pair[::-1] if constant_first else pair)
    kinds = folded_kinds(graph.loaded(end, tmp_path))
    assert (kind in kinds) == (kind == "Div" and constant_first)


def test_what_others_read_is_not_folded_away(tmp_path: Path) -> None:
    """The convolution's own output is a model output, or has a second reader."""
    graph = Graph()
    conv = graph.conv("x")
    loaded = graph.loaded(graph.norm(conv), tmp_path, conv)
    assert folded_kinds(loaded) == ["Conv", "BatchNormalization", "Relu"]


def test_weights_that_two_convolutions_share_stay_for_the_other(tmp_path: Path) -> None:
    """Shared heads of detectors: one with a BatchNorm, one without."""
    graph = Graph()
    shared = graph.weight(graph.numbers(4, 4, 1, 1))
    normed = graph.norm(graph.op("Conv", ["x", shared]))
    plain = graph.op("Conv", [graph.op("Relu", [normed]), shared])
    loaded = graph.loaded(plain, tmp_path)
    folded, _ = fold_model(loaded, [])
    assert [node.op_type for node in folded.proto.graph.node] == ["Conv", "Relu", "Conv", "Relu"]
    assert shared in {tensor.name for tensor in folded.proto.graph.initializer}


def test_float64_models_stay_float64(tmp_path: Path) -> None:
    """The type of new weights is that of the tensors they make."""
    graph = Graph()
    wide = graph.op("Cast", ["x"], to=11)
    weight = graph.op("Cast", [graph.weight(graph.numbers(4, 36))], to=11)
    flat = graph.op("Reshape", [wide, "shape"])
    graph.weights["shape"] = np.array([9, 36])
    product = graph.op("Gemm", [flat, weight], transB=1)
    scaled = graph.op("Mul", [product, graph.op("Cast", [graph.weight(graph.numbers(4))], to=11)])
    graph.op("Relu", [graph.op("Cast", [scaled], to=1)], "end")
    proto = model(graph.nodes, {"x": (1, 4, 9, 9)}, ["end"], weights=graph.weights, opset=17)
    loaded = load_model(saved(proto, tmp_path / "net.onnx"))
    assert "Mul" not in folded_kinds(loaded)
