"""Factorised ONNX models: what they compute, what is refused, and why."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.builder.compare import differences
from edgekit.builder.fold import low_rank_onnx
from edgekit.builder.fold.low_rank_onnx import LowRankReport, low_rank_model
from edgekit.builder.load import load_model
from edgekit.builder.probe import run_proto, seeded_inputs, to_bytes
from edgekit.errors import ConfigError, ModelError, PlanError
from edgekit.runtime.session import Session
from edgekit.spec.tensors import Array, TensorSpec

DATA = Path(__file__).parents[2] / "../shared/data"
VGG = DATA / "models/onnx_light_structures/light_vgg19.onnx"
RESNET = DATA / "models/resnet_cifar10/resnet56_cifar10.onnx"
EXACT = 1 - 1e-10
"""Keeps all but what rounding to float32 left in the singular values."""


def narrow(rng: np.random.Generator, rank: int, *shape: int) -> Array:
    """A weight (O, I, ...) of this rank when unfolded along O."""
    left, right = rng.normal(size=(shape[0], rank)), rng.normal(size=(rank, *shape[1:]))
    return np.tensordot(left, right, 1).astype(np.float32) / rank


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, Array],
    shape: tuple[int, ...],
    out: str,
    *,
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def mixed_net(seed: int = 0, *, opset: int = 17) -> onnx.ModelProto:
    """3x3 with stride, 1x1, Gemm (transposed, scaled) and MatMul + Add, all of rank 3."""
    rng = np.random.default_rng(seed)
    weights = {
        "conv.weight": narrow(rng, 3, 24, 16, 3, 3),
        "conv.bias": rng.normal(size=24).astype(np.float32),
        "point.weight": narrow(rng, 3, 32, 24, 1, 1),
        "gemm.weight": narrow(rng, 3, 40, 32 * 16),
        "gemm.bias": rng.normal(size=40).astype(np.float32),
        "matmul.weight": narrow(rng, 3, 40, 48),
        "matmul.bias": rng.normal(size=48).astype(np.float32),
    }
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "conv.weight", "conv.bias"], ["c"], strides=[2, 2], pads=[1] * 4),
        make("Relu", ["c"], ["r"]),
        make("Conv", ["r", "point.weight"], ["p"]),
        make("Flatten", ["p"], ["f"]),
        make("Gemm", ["f", "gemm.weight", "gemm.bias"], ["g"], transB=1, alpha=0.5, beta=2.0),
        make("MatMul", ["g", "matmul.weight"], ["m"]),
        make("Add", ["m", "matmul.bias"], ["y"]),
    ]
    return model(nodes, weights, (2, 16, 8, 8), "y", opset=opset)


def outputs_of(proto: onnx.ModelProto, shape: tuple[int, ...]) -> dict[str, Array]:
    spec = TensorSpec(name="x", dtype="float32", shape=shape)
    return run_proto(proto, seeded_inputs((spec,), 1), optimization="extended")


def worst(one: onnx.ModelProto, other: onnx.ModelProto, shape: tuple[int, ...]) -> float:
    found = differences(outputs_of(one, shape), outputs_of(other, shape))
    return max(difference.relative_error for difference in found.values())


def pairs(values: tuple[int, ...]) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.sampled_from(values), st.sampled_from(values))


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Sequence[float]], None]]:
    """Pretends that the races end so: after / before, the last for all further races."""

    def pretend(ratios: Sequence[float]) -> None:
        left = list(ratios)

        def race(
            sessions: Sequence[Session], inputs: dict[str, Array], *, budget_s: float
        ) -> tuple[float, ...]:
            return 1.0, left.pop(0) if len(left) > 1 else left[0]

        monkeypatch.setattr(low_rank_onnx, "race", race)

    yield pretend


@pytest.mark.parametrize("opset", [9, 17])
def test_layers_of_low_rank_come_out_exact_with_less_work(opset: int) -> None:
    """Convolutions, Gemm with its scales and transposes, MatMul; all names stay.

    In opset 9, that of many older files, a Gemm without a bias is refused by the runtime.
    """
    before = mixed_net(opset=opset)
    after, report = low_rank_model(before, energy=EXACT, force=True)
    assert worst(before, after, (2, 16, 8, 8)) <= 1e-5
    assert [layer.is_factorised for layer in report.layers] == [True] * 4
    assert {rank for layer in report.layers for rank in layer.ranks} == {8}
    assert report.after_flop < report.before_flop
    assert report.worst_error <= 1e-5
    assert all(layer.weight_error <= 1e-6 for layer in report.layers)
    tensors = {name for node in after.graph.node for name in node.output}
    assert {"c", "r", "p", "f", "g", "m", "y"} <= tensors
    left = {tensor.name for tensor in after.graph.initializer}
    assert {"conv.bias", "gemm.bias", "matmul.bias"} <= left
    assert not {"conv.weight", "point.weight", "gemm.weight", "matmul.weight"} & left
    assert after.ByteSize() < before.ByteSize() / 2


@settings(max_examples=25, deadline=None)
@given(
    kernel=pairs((1, 2, 3, 5)), stride=pairs((1, 2, 3)), padding=pairs((0, 1, 2)),
    dilation=pairs((1, 2)),
    rank=st.integers(1, 4), batch=st.integers(1, 2), bias=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_any_convolution_of_low_rank_comes_out_exact(
    kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...],
    dilation: tuple[int, ...], rank: int, batch: int, bias: bool, seed: int,
) -> None:  # fmt: skip
    """In ONNX Runtime, over random sizes, strides, paddings and dilations."""
    rng = np.random.default_rng(seed)
    weights = {"w": narrow(rng, rank, 32, 24, *kernel)}
    weights |= {"b": rng.normal(size=32).astype(np.float32)} if bias else {}
    conv = helper.make_node(
        "Conv", ["x", *weights], ["y"], strides=stride, pads=padding * 2, dilations=dilation
    )
    shape = (batch, 24, 14, 13)
    before = model([conv], weights, shape, "y")
    after, report = low_rank_model(before, energy=EXACT, force=True)
    assert report.layers[0].is_factorised
    assert report.after_flop < report.before_flop
    assert worst(before, after, shape) <= 1e-5


def test_the_model_given_is_never_changed_and_a_forced_result_is_reproducible() -> None:
    """Without races nothing depends on the machine."""
    before = mixed_net()
    untouched = to_bytes(before)
    one, two = (low_rank_model(before, energy=0.9, force=True)[0] for _ in range(2))
    assert to_bytes(before) == untouched
    assert to_bytes(one) == to_bytes(two)


def test_the_result_loads_again_and_has_nothing_left_to_gain(tmp_path: Path) -> None:
    """It is an ordinary model: the rest of the builder takes it."""
    after, _ = low_rank_model(mixed_net(), energy=EXACT, force=True)
    (tmp_path / "small.onnx").write_bytes(to_bytes(after))
    loaded = load_model(tmp_path / "small.onnx")
    with pytest.raises(PlanError, match="none of"):
        low_rank_model(loaded, energy=EXACT, force=True)


def test_ranks_are_as_asked_for_and_errors_as_measured() -> None:
    """By rank, not rounded; the error of the weights and that of the outputs are different."""
    before = mixed_net()
    after, report = low_rank_model(before, rank=2, force=True)
    assert {rank for layer in report.layers for rank in layer.ranks} == {2}
    assert all(0.05 < layer.weight_error < 1 for layer in report.layers)
    shape = (2, 16, 8, 8)
    spec = TensorSpec(name="x", dtype="float32", shape=shape)
    samples = [seeded_inputs((spec,), seed) for seed in (1, 2)]
    _, more = low_rank_model(before, rank=2, force=True, samples=samples)
    assert more.worst_error >= worst(before, after, shape) * 0.999 > 0.01


def test_what_is_not_faster_is_refused_with_what_was_measured(
    times: Callable[[Sequence[float]], None],
) -> None:
    """Layer by layer: less work is not less time."""
    times([1.2, 0.98, 1.0, 1.1])
    with pytest.raises(PlanError, match=r"none of 4 layers is faster.*0\.98 times") as caught:
        low_rank_model(mixed_net(), energy=EXACT)
    assert "keep" in caught.value.hint


def test_a_whole_that_is_not_faster_is_refused_though_its_layers_are(
    times: Callable[[Sequence[float]], None],
) -> None:
    """Alone a layer has the caches to itself. Forced, it is taken and reported."""
    times([0.5, 0.5, 0.5, 0.5, 1.5])
    with pytest.raises(PlanError, match=r"4 factorised layers.*1500\.00 ms against 1000\.00 ms"):
        low_rank_model(mixed_net(), energy=EXACT)
    times([1.5])
    _, report = low_rank_model(mixed_net(), energy=EXACT, force=True)
    assert (report.before_s, report.after_s) == (1.0, 1.5)


def test_only_the_layers_that_are_faster_are_factorised(
    times: Callable[[Sequence[float]], None],
) -> None:
    """And the report says what was measured for each."""
    times([0.5, 1.0, 0.6, 1.3, 0.8])
    before = mixed_net()
    after, report = low_rank_model(before, energy=EXACT)
    assert [layer.is_factorised for layer in report.layers] == [True, False, True, False]
    assert [layer.after_s for layer in report.layers] == [0.5, 1.0, 0.6, 1.3]
    assert report.layers[1].why == "is no faster: 1.00 times"
    kept = {tensor.name for tensor in after.graph.initializer}
    assert {"point.weight", "matmul.weight"} <= kept
    assert worst(before, after, (2, 16, 8, 8)) <= 1e-5


def test_an_error_above_the_limit_is_refused(times: Callable[[Sequence[float]], None]) -> None:
    """Also when it is forced: force is about time."""
    times([0.5])
    with pytest.raises(PlanError, match="moves an output by"):
        low_rank_model(mixed_net(), rank=1, max_output_error=1e-3, force=True)
    low_rank_model(mixed_net(), energy=EXACT, max_output_error=1e-3)


def reasons(report: LowRankReport) -> dict[str, str]:
    return {layer.name: layer.why for layer in report.layers}


def test_what_cannot_be_factorised_stays_with_its_reason() -> None:
    """Groups, one-sided padding, a product of two activations, a layer too small to matter."""
    rng = np.random.default_rng(0)
    weights = {
        "dense": narrow(rng, 2, 64, 64, 3, 3),
        "grouped": rng.normal(size=(64, 8, 3, 3)).astype(np.float32),
        "sided": narrow(rng, 2, 64, 64, 2, 2),
        "tiny": rng.normal(size=(1, 64, 1, 1)).astype(np.float32),
        "zero": np.zeros((64, 64, 1, 1), np.float32),
    }
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "dense"], ["a"], name="dense", pads=[1] * 4),
        make("Conv", ["a", "grouped"], ["b"], name="grouped", pads=[1] * 4, group=8),
        make("Conv", ["b", "sided"], ["c"], name="sided", pads=[0, 0, 1, 1]),
        make("Conv", ["c", "zero"], ["z"], name="zero"),
        make("Add", ["c", "z"], ["d"]),
        make("MatMul", ["d", "d"], ["e"], name="square"),
        make("Conv", ["e", "tiny"], ["y"], name="tiny"),
    ]
    before = model(nodes, weights, (1, 64, 16, 16), "y")
    after, report = low_rank_model(before, energy=EXACT, force=True)
    why = reasons(report)
    assert why["dense"] == "needs less work and time"
    assert why["grouped"] == "has 8 groups"
    assert "padded differently" in why["sided"]
    assert "depends on the input" in why["square"]
    assert "zero everywhere" in why["zero"]
    assert why["tiny"].startswith("holds only 0.")
    assert worst(before, after, (1, 64, 16, 16)) <= 1e-5


def test_quantized_layers_stay() -> None:
    """Factors in float would undo what the runtime does with integers."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-128, 127, (32, 32, 3, 3)).astype(np.int8),
        "scale": np.float32(0.01) * np.ones((), np.float32),
        "other": narrow(rng, 3, 32, 32, 3, 3),
    }
    make = helper.make_node
    nodes = [
        make("DequantizeLinear", ["w", "scale"], ["float"]),
        make("Conv", ["x", "float"], ["a"], name="quantized", pads=[1] * 4),
        make("Conv", ["a", "other"], ["y"], name="plain", pads=[1] * 4),
    ]
    _, report = low_rank_model(
        model(nodes, weights, (1, 32, 16, 16), "y"), energy=EXACT, force=True
    )
    assert [layer.is_factorised for layer in report.layers] == [False, True]
    assert report.layers[0].why == "has integer weights"


def test_full_rank_is_refused_because_it_saves_no_work() -> None:
    """Forced or not: there is nothing to take."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(32, 32, 3, 3)).astype(np.float32)}
    conv = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    with pytest.raises(PlanError, match=r"needs no less work: 1\.\d\d times"):
        low_rank_model(model([conv], weights, (1, 32, 8, 8), "y"), energy=EXACT, force=True)


def test_a_transposed_left_side_of_a_gemm_stays_transposed() -> None:
    """And a bias that broadcasts along rows stays what it is."""
    rng = np.random.default_rng(0)
    weights = {"w": narrow(rng, 3, 64, 48), "b": rng.normal(size=(10, 1)).astype(np.float32)}
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transA=1)
    before = model([gemm], weights, (64, 10), "y", opset=9)
    after, report = low_rank_model(before, energy=EXACT, force=True)
    assert report.before_flop == 2 * 10 * 64 * 48
    assert report.after_flop == 2 * 10 * 8 * (64 + 48)
    assert worst(before, after, (64, 10)) <= 1e-5


def test_one_weight_read_by_two_layers_is_factorised_twice() -> None:
    """Their inputs may differ in size; the old weight goes when nobody reads it any more."""
    rng = np.random.default_rng(0)
    weights = {"w": narrow(rng, 3, 32, 32, 3, 3)}
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        make("Conv", ["a", "w"], ["y"], pads=[1] * 4, strides=[2, 2]),
    ]
    before = model(nodes, weights, (1, 32, 16, 16), "y")
    after, report = low_rank_model(before, energy=EXACT, force=True)
    assert len(report.layers) == 2
    assert "w" not in {tensor.name for tensor in after.graph.initializer}
    assert worst(before, after, (1, 32, 16, 16)) <= 1e-5


def test_nan_in_a_weight_is_refused_by_name() -> None:
    """Its singular values would all be NaN."""
    before = mixed_net()
    broken = numpy_helper.to_array(before.graph.initializer[2]).copy()
    broken[0, 0] = np.nan
    before.graph.initializer[2].CopyFrom(numpy_helper.from_array(broken, "point.weight"))
    with pytest.raises(ModelError, match=r"Conv \(Conv_2\).*NaN"):
        low_rank_model(before, energy=0.9, force=True)


def test_neither_energy_nor_rank_is_refused() -> None:
    """There is no default: what to lose is the caller's choice."""
    with pytest.raises(ConfigError, match="energy or a rank"):
        low_rank_model(mixed_net())


@pytest.mark.skipif(not RESNET.is_file(), reason="needs ../shared/data")
def test_a_real_network_loses_what_is_measured() -> None:
    """ResNet-56: 26 % less work at 90 % of the energy, and its logits move: it must be told."""
    loaded = load_model(RESNET)
    after, report = low_rank_model(loaded, energy=0.9, force=True)
    assert 0.6 < report.after_flop / report.before_flop < 0.8
    assert sum(layer.is_factorised for layer in report.layers) > 40
    assert 0.05 < report.worst_error < 1
    errors = [layer.weight_error for layer in report.layers if layer.is_factorised]
    assert 0.1 < max(errors) <= 0.1**0.5
    assert [value.name for value in after.graph.output] == ["logits"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not VGG.is_file(), reason="needs ../shared/data")
def test_the_layers_of_vgg_are_not_too_large() -> None:
    """VGG-19's structure, weights all equal, so of rank 1: exact, and much less work and time.

    Its first Linear layer alone has 103 million weights.
    """
    _, report = low_rank_model(load_model(VGG), energy=EXACT)
    assert sum(layer.is_factorised for layer in report.layers) >= 17
    assert report.after_flop < 0.2 * report.before_flop
    assert report.after_s < 0.5 * report.before_s
    assert report.worst_error <= 1e-5
