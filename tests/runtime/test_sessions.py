"""Sessions: the real runtime on a tiny real model, the dilated wrapper, the fake."""

import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from edgekit.errors import ConfigError, DeviceError, ModelError
from edgekit.runtime.dilated import DilatedSession
from edgekit.runtime.echo import EchoSession
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import random_inputs
from edgekit.spec.tensors import TensorSpec

SPEC = TensorSpec(name="x", dtype="float32", shape=(1, 4))


def tiny_model(path: Path, operator: str = "Relu", domain: str = "") -> Path:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_a_real_session_knows_its_inputs_and_runs(tmp_path: Path) -> None:
    """The port's promise, on the runtime that boards have."""
    session = OrtSession(tiny_model(tmp_path / "m.onnx"))
    assert session.inputs == (SPEC,)
    got = session.run({"x": np.array([[-1, 0, 1, 2]], np.float32)})
    assert got["y"].tolist() == [[0, 0, 1, 2]]


def test_a_wrong_shape_is_an_error_that_says_what_to_feed(tmp_path: Path) -> None:
    """It must not crash the inference thread with a pybind error."""
    session = OrtSession(tiny_model(tmp_path / "m.onnx"))
    with pytest.raises(DeviceError, match=r"feed x float32\[1x4\]"):
        session.run({"x": np.zeros((2, 4), np.float32)})


def test_a_missing_file_a_cut_off_file_and_an_unknown_operator_are_told_apart(
    tmp_path: Path,
) -> None:
    """Each has another fix."""
    with pytest.raises(ModelError, match="there is no model file"):
        OrtSession(tmp_path / "nowhere.onnx")
    whole = tiny_model(tmp_path / "m.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="not a whole ONNX file"):
        OrtSession(tmp_path / "cut.onnx")
    with pytest.raises(ModelError, match="Fancy"):
        OrtSession(tiny_model(tmp_path / "f.onnx", "Fancy", "my.lab"))


def test_threads_below_one_are_refused(tmp_path: Path) -> None:
    """0 would mean "all processors", which starves the capture thread."""
    with pytest.raises(ConfigError, match="threads"):
        OrtSession(tiny_model(tmp_path / "m.onnx"), threads=0)


def test_a_dilated_session_takes_its_factor_times_as_long_and_gives_the_same_answer() -> None:
    """Compared with the work itself, so that a loaded machine does not matter."""

    def work(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        return inputs

    dilated = DilatedSession(EchoSession((SPEC,), (SPEC,), function=work), factor=4.0)
    inputs = random_inputs((SPEC,))
    started_s = time.perf_counter()
    assert dilated.run(inputs) == inputs
    assert time.perf_counter() - started_s >= 4 * 0.02
    with pytest.raises(ConfigError, match="at least 1"):
        DilatedSession(dilated, factor=0.5)


def test_a_dilated_session_stays_steady_when_a_run_is_disturbed() -> None:
    """What the host does meanwhile is not multiplied: a board of its own would not feel it."""
    extra_s = [0.0]

    def work(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        end = time.thread_time() + 0.01 + extra_s[0]
        while time.thread_time() < end:
            pass
        return inputs

    dilated = DilatedSession(EchoSession((SPEC,), (SPEC,), function=work), factor=10.0)
    inputs = random_inputs((SPEC,))
    dilated.run(inputs)

    def run_s() -> float:
        started_s = time.perf_counter()
        dilated.run(inputs)
        return time.perf_counter() - started_s

    quiet_s = min(run_s() for _ in range(3))
    extra_s[0] = 0.04
    assert min(run_s() for _ in range(3)) < 2 * quiet_s  # five times as much, were it multiplied


def test_a_time_that_was_found_in_a_slow_phase_is_corrected_later() -> None:
    """A machine may be disturbed for seconds, just when the session is loaded."""
    slow_s = [0.004]

    def work(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        end = time.thread_time() + 0.001 + slow_s[0]
        while time.thread_time() < end:
            pass
        return inputs

    dilated = DilatedSession(EchoSession((SPEC,), (SPEC,), function=work), factor=40.0)
    inputs = random_inputs((SPEC,))
    dilated.run(inputs)
    slow_s[0] = 0.0
    dilated.run(inputs)  # still as slow as it was found to be, and looks again meanwhile
    started_s = time.perf_counter()
    for _ in range(3):
        dilated.run(inputs)
    assert time.perf_counter() - started_s < 3 * 40 * 0.005 * 0.6


def test_random_inputs_repeat_with_their_seed_and_fit_their_dtype() -> None:
    """Golden vectors and warm-up use them."""
    specs = (SPEC, TensorSpec(name="n", dtype="int64", shape=(3,)))
    one, same, other = (random_inputs(specs, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["x"], other["x"])
    assert one["n"].dtype == np.int64
