"""Simplifying graphs: useful where there is something to do, and never worse than nothing."""

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.builder import simplify
from edgekit.builder.probe import run_proto, to_bytes
from edgekit.builder.simplify import simplify_model
from edgekit.errors import ModelError

MODELS = Path(__file__).parents[2] / "../shared/data/models"
CRASH = [sys.executable, "-c", "import os; os.abort()"]
FAIL = [sys.executable, "-c", "raise SystemExit('no idea how')"]
HANG = [sys.executable, "-c", "import time; time.sleep(60)"]
NOTHING = [sys.executable, "-c", "pass"]


def copying(path: Path) -> list[str]:
    """A tool that gives this file, whatever it is given."""
    return [sys.executable, "-c", f"import sys, shutil; shutil.copy({str(path)!r}, sys.argv[-1])"]


def model(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], size: int = 8
) -> onnx.ModelProto:
    """One input x and one output y, both (1, 2, size, size)."""
    shape = [1, 2, size, size]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def messy() -> onnx.ModelProto:
    """Conv + BatchNorm, an Identity, a computed scale, and the same ReLU twice."""
    numbers = np.random.default_rng(0)
    weights = {"w": numbers.normal(size=(2, 2, 3, 3)).astype(np.float32)}
    weights |= {n: numbers.uniform(0.5, 1, 2).astype(np.float32) for n in ("g", "b", "m", "v")}
    weights["half"] = np.float32([0.5])
    return model(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
            helper.make_node("Identity", ["n"], ["i"]),
            helper.make_node("Sqrt", ["half"], ["scale"]),
            helper.make_node("Relu", ["i"], ["r1"]),
            helper.make_node("Relu", ["i"], ["r2"]),
            helper.make_node("Mul", ["r1", "scale"], ["s"]),
            helper.make_node("Add", ["s", "r2"], ["y"]),
        ],
        weights,
    )


def clean() -> onnx.ModelProto:
    weights = {"w": np.ones((2, 2, 3, 3), np.float32)}
    return model(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        weights,
    )


def use(monkeypatch: pytest.MonkeyPatch, **commands: list[str]) -> None:
    """Put other programs in the place of tools."""
    real = simplify._command
    monkeypatch.setattr(simplify, "_command", lambda tool: commands.get(tool) or real(tool))


def outputs(proto: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(5).normal(size=(1, 2, 8, 8)).astype(np.float32)
    return run_proto(proto, {"x": x}, optimization="none")["y"]


def test_what_an_exporter_left_behind_is_removed_once(caplog: pytest.LogCaptureFixture) -> None:
    """By the first tool, in normal form; the second time there is nothing to do."""
    pytest.importorskip("onnxsim")
    caplog.set_level(logging.INFO)
    given = messy()
    before = given.SerializeToString()
    simplified, tool = simplify_model(given)
    assert tool == "onnxsim"
    assert given.SerializeToString() == before
    assert len(simplified.graph.node) <= 4
    assert {node.op_type for node in simplified.graph.node} <= {"Conv", "Relu", "Mul", "Add"}
    assert (simplified.ir_version, simplified.opset_import[0].version) == (8, 17)
    assert simplified.producer_name == "edgekit"
    np.testing.assert_allclose(outputs(simplified), outputs(given), rtol=1e-5, atol=1e-6)
    again, none = simplify_model(simplified)
    assert none == "none"
    assert to_bytes(again) == to_bytes(simplified)
    assert "onnxsim simplified" in caplog.text


def test_a_plain_graph_starts_no_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tools take seconds to import; our own exports need none."""
    monkeypatch.setattr(simplify, "_run", lambda command: pytest.fail("a tool was started"))
    simplified, tool = simplify_model(clean())
    assert tool == "none"
    assert [node.op_type for node in simplified.graph.node] == ["Conv", "Relu"]


@pytest.mark.parametrize(
    ("command", "why"),
    [(CRASH, "crashed with signal 6"), (FAIL, "no idea how"), (NOTHING, "it wrote no model")],
    ids=["crash", "error", "no file"],
)
def test_where_a_tool_fails_the_next_one_is_used_and_it_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, command: list[str], why: str
) -> None:
    """onnxsim has crashed on real models; that must not end a build."""
    pytest.importorskip("onnxslim")
    use(monkeypatch, onnxsim=command)
    simplified, tool = simplify_model(messy())
    assert tool == "onnxslim"
    assert len(simplified.graph.node) < 8
    assert f"onnxsim cannot simplify this model: {why}" in caplog.text


def test_the_runtimes_own_optimizer_is_the_last_to_be_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is always installed."""
    use(monkeypatch, onnxsim=CRASH, onnxslim=FAIL)
    simplified, tool = simplify_model(messy())
    assert tool == "onnxruntime"
    assert len(simplified.graph.node) < 8
    assert {node.domain for node in simplified.graph.node} == {""}
    np.testing.assert_allclose(outputs(simplified), outputs(messy()), rtol=1e-5, atol=1e-6)


def test_a_tool_that_hangs_is_stopped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And where none is left, the model is used as it is."""
    monkeypatch.setattr(simplify, "_TIMEOUT_S", 0.5)
    use(monkeypatch, onnxsim=HANG, onnxslim=HANG, onnxruntime=HANG)
    simplified, tool = simplify_model(messy())
    assert tool == "none"
    assert len(simplified.graph.node) == 8
    assert "no answer in" in caplog.text
    assert "used as it is" in caplog.text


def other_numbers() -> onnx.ModelProto:
    proto = messy()
    weights = numpy_helper.to_array(proto.graph.initializer[0]) * np.float32(1.001)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    return proto


def other_output() -> onnx.ModelProto:
    proto = clean()
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = "z"
    return proto


def larger() -> onnx.ModelProto:
    proto = messy()
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(10_000, np.float32), "ballast"))
    proto.graph.node[3].input[0] = "ballast"
    proto.graph.node[3].op_type = "ReduceMean"
    return proto


def foreign() -> onnx.ModelProto:
    proto = clean()
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "FusedConv", "com.microsoft"
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (other_numbers, "it moved 'y' by"),
        (other_output, r"it changed the outputs from \['y'\] to \['z'\]"),
        (larger, "the file grew by"),
        (foreign, r"operators of \['com.microsoft'\]"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_no_result_is_taken_on_trust(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    made: Callable[[], onnx.ModelProto],
    why: str,
) -> None:
    """Here a tool gives a graph that looks simpler and is not the same."""
    path = tmp_path / "made.onnx"
    path.write_bytes(made().SerializeToString())
    use(monkeypatch, onnxsim=copying(path), onnxslim=FAIL, onnxruntime=FAIL)
    simplified, tool = simplify_model(messy())
    assert tool == "none"
    assert len(simplified.graph.node) == 8
    assert re.search(why, caplog.text)


def test_a_large_tensor_that_the_graph_makes_is_not_stored() -> None:
    """A megabyte of ones is 30 bytes as an operator."""
    big = [helper.make_node("ConstantOfShape", ["dims"], ["ones"]),
           helper.make_node("Exp", ["ones"], ["e"]),
           helper.make_node("Identity", ["x"], ["i"]),
           helper.make_node("Add", ["i", "e"], ["y"])]  # fmt: skip
    given = model(big, {"dims": np.int64([1, 2, 512, 512])}, size=512)
    simplified, _ = simplify_model(given)
    assert len(to_bytes(simplified)) < 20_000


def test_an_open_input_shape_is_refused() -> None:
    """Nothing could be compared."""
    proto = clean()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(ModelError, match="'x' has no fixed shape"):
        simplify_model(proto)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["ultraface/version-RFB-320", "fastestdet/FastestDet", "yolox_nano/yolox_nano_416x416",
     "mobilenet_v2_int8/mobilenet_v2_quant", "resnet_cifar10/resnet20_cifar10"],
)  # fmt: skip
def test_real_models_come_out_smaller_and_equal(name: str) -> None:
    """Also those with quantized operators; twice gives the same bytes."""
    path = MODELS / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    given = onnx.load_model(path)
    simplified, tool = simplify_model(given)
    assert tool != "none"
    assert len(simplified.graph.node) <= len(given.graph.node)
    assert len(to_bytes(simplified)) <= given.ByteSize()
    again, _ = simplify_model(simplified)
    assert to_bytes(again) == to_bytes(simplified)
