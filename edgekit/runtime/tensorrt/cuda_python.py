"""CUDA by NVIDIA's package cuda-python (``cuda.bindings.runtime``, or ``cuda.cudart`` before 12.6).

In: the package.  Out: a Cuda.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from edgekit.errors import DeviceError
from edgekit.runtime.tensorrt.cuda import array_at, capability_of, driver_version
from edgekit.spec.tensors import Array

_NON_BLOCKING, _SLEEPING_EVENT = 1, 1 | 2


def _load_package() -> Any:
    """Raises: DeviceError if it is missing or broken."""
    try:
        try:
            return importlib.import_module("cuda.bindings.runtime")
        except ImportError:
            return importlib.import_module("cuda.cudart")
    except Exception as error:  # noqa: BLE001 - a loader raises anything
        text = " ".join(str(error).split())[:120]
        raise DeviceError(f"cuda-python: {text}", hint="pip install cuda-python") from None


class CudaPython:
    """A Cuda on device 0."""

    name = "cuda-python"

    def __init__(self, load: Callable[[], Any] = _load_package) -> None:
        self._api = load()
        self._addresses: list[int] = []
        self._hosts: list[int] = []
        self._graphs: list[Any] = []
        self._is_open = True
        if self._ask("cudaGetDeviceCount") < 1:
            raise DeviceError("cuda-python finds no GPU", hint="look at nvidia-smi")
        with self.current():
            self._stream = self._ask("cudaStreamCreateWithFlags", _NON_BLOCKING)
            self._event = self._ask("cudaEventCreateWithFlags", _SLEEPING_EVENT)

    @property
    def stream(self) -> int:
        """Handle of the stream."""
        return int(self._stream)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Of the calling thread."""
        self._ask("cudaSetDevice", 0)
        yield

    def capability(self) -> str:
        """Such as "8.7"."""
        kinds = self._api.cudaDeviceAttr
        return capability_of(
            lambda number: int(self._ask("cudaDeviceGetAttribute", kinds(number), 0))
        )

    def driver(self) -> str:
        """Such as "12.6"."""
        return driver_version(int(self._ask("cudaDriverGetVersion")))

    def host(self, count_bytes: int) -> Array:
        """Pinned."""
        address = int(self._ask("cudaHostAlloc", max(1, count_bytes), 0))
        self._hosts.append(address)
        return array_at(address, count_bytes)

    def device(self, count_bytes: int) -> int:
        """An address on the GPU."""
        address = int(self._ask("cudaMalloc", max(1, count_bytes)))
        self._addresses.append(address)
        return address

    def to_device(self, address: int, host: Array) -> None:
        """Begin to copy."""
        way = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._ask("cudaMemcpyAsync", address, host.ctypes.data, host.nbytes, way, self._stream)

    def to_host(self, host: Array, address: int) -> None:
        """Begin to copy back."""
        way = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._ask("cudaMemcpyAsync", host.ctypes.data, address, host.nbytes, way, self._stream)

    def wait(self) -> None:
        """Sleep until the stream is done."""
        self._ask("cudaEventRecord", self._event, self._stream)
        self._ask("cudaEventSynchronize", self._event)

    def capture(self, work: Callable[[], None]) -> int:
        """Record ``work``. Returns: a number that ``launch`` knows."""
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._ask("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            with suppress(DeviceError):
                self._ask("cudaStreamEndCapture", self._stream)
            raise
        recorded = self._ask("cudaStreamEndCapture", self._stream)
        try:
            self._graphs.append(self._ask("cudaGraphInstantiateWithFlags", recorded, 0))
        finally:
            self._ask("cudaGraphDestroy", recorded)
        return len(self._graphs) - 1

    def launch(self, graph: int) -> None:
        """Begin what it recorded."""
        self._ask("cudaGraphLaunch", self._graphs[graph], self._stream)

    def close(self) -> None:
        """Free all."""
        if not self._is_open:
            return
        self._is_open = False
        with suppress(DeviceError), self.current():
            self.wait()
        pairs: list[tuple[str, Any]] = [("cudaGraphExecDestroy", graph) for graph in self._graphs]
        pairs += [("cudaFree", address) for address in self._addresses]
        pairs += [("cudaFreeHost", address) for address in self._hosts]
        pairs += [("cudaEventDestroy", self._event), ("cudaStreamDestroy", self._stream)]
        for name, handle in pairs:
            with suppress(DeviceError):
                self._ask(name, handle)

    def _ask(self, name: str, *arguments: Any) -> Any:
        """What the call returns beside its error code."""
        try:
            code, *values = getattr(self._api, name)(*arguments)
        except Exception as error:  # noqa: BLE001 - it raises bare RuntimeErrors without a driver
            text = " ".join(str(error).split())[:120]
            raise DeviceError(f"cuda-python: {name}: {text}", hint="check the driver") from None
        if int(code):
            raise DeviceError(
                f"cuda-python: {name} failed, {code!s}",
                hint="look at nvidia-smi and dmesg on this board",
            )
        return values[0] if values else None
