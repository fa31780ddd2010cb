"""Providers by name: what they are told, what brings them, and proof in a process of their own."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgekit.errors import ConfigError, DeviceError, ModelError
from edgekit.profiler.onnx_writer import Node, write_model
from edgekit.runtime import ort as ort_module
from edgekit.runtime import provider_check, provider_child, providers
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.provider_check import (
    check_provider,
    in_words,
    missing_library,
    tried,
)
from edgekit.runtime.provider_child import PROBE, prove
from edgekit.runtime.provider_names import INSTALL, NATIVE, ORT_NAMES, engine_cache
from edgekit.runtime.providers import (
    available_providers,
    make_ready,
    provider_chain,
    provider_options,
    startable_providers,
)
from edgekit.spec.tensors import TensorSpec

BUILT = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


def built_with(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    monkeypatch.setattr(providers.ort, "get_available_providers", lambda: names)


def test_the_processor_is_always_there_and_tensorrt_itself_is_no_provider() -> None:
    """A fleet's "tensorrt" has a runner of its own."""
    assert available_providers()[0] == "cpu"
    assert NATIVE not in ORT_NAMES
    with pytest.raises(ConfigError, match=r"TensorRT itself.*use tensorrt-ep"):
        OrtSession(Path("m.onnx"), provider=NATIVE)


@pytest.mark.parametrize("name", ["cuda", "tensorrt-ep", "tensorrt-rtx-ep", "xnnpack"])
def test_a_provider_that_is_not_there_says_what_brings_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And names those that are."""
    built_with(monkeypatch, ["CPUExecutionProvider"])
    monkeypatch.setattr(providers, "_has_plugin", lambda provider: False)
    with pytest.raises(ConfigError, match=f"no provider '{name}'; it has cpu") as caught:
        provider_chain(name)
    assert caught.value.hint == INSTALL[name]


def test_tensorrt_inside_onnxruntime_leaves_the_rest_to_cuda_and_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Operators that it lacks must not travel to the processor and back."""
    built_with(monkeypatch, BUILT)
    assert provider_chain("tensorrt-ep") == BUILT
    assert provider_chain("cuda") == BUILT[1:]
    assert available_providers()[:3] == ("cpu", "cuda", "tensorrt-ep")


def test_engines_and_timings_are_kept_and_only_what_the_model_asks_for_is_allowed(
    tmp_path: Path,
) -> None:
    """A float model is never rounded to fp16 behind one's back."""
    half = provider_options("tensorrt-ep", cache=tmp_path, precision="fp16")
    assert half["trt_engine_cache_path"] == half["trt_timing_cache_path"] == os.fspath(tmp_path)
    assert (half["trt_engine_cache_enable"], half["trt_timing_cache_enable"]) == ("1", "1")
    assert (half["trt_fp16_enable"], half["trt_int8_enable"]) == ("1", "0")
    plain = provider_options("tensorrt-ep", cache=tmp_path)
    assert (plain["trt_fp16_enable"], plain["trt_int8_enable"]) == ("0", "0")
    assert provider_options("cuda", cache=tmp_path) == {"use_tf32": "0"}
    assert provider_options("cuda", cache=tmp_path, tf32=True) == {"use_tf32": "1"}
    rtx = provider_options("tensorrt-rtx-ep", cache=tmp_path)
    assert rtx == {"nv_runtime_cache_path": os.fspath(tmp_path)}
    assert provider_options("cpu", cache=tmp_path) == {}


def test_engines_lie_in_the_user_s_cache_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As XDG says; a relative path there is to be ignored."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/tmp/cache")
    assert engine_cache() == Path("/var/tmp/cache/edgekit/engines")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert engine_cache() == Path.home() / ".cache/edgekit/engines"


def test_a_cache_that_cannot_be_made_is_an_error_before_minutes_of_building(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only image, or a file in the way."""
    built_with(monkeypatch, BUILT)
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cannot make the folder"):
        make_ready("tensorrt-ep", tmp_path / "file" / "engines")


def plugged(monkeypatch: pytest.MonkeyPatch, failure: str = "") -> list[tuple[str, str]]:
    """A made-up plugin package, and what ONNX Runtime was told of it."""
    told: list[tuple[str, str]] = []

    def register(name: str, path: str) -> None:
        if failure:
            raise RuntimeError(failure)
        told.append((name, path))

    built_with(monkeypatch, ["CPUExecutionProvider"])
    plugin = SimpleNamespace(get_library_path=lambda: "/somewhere/librtx.so")
    monkeypatch.setattr(providers.importlib.util, "find_spec", lambda name: plugin)
    monkeypatch.setattr(providers.importlib, "import_module", lambda name: plugin)
    monkeypatch.setattr(
        providers.ort, "register_execution_provider_library", register, raising=False
    )
    return told


def test_a_plugin_is_registered_when_its_provider_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not before: listing providers loads nothing."""
    told = plugged(monkeypatch)
    assert "tensorrt-rtx-ep" in available_providers()
    assert told == []
    make_ready("tensorrt-rtx-ep", tmp_path / "engines")
    assert told == [("NvTensorRTRTXExecutionProvider", "/somewhere/librtx.so")]
    assert (tmp_path / "engines").is_dir()


def test_a_plugin_registered_twice_is_fine_and_a_broken_one_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every session asks."""
    plugged(monkeypatch, "library rtx is already registered")
    make_ready("tensorrt-rtx-ep", tmp_path)
    plugged(monkeypatch, "libcuda.so.1: cannot open shared object file")
    with pytest.raises(ConfigError, match=r"cannot be loaded: libcuda\.so\.1"):
        make_ready("tensorrt-rtx-ep", tmp_path)


def test_a_plugin_s_devices_are_given_to_the_session(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By object, with the options; the name alone means nothing to ONNX Runtime."""
    built_with(monkeypatch, ["CPUExecutionProvider"])
    device = SimpleNamespace(ep_name="NvTensorRTRTXExecutionProvider")
    monkeypatch.setattr(providers.ort, "get_ep_devices", lambda: [device], raising=False)
    given: list[object] = []
    options = SimpleNamespace(add_provider_for_devices=lambda *what: given.append(what))
    monkeypatch.setattr(providers.ort, "InferenceSession", lambda path, options: path)
    chain = ["NvTensorRTRTXExecutionProvider", "CPUExecutionProvider"]
    found = providers.session_with(tmp_path / "m.onnx", options, chain, {"a": "1"})
    assert str(found) == os.fspath(tmp_path / "m.onnx")
    assert given == [([device], {"a": "1"})]


def test_a_provider_that_fails_is_a_device_error_and_a_broken_model_stays_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The agent tries the next provider for the first, and gives up for the second."""
    monkeypatch.setattr(ort_module, "provider_chain", lambda name: [ORT_NAMES[name], BUILT[2]])
    path = tmp_path / "m.onnx"

    def fail(text: str) -> None:
        def raising(*arguments: object) -> None:
            raise RuntimeError(text)

        monkeypatch.setattr(ort_module, "session_with", raising)

    path.write_bytes(PROBE)
    fail("Please install TensorRT libraries as mentioned")
    with pytest.raises(DeviceError, match=r"tensorrt-ep does not start.*Please install"):
        OrtSession(path, provider="tensorrt-ep", cache=tmp_path)
    fail("INVALID_PROTOBUF : nonsense")
    with pytest.raises(ModelError, match="not a whole ONNX file"):
        OrtSession(path, provider="cuda", cache=tmp_path)


def test_the_probe_is_the_model_that_its_docstring_says() -> None:
    """Bytes in the source must not be a riddle."""
    spec = {name: TensorSpec(name=name, dtype="float32", shape=(1, 4, 8, 8)) for name in "xy"}
    weights = ((np.arange(16, dtype=np.float32) - 8) / 8).reshape(4, 4, 1, 1)
    node = Node(op_type="Conv", inputs=("x", "w"), outputs=("y",))
    made = write_model([node], inputs=[spec["x"]], outputs=[spec["y"]], weights={"w": weights})
    assert made == PROBE


def test_the_processor_proves_itself_in_a_process_of_its_own() -> None:
    """For real; and a name that is none does not."""
    assert check_provider("cpu").starts
    found = check_provider("abacus")
    assert not found.starts and "no provider 'abacus'" in found.reason
    assert "cpu" in startable_providers()


def test_numbers_that_are_wrong_are_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that answers with zeros has been seen."""

    class Zeros:
        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"y": np.zeros_like(inputs["x"])}

    monkeypatch.setattr(provider_child, "_opened", lambda path, provider: Zeros())
    with pytest.raises(DeviceError, match="wrong numbers"):
        prove("cuda")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by signal 11"),
        ("import time; time.sleep(60)", "no answer within 1 s"),
        ("print('nonsense')", "nonsense|status 0"),
        ("import sys; sys.exit('libcudart.so.12: cannot open shared object file: No such file')",
         "needs libcudart.so.12, which is not here"),
        ("import sys; sys.exit('CUDA error 209: no kernel image is available')",
         "built without kernels for this GPU"),
        ("print('{\"starts\": false, \"reason\": \"too old\"}'); raise SystemExit(1)", "too old"),
    ],
)  # fmt: skip
def test_whatever_a_driver_does_to_its_process_becomes_a_reason(code: str, reason: str) -> None:
    """A crash of the agent would be worse than a slow provider."""
    found = tried([sys.executable, "-c", code], "cuda", timeout_s=1.0 if "sleep" in code else 30.0)
    assert not found.starts
    assert any(part in found.reason for part in reason.split("|"))


def test_the_missing_library_is_the_one_before_the_colon() -> None:
    """ONNX Runtime names its own library first."""
    text = (
        "Failed to load library /x/libonnxruntime_providers_cuda.so with error: "
        "libcublasLt.so.13: cannot open shared object file: No such file or directory"
    )
    assert missing_library(text) == "libcublasLt.so.13"
    assert missing_library("all is well") == ""
    assert in_words("", "", 3) == "its process ended with status 3"


def test_an_answer_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent asks at every deployment."""
    monkeypatch.setattr(provider_check, "tried", lambda command, provider: 1 / 0)
    assert check_provider("cpu").starts
