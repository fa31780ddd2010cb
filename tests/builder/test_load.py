"""Loading: a model that runs and is proved equal to its file, or the reason why not."""

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgekit.builder.load import load_model
from edgekit.builder.workload import workload_of
from edgekit.errors import ConfigError, EdgeKitError, ModelError
from tests.graphs import FULL, model, residual_model, saved


def one(kind: str, *, opset: int = 13, domain: str = "", **attributes: object) -> onnx.ModelProto:
    node = helper.make_node(kind, ["image"], ["out"], domain=domain, **attributes)
    domains = [domain] if domain else []
    return model([node], {"image": FULL}, ["out"], opset=opset, domains=domains)


def test_a_loaded_model_knows_the_shape_of_every_tensor(tmp_path: Path) -> None:
    """From the real runtime, whatever the file declares."""
    loaded = load_model(saved(residual_model(), tmp_path / "net.onnx"))
    assert loaded.name == "net"
    assert [str(spec) for spec in loaded.inputs] == ["image float32[1x2x4x4]"]
    assert [spec.name for spec in loaded.outputs] == ["early", "late"]
    assert {spec.shape for spec in loaded.activations.values()} == {FULL}
    assert set(loaded.constants) == {"w0", "w1"}
    assert loaded.notes == ()
    assert len(loaded.source_sha256) == 64


def test_an_open_batch_is_fixed_and_said(tmp_path: Path) -> None:
    """Never silent."""
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 3, 8, 8]}, ["y"])
    loaded = load_model(saved(proto, tmp_path / "net.onnx"))
    assert loaded.inputs[0].shape == (1, 3, 8, 8)
    assert "taken as 1" in loaded.notes[0]


def test_open_dimensions_take_the_given_shape(tmp_path: Path) -> None:
    """And without it, the flag to add is in the refusal."""
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 3, "h", "w"]}, ["y"])
    path = saved(proto, tmp_path / "net.onnx")
    with pytest.raises(ConfigError, match="--input x=1x3x320x320"):
        load_model(path)
    loaded = load_model(path, input_shapes={"x": (1, 3, 4, 6)})
    assert loaded.outputs[0].shape == (1, 3, 4, 6)


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (one("FancyAttention", domain="my.lab"), ["my.lab.FancyAttention", "without it"]),
        (one("Rellu"), ["ai.onnx.Rellu", "opset 13"]),
        (one("Gelu", opset=20), ["opset 20", "Gelu", "opset_version=17"]),
        (one("Relu", opset=1), ["Relu"]),
    ],
    ids=["unknown domain", "unknown operator", "opset too new", "opset too old"],
)
def test_an_operator_that_cannot_run_is_named_with_what_to_do(
    tmp_path: Path, proto: onnx.ModelProto, words: list[str]
) -> None:
    """The name is what one searches the export script for."""
    with pytest.raises(ModelError) as caught:
        load_model(saved(proto, tmp_path / "net.onnx"))
    for word in words:
        assert word in str(caught.value)


def test_an_opset_newer_than_the_runtime_is_checked_against_the_reference(tmp_path: Path) -> None:
    """onnx writes opsets by default that no runtime loads yet."""
    loaded = load_model(saved(one("Relu", opset=28), tmp_path / "net.onnx"))
    assert loaded.proto.opset_import[0].version == 17


def test_a_newer_ir_version_is_no_obstacle(tmp_path: Path) -> None:
    """onnx 1.23 writes IR 14 unless told otherwise; the graph is the same."""
    proto = one("Relu")
    proto.ir_version = 14
    assert load_model(saved(proto, tmp_path / "net.onnx")).proto.ir_version == 8


def test_data_dependent_shapes_are_refused(tmp_path: Path) -> None:
    """NonMaxSuppression inside the model cannot be planned."""
    nodes = [helper.make_node("NonZero", ["image"], ["out"])]
    proto = model(nodes, {"image": FULL}, ["out"])
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(ModelError, match=r"NonZero.*post-processing"):
        load_model(saved(proto, tmp_path / "net.onnx"))


def test_control_flow_is_refused(tmp_path: Path) -> None:
    """Its work depends on the data."""
    branch = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["r"])], "b", [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, FULL)],
    )  # fmt: skip
    nodes = [helper.make_node("If", ["yes"], ["out"], then_branch=branch, else_branch=branch)]
    proto = model(nodes, {"image": FULL}, ["out"], weights={"yes": np.array(True)})
    with pytest.raises(ModelError, match="operator If"):
        load_model(saved(proto, tmp_path / "net.onnx"))


def test_a_model_in_training_mode_is_refused(tmp_path: Path) -> None:
    """Dropout that drops gives other outputs every time; no split could be proved."""
    nodes = [helper.make_node("Dropout", ["image", "ratio", "training"], ["out"])]
    weights = {"ratio": np.array(0.5, np.float32), "training": np.array(True)}
    proto = model(nodes, {"image": FULL}, ["out"], weights=weights)
    with pytest.raises(ModelError, match=r"differs from run to run.*evaluation mode"):
        load_model(saved(proto, tmp_path / "net.onnx"))


def test_weights_of_the_wrong_shape_are_refused(tmp_path: Path) -> None:
    """The runtime notices only when it runs."""
    nodes = [helper.make_node("Conv", ["image", "w"], ["out"])]
    weights = {"w": np.zeros((2, 5, 3, 3), np.float32)}
    with pytest.raises(ModelError, match="does not run"):
        load_model(saved(model(nodes, {"image": FULL}, ["out"], weights=weights), tmp_path / "n"))


def test_an_output_that_nothing_makes_is_refused(tmp_path: Path) -> None:
    """The input itself, or a weight."""
    nodes = [helper.make_node("Relu", ["image"], ["out"])]
    with pytest.raises(ModelError, match="no operator makes the model output 'image'"):
        load_model(saved(model(nodes, {"image": FULL}, ["out", "image"]), tmp_path / "a.onnx"))
    weights = {"w": np.ones(2, np.float32)}
    proto = model(nodes, {"image": FULL}, ["out", "w"], weights=weights)
    with pytest.raises(ModelError, match="'w' is a constant"):
        load_model(saved(proto, tmp_path / "b.onnx"))


def test_a_step_that_changes_numbers_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transform proves itself: a wrong one must not reach a device."""
    import edgekit.builder.normalize as passes

    def spoil(proto: onnx.ModelProto) -> onnx.ModelProto:
        for tensor in proto.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array * 1.5, tensor.name))
        return proto

    monkeypatch.setattr(passes, "_sort_nodes", spoil)
    with pytest.raises(ModelError, match="step 'sort nodes' moved the outputs"):
        load_model(saved(residual_model(), tmp_path / "net.onnx"))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 7)), min_size=1, max_size=4))
def test_a_damaged_file_is_refused_or_loads_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    """A flipped bit anywhere: names, shapes, attributes, operator sets."""
    data = bytearray(residual_model().SerializeToString())
    for place, bit in flips:
        data[place % len(data)] ^= 1 << bit
    path = tmp_path_factory.mktemp("damaged") / "net.onnx"
    path.write_bytes(bytes(data))
    with contextlib.suppress(EdgeKitError):
        workload_of(load_model(path))
