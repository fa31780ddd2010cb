"""CUDA by pycuda, for boards that have it. It records no graphs.

In: the package.  Out: a Cuda.  It uses the primary context of the GPU, as TensorRT does; a context
of its own, as ``pycuda.autoinit`` makes, would know nothing of TensorRT's memory.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from edgekit.errors import DeviceError
from edgekit.runtime.tensorrt.cuda import driver_version
from edgekit.spec.tensors import Array


def _load_package() -> Any:
    """Raises: DeviceError if it is missing or broken."""
    try:
        return importlib.import_module("pycuda.driver")
    except Exception as error:  # noqa: BLE001 - a loader raises anything
        text = " ".join(str(error).split())[:120]
        raise DeviceError(f"pycuda: {text}", hint="pip install pycuda, where nvcc is") from None


class PyCuda:
    """A Cuda on device 0."""

    name = "pycuda"

    def __init__(self, load: Callable[[], Any] = _load_package) -> None:
        self._api = load()
        self._memory: list[Any] = []
        self._is_open = True
        with self._errors("init"):
            self._api.init()
            if self._api.Device.count() < 1:
                raise DeviceError("pycuda finds no GPU", hint="look at nvidia-smi")
            self._gpu = self._api.Device(0)
            self._context = self._gpu.retain_primary_context()
        with self.current():
            self._stream = self._api.Stream()
            flags = self._api.event_flags
            self._event = self._api.Event(flags.BLOCKING_SYNC | flags.DISABLE_TIMING)

    @property
    def stream(self) -> int:
        """Handle of the stream."""
        return int(self._stream.handle)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except DeviceError:
            raise
        except Exception as error:  # noqa: BLE001 - pycuda.driver.Error and what the loader raises
            text = " ".join(str(error).split())[:160]
            raise DeviceError(f"pycuda: {name} failed, {text}", hint="check the driver") from None

    @contextmanager
    def current(self) -> Iterator[None]:
        """Of the calling thread, until the end of the block."""
        with self._errors("context"):
            self._context.push()
        try:
            with self._errors("call"):
                yield
        finally:
            self._context.pop()

    def capability(self) -> str:
        """Such as "8.7"."""
        major, minor = self._gpu.compute_capability()
        return f"{major}.{minor}"

    def driver(self) -> str:
        """Such as "12.6"."""
        return driver_version(int(self._api.get_driver_version()))

    def host(self, count_bytes: int) -> Array:
        """Pinned."""
        array: Array = self._api.pagelocked_empty(count_bytes, np.uint8)
        self._memory.append(array.base)
        return array

    def device(self, count_bytes: int) -> int:
        """An address on the GPU."""
        memory = self._api.mem_alloc(max(1, count_bytes))
        self._memory.append(memory)
        return int(memory)

    def to_device(self, address: int, host: Array) -> None:
        """Begin to copy."""
        self._api.memcpy_htod_async(address, host, self._stream)

    def to_host(self, host: Array, address: int) -> None:
        """Begin to copy back."""
        self._api.memcpy_dtoh_async(host, address, self._stream)

    def wait(self) -> None:
        """Sleep until the stream is done."""
        self._event.record(self._stream)
        self._event.synchronize()

    def capture(self, work: Callable[[], None]) -> int:
        """Not here: the engine runs without."""
        raise DeviceError("pycuda records no graphs", hint="install cuda-python beside it")

    def launch(self, graph: int) -> None:
        """Not here."""
        raise DeviceError("pycuda launches no graphs", hint="install cuda-python beside it")

    def close(self) -> None:
        """Free all."""
        if not self._is_open:
            return
        self._is_open = False
        with suppress(DeviceError), self.current():
            self._memory.clear()
            del self._stream, self._event
        with suppress(DeviceError), self._errors("detach"):
            self._context.detach()
