"""The ways to CUDA: the right calls with the right arguments, everything freed, errors in words."""

import ctypes
import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekit.errors import DeviceError
from edgekit.runtime.tensorrt.cuda import Cuda, array_at, open_cuda
from edgekit.runtime.tensorrt.cuda_ctypes import CtypesCuda, open_library
from edgekit.runtime.tensorrt.cuda_fake import FakeCuda
from edgekit.runtime.tensorrt.cuda_libraries import DRIVER, RUNTIME
from edgekit.runtime.tensorrt.cuda_pycuda import PyCuda
from edgekit.runtime.tensorrt.cuda_python import CudaPython

SOURCE = Path(__file__).parent / "fake_cudart.c"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake library, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    out = tmp_path_factory.mktemp("cudart") / "libcudart.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", out, SOURCE], check=True)
    return out


@pytest.fixture
def library(compiled: Path, tmp_path: Path) -> Any:
    """Loaded anew, so that its counts begin at zero."""
    own = tmp_path / "libcudart.so"
    shutil.copy(compiled, own)
    return ctypes.CDLL(str(own))


def bindings(library: Any) -> Any:
    """``cuda.bindings.runtime`` on top of the fake library: tuples with an error code first."""

    def call(name: str, *arguments: Any, makes: Any = None) -> tuple[Any, ...]:
        out = makes() if makes is not None else None
        first = [ctypes.byref(out)] if out is not None else []
        rest = [
            ctypes.c_void_p(one) if isinstance(one, int) and one > 1 << 20 else one
            for one in arguments
        ]
        code = getattr(library, name)(*first, *rest)
        return (code,) if out is None else (code, out.value)

    made = {
        "cudaGetDeviceCount": ctypes.c_int, "cudaDriverGetVersion": ctypes.c_int,
        "cudaDeviceGetAttribute": ctypes.c_int, "cudaHostAlloc": ctypes.c_void_p,
        "cudaMalloc": ctypes.c_void_p, "cudaStreamCreateWithFlags": ctypes.c_void_p,
        "cudaEventCreateWithFlags": ctypes.c_void_p,
        "cudaGraphInstantiateWithFlags": ctypes.c_void_p,
    }  # fmt: skip

    def end_capture(stream: int) -> tuple[Any, ...]:
        graph = ctypes.c_void_p()
        return library.cudaStreamEndCapture(
            ctypes.c_void_p(stream), ctypes.byref(graph)
        ), graph.value

    class Api(SimpleNamespace):
        def __getattr__(self, name: str) -> Callable[..., Any]:
            return lambda *arguments: call(name, *arguments, makes=made.get(name))

    return Api(
        cudaStreamEndCapture=end_capture,
        cudaDeviceAttr=int,
        cudaMemcpyKind=SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2),
        cudaStreamCaptureMode=SimpleNamespace(cudaStreamCaptureModeThreadLocal=1),
    )


def make(way: str, library: Any) -> Cuda:
    if way == "cuda-python":
        return CudaPython(lambda: bindings(library))
    if way == "fake":
        return FakeCuda()
    dialect = RUNTIME if way == "libcudart" else DRIVER
    return CtypesCuda(library, way, dialect)


@pytest.mark.parametrize("way", ["libcudart", "libcuda", "cuda-python", "fake"])
def test_bytes_go_to_the_gpu_and_back_also_in_a_graph(way: str, library: Any) -> None:
    """The same for every way; at the end nothing is left allocated."""
    cuda = make(way, library)
    with cuda.current():
        assert (cuda.capability(), cuda.driver()) == ("8.7", "12.6")
        here, back = cuda.host(1000), cuda.host(1000)
        there = cuda.device(1000)
        empty = cuda.host(0)
        assert (here.dtype.name, here.shape, empty.shape) == ("uint8", (1000,), (0,))
        here[:] = np.arange(1000) % 251
        cuda.to_device(there, here)
        cuda.wait()
        assert array_at(there, 1000).tolist() == here.tolist()

        def work() -> None:
            cuda.to_device(there, here[:500])
            cuda.to_host(back[:500], there)

        graph = cuda.capture(work)
        here[:] = 7
        assert back.sum() == 0  # recorded, not done
        cuda.launch(graph)
        cuda.wait()
        assert (back[:500].tolist(), back[500:].sum()) == ([7] * 500, 0)
    assert cuda.stream
    if way != "fake":
        assert library.live() > 0
        assert library.waited() == 2
    cuda.close()
    cuda.close()
    assert library.live() == 0


@pytest.mark.parametrize("way", ["libcudart", "libcuda", "cuda-python"])
def test_a_failed_capture_is_an_error_and_what_follows_works(way: str, library: Any) -> None:
    """Some operations cannot be captured; the frame after must still be answered."""
    cuda = make(way, library)
    with cuda.current():
        here, there = cuda.host(8), cuda.device(8)
        library.fail_capture(1)
        with pytest.raises(DeviceError, match=r"BeginCapture.* failed"):
            cuda.capture(lambda: cuda.to_device(there, here))
        library.fail_capture(0)

        def fails() -> None:
            raise DeviceError("the engine fails", hint="x")

        with pytest.raises(DeviceError, match="the engine fails"):
            cuda.capture(fails)
        here[:] = 5
        cuda.to_device(there, here)
        assert array_at(there, 8).tolist() == [5] * 8
    cuda.close()


def test_an_error_code_is_told_in_words(library: Any) -> None:
    cuda = make("libcudart", library)
    library.fail_capture(1)
    with pytest.raises(DeviceError, match="error 900: operation not permitted when stream is cap"):
        cuda.capture(lambda: None)


def test_a_library_without_a_call_says_which() -> None:
    """CUDA before 11.4 instantiates graphs otherwise."""
    with pytest.raises(DeviceError, match="old has no cudaGetDeviceCount"):
        CtypesCuda(SimpleNamespace(), "old", RUNTIME)


def test_a_libcudart_newer_than_the_driver_gives_way_to_one_that_fits(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python packages bring the newest, the board has its own."""
    (tmp_path / "nvidia/cu13/lib").mkdir(parents=True)
    source = tmp_path / "new.c"
    source.write_text(
        "int cudaGetDeviceCount(int *n) { return 35; }\n"
        'const char *cudaGetErrorString(int code) { return "driver version is insufficient"; }'
    )
    newest = tmp_path / "nvidia/cu13/lib/libcudart-of-test.so.13"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", newest, source], check=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    files = ("libcudart-of-test.so.13", "libcudart-of-test.so.12")
    dialect = dataclasses.replace(RUNTIME, files=files)
    with pytest.raises(DeviceError, match=r"of-test\.so\.13: .* driver version is insufficient"):
        open_library(dialect)
    (tmp_path / "nvidia/cuda_runtime/lib").mkdir(parents=True)
    shutil.copy(compiled, tmp_path / "nvidia/cuda_runtime/lib/libcudart-of-test.so.12")
    cuda = open_library(dialect)
    assert cuda.name == "libcudart-of-test.so.12"
    cuda.close()


def test_without_a_driver_every_way_says_why_not() -> None:
    """One error, in words, that names all."""

    def broken() -> Any:
        raise DeviceError("cuda-python: No module named 'cuda'", hint="x")

    def also() -> Any:
        raise DeviceError("there is no libcuda.so.1", hint="x")

    with pytest.raises(DeviceError, match=r"no GPU .*named 'cuda'; there is no libcuda\.so\.1"):
        open_cuda((broken, also))
    fake = FakeCuda()
    assert open_cuda((broken, lambda: fake)) is fake


def fake_pycuda(calls: list[str]) -> Any:
    """``pycuda.driver``, as far as it is used."""

    class Context:
        def __getattr__(self, name: str) -> Callable[[], None]:
            return lambda: calls.append(name)

    class Gpu:
        def __init__(self, number: int) -> None:
            self.compute_capability = lambda: (7, 2)

        @staticmethod
        def count() -> int:
            return 1

        def retain_primary_context(self) -> Context:
            return Context()

    memory: dict[int, np.ndarray] = {}

    def mem_alloc(count_bytes: int) -> int:
        array = np.zeros(count_bytes, np.uint8)
        memory[array.ctypes.data] = array
        return array.ctypes.data

    return SimpleNamespace(
        init=lambda: calls.append("init"), Device=Gpu,
        Stream=lambda: SimpleNamespace(handle=5, synchronize=lambda: None),
        Event=lambda flags: SimpleNamespace(
            record=lambda stream: None, synchronize=lambda: calls.append(f"waited {flags}")
        ),
        event_flags=SimpleNamespace(BLOCKING_SYNC=1, DISABLE_TIMING=2),
        get_driver_version=lambda: 11040,
        pagelocked_empty=lambda n, kind: np.zeros(n + 1, kind)[:n],
        mem_alloc=mem_alloc,
        memcpy_htod_async=lambda there, here, stream: np.copyto(memory[there][: here.size], here),
        memcpy_dtoh_async=lambda here, there, stream: np.copyto(here, memory[there][: here.size]),
    )  # fmt: skip


def test_pycuda_uses_the_gpu_s_primary_context_and_leaves_the_thread_as_it_was() -> None:
    """A context of its own would not know TensorRT's memory."""
    calls: list[str] = []
    cuda: Cuda = PyCuda(lambda: fake_pycuda(calls))
    assert calls == ["init", "push", "pop"]
    with cuda.current():
        here, back, there = cuda.host(4), cuda.host(4), cuda.device(4)
        here[:] = 9
        cuda.to_device(there, here)
        cuda.to_host(back, there)
        cuda.wait()
        assert (cuda.capability(), cuda.driver(), cuda.stream) == ("7.2", "11.4", 5)
    assert back.tolist() == [9] * 4
    assert calls[3:] == ["push", "waited 3", "pop"]
    with pytest.raises(DeviceError, match="pycuda records no graphs"):
        cuda.capture(lambda: None)
    cuda.close()
    assert calls[-1] == "detach"


def test_whatever_pycuda_raises_is_an_error_of_the_device() -> None:
    def init() -> None:
        raise RuntimeError("cuInit failed: no CUDA-capable device is detected")

    with pytest.raises(DeviceError, match="no CUDA-capable device"):
        PyCuda(lambda: SimpleNamespace(init=init))
