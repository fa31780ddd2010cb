"""Equalisation changes weights and nothing else: proved to the last bit."""

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import run_proto, seeded_inputs
from edgekit.builder.quantize.equalize import equalized, find_pairs
from tests.builder.quantize.quantize_nets import frames, loaded_net
from tests.graphs import model, saved

SPREAD = 6.0


def chain(
    folder: Path, seed: int, between: str, groups: int, *, bias: bool = True, tap: str = ""
) -> LoadedModel:
    """Conv, ``between``, grouped Conv, Relu, Conv; channels of very different sizes."""
    generator = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        sizes = 2 ** generator.uniform(-SPREAD, SPREAD, (shape[0], 1, 1, 1))
        return (generator.standard_normal(shape) * sizes).astype(np.float32)

    weights = {"w0": weight(8, 3, 3, 3), "w1": weight(12, 8 // groups, 3, 3)}
    weights["w2"] = weight(4, 12, 1, 1)
    if bias:
        weights["b0"] = generator.standard_normal(8).astype(np.float32)
    options = {"kernel_shape": [2, 2]} if between.endswith("Pool") else {}
    stem = ["image", "w0", "b0"] if bias else ["image", "w0"]
    nodes = [
        helper.make_node("Conv", stem, ["c0"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node(between, ["c0"], ["r0"], name="between", **options),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="second", group=groups),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "w2"], ["out"], name="third"),
    ]
    outputs = ["out", tap] if tap else ["out"]
    proto = model(nodes, {"image": (1, 3, 9, 9)}, outputs, weights=weights, opset=17)
    return load_model(saved(proto, folder / "chain.onnx"))


def weights_of(loaded: LoadedModel, layer: str) -> np.ndarray:
    node = next(one for one in loaded.proto.graph.node if one.name == layer)
    tensor = next(one for one in loaded.proto.graph.initializer if one.name == node.input[1])
    return onnx.numpy_helper.to_array(tensor)


@pytest.mark.parametrize("between", ["Relu", "LeakyRelu", "MaxPool", "AveragePool"])
@given(seed=st.integers(0, 10**6), groups=st.sampled_from([1, 2, 4]), bias=st.booleans())
@settings(max_examples=8, deadline=None)
def test_the_outputs_are_the_same_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, between: str, seed: int, groups: int, bias: bool
) -> None:
    """Powers of two round nothing, with and without the runtime's own rewriting."""
    loaded = chain(tmp_path_factory.mktemp("net"), seed, between, groups, bias=bias)
    even, count = equalized(loaded)
    assert count == 2
    given_inputs = seeded_inputs(loaded.inputs, seed)
    for level in ("none", "all"):
        want = run_proto(loaded.proto, given_inputs, optimization=level)
        got = run_proto(even.proto, given_inputs, optimization=level)
        assert np.array_equal(want["out"], got["out"])


def test_channels_span_as_much_where_they_are_made_as_where_they_are_read(tmp_path: Path) -> None:
    """To within the factor that powers of two leave: a ratio of 2 at most."""
    even, _ = equalized(chain(tmp_path, 1, "Relu", 2))
    made = np.abs(weights_of(even, "first")).reshape(8, -1).max(axis=1)
    by_group = np.abs(weights_of(even, "second")).reshape(2, 6, 4, -1)
    read = by_group.max(axis=(1, 3)).reshape(-1)
    assert (np.abs(np.log2(made / read)) <= 1 + 1e-6).all()


def test_the_model_that_was_given_is_left_alone(tmp_path: Path) -> None:
    loaded = chain(tmp_path, 2, "Relu", 1)
    before = loaded.proto.SerializeToString(deterministic=True)
    even, _ = equalized(loaded)
    assert loaded.proto.SerializeToString(deterministic=True) == before
    assert not np.array_equal(weights_of(even, "first"), weights_of(loaded, "first"))


def test_what_leaves_the_model_is_not_scaled(tmp_path: Path) -> None:
    """An output between two layers must keep its values."""
    loaded = chain(tmp_path, 3, "Relu", 1, tap="r0")
    assert [(one.first, one.second) for one in find_pairs(loaded)] == [("second", "third")]


def test_layers_behind_a_curved_function_are_no_pair(tmp_path: Path) -> None:
    """Sigmoid(a x) is not a Sigmoid(x)."""
    loaded = chain(tmp_path, 4, "Sigmoid", 1)
    assert [(one.first, one.second) for one in find_pairs(loaded)] == [("second", "third")]


def test_only_pairs_of_the_layers_asked_for_change(tmp_path: Path) -> None:
    """What stays in float keeps the values that it reads."""
    loaded = chain(tmp_path, 5, "Relu", 1)
    assert equalized(loaded, ["first", "third"]) == (loaded, 0)
    even, count = equalized(loaded, ["first", "second"])
    assert count == 1
    assert np.array_equal(weights_of(even, "third"), weights_of(loaded, "third"))


def test_a_dead_channel_stays_dead(tmp_path: Path) -> None:
    """A channel without weights has no spread to share, and must not become nan."""
    loaded = loaded_net(tmp_path)
    for tensor in loaded.proto.graph.initializer:
        if tensor.name == "w0":
            weights = onnx.numpy_helper.to_array(tensor).copy()
            weights[0] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights, "w0"))
    even, _ = equalized(loaded)
    assert not weights_of(even, "stem")[0].any()
    assert all(
        np.isfinite(onnx.numpy_helper.to_array(one)).all() for one in even.proto.graph.initializer
    )
    (want,), (got,) = (
        run_proto(one.proto, frames(1)[0], optimization="none").values() for one in (loaded, even)
    )
    assert np.array_equal(want, got)
