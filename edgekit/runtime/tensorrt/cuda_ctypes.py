"""CUDA by ctypes: libcudart, or libcuda, which every driver brings.

In: nothing but the shared library.  Out: a Cuda.  Both libraries have the same calls under other
names; ``Dialect`` is the difference.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from edgekit.errors import DeviceError
from edgekit.runtime.tensorrt.cuda import array_at, capability_of, driver_version
from edgekit.runtime.tensorrt.cuda_libraries import DRIVER, RUNTIME, Dialect, load_library
from edgekit.spec.tensors import Array

_NON_BLOCKING = 1
_SLEEPING_EVENT = 1 | 2
"""Blocking sync, no timing: to wait for it costs no processor."""
_THREAD_LOCAL = 1
"""Other threads may allocate while this one captures."""
_TO_DEVICE, _TO_HOST = 1, 2


def open_runtime() -> "CtypesCuda":
    """By libcudart. Raises: DeviceError if it is not here or finds no GPU."""
    return open_library(RUNTIME)


def open_driver() -> "CtypesCuda":
    """By the driver's own library. Raises: DeviceError."""
    return open_library(DRIVER)


def open_library(dialect: Dialect) -> "CtypesCuda":
    """The first file that works: one may be newer than the driver, as Python packages bring it."""
    reasons = []
    for file in dialect.files:
        library = load_library(file)
        if library is None:
            continue
        try:
            return CtypesCuda(library, file, dialect)
        except DeviceError as error:
            reasons.append(error.what)
    missing = f"there is no {dialect.files[0]}"
    raise DeviceError("; ".join(reasons) or missing, hint="install the NVIDIA driver and CUDA")


class CtypesCuda:
    """A Cuda on device 0 through a shared library."""

    def __init__(self, library: Any, file: str, dialect: Dialect) -> None:
        self._library, self._dialect = library, dialect
        self.name = file
        self._context = ctypes.c_void_p()
        self._addresses: list[int] = []
        self._hosts: list[int] = []
        self._graphs: list[int] = []
        self.stream, self._event, self._is_open = 0, 0, True
        self._start()
        with self.current():
            self.stream = self._made(dialect.stream, ctypes.c_uint(_NON_BLOCKING))
            self._event = self._made(dialect.event, ctypes.c_uint(_SLEEPING_EVENT))

    def _start(self) -> None:
        count = ctypes.c_int()
        if self._dialect is DRIVER:
            self._call("Init", ctypes.c_uint(0))
            self._call("DeviceGetCount", ctypes.byref(count))
        else:
            self._call("GetDeviceCount", ctypes.byref(count))
        if count.value < 1:
            raise DeviceError(f"{self.name} finds no GPU", hint="look at nvidia-smi")
        if self._dialect is DRIVER:  # the context that libcudart and TensorRT use as well
            self._call("DevicePrimaryCtxRetain", ctypes.byref(self._context), ctypes.c_int(0))

    @contextmanager
    def current(self) -> Iterator[None]:
        """Of the calling thread; it stays so afterwards, as CUDA's own programs leave it."""
        if self._dialect is DRIVER:
            self._call("CtxSetCurrent", self._context)
        else:
            self._call("SetDevice", ctypes.c_int(0))
        yield

    def capability(self) -> str:
        """Such as "8.7"."""
        return capability_of(self._attribute)

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        name = "DeviceGetAttribute"
        self._call(name, ctypes.byref(value), ctypes.c_int(number), ctypes.c_int(0))
        return value.value

    def driver(self) -> str:
        """Such as "12.6"."""
        version = ctypes.c_int()
        self._call("DriverGetVersion", ctypes.byref(version))
        return driver_version(version.value)

    def host(self, count_bytes: int) -> Array:
        """Pinned, so that copies need no second one."""
        address = self._made(
            self._dialect.host_malloc, ctypes.c_size_t(max(1, count_bytes)), ctypes.c_uint(0)
        )
        self._hosts.append(address)
        return array_at(address, count_bytes)

    def device(self, count_bytes: int) -> int:
        """An address on the GPU."""
        address = self._made(self._dialect.malloc, ctypes.c_size_t(max(1, count_bytes)))
        self._addresses.append(address)
        return address

    def to_device(self, address: int, host: Array) -> None:
        """Begin to copy."""
        self._copy(address, host.ctypes.data, host.nbytes, _TO_DEVICE)

    def to_host(self, host: Array, address: int) -> None:
        """Begin to copy back."""
        self._copy(host.ctypes.data, address, host.nbytes, _TO_HOST)

    def _copy(self, target: int, source: int, count_bytes: int, direction: int) -> None:
        way = (ctypes.c_int(direction),) if self._dialect.copies_say_direction else ()
        size = ctypes.c_size_t(count_bytes)
        stream = ctypes.c_void_p(self.stream)
        self._call(
            "MemcpyAsync", ctypes.c_void_p(target), ctypes.c_void_p(source), size, *way, stream
        )

    def wait(self) -> None:
        """Sleep until the stream is done."""
        event, stream = ctypes.c_void_p(self._event), ctypes.c_void_p(self.stream)
        self._call("EventRecord", event, stream)
        self._call("EventSynchronize", event)

    def capture(self, work: Callable[[], None]) -> int:
        """Record ``work``; a capture that fails is ended before the error goes on."""
        stream = ctypes.c_void_p(self.stream)
        self._call(self._dialect.begin_capture, stream, ctypes.c_int(_THREAD_LOCAL))
        recorded = ctypes.c_void_p()
        try:
            work()
        except BaseException:
            with suppress(DeviceError):
                self._call("StreamEndCapture", stream, ctypes.byref(recorded))
            raise
        self._call("StreamEndCapture", stream, ctypes.byref(recorded))
        try:
            graph = self._made("GraphInstantiateWithFlags", recorded, ctypes.c_ulonglong(0))
        finally:
            self._call("GraphDestroy", recorded)
        self._graphs.append(graph)
        return graph

    def launch(self, graph: int) -> None:
        """Begin what it recorded."""
        self._call("GraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(self.stream))

    def close(self) -> None:
        """Free all; what cannot be freed (a GPU that fell off) is the driver's to clear up."""
        if not self._is_open:
            return
        self._is_open = False
        with suppress(DeviceError), self.current():
            self.wait()
        dialect, pairs = self._dialect, list[tuple[str, int]]()
        pairs += [("GraphExecDestroy", graph) for graph in self._graphs]
        pairs += [(dialect.free, address) for address in self._addresses]
        pairs += [(dialect.host_free, address) for address in self._hosts]
        destroy = "_v2" if dialect is DRIVER else ""
        pairs += [(f"EventDestroy{destroy}", self._event), (f"StreamDestroy{destroy}", self.stream)]
        for name, handle in pairs:
            with suppress(DeviceError):
                self._call(name, ctypes.c_void_p(handle))
        if dialect is DRIVER:
            with suppress(DeviceError):
                self._call("DevicePrimaryCtxRelease_v2", ctypes.c_int(0))

    def _made(self, name: str, *arguments: Any) -> int:
        """What a call writes through its first argument."""
        made = ctypes.c_void_p()
        self._call(name, ctypes.byref(made), *arguments)
        return made.value or 0

    def _call(self, name: str, *arguments: Any) -> None:
        function = self._dialect.prefix + name
        try:
            code = getattr(self._library, function)(*arguments)
        except AttributeError:
            raise DeviceError(
                f"{self.name} has no {function}", hint="update CUDA on this board to 11.4 or newer"
            ) from None
        if code:
            raise DeviceError(
                f"{self.name}: {function} failed, {self._error_text(code)}",
                hint="look at nvidia-smi and dmesg on this board",
            )

    def _error_text(self, code: int) -> str:
        with suppress(AttributeError):
            if self._dialect is DRIVER:
                text = ctypes.c_char_p()
                self._library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
                return f"error {code}: {(text.value or b'unknown').decode()}"
            describe = self._library.cudaGetErrorString
            describe.restype = ctypes.c_char_p
            return f"error {code}: {(describe(ctypes.c_int(code)) or b'unknown').decode()}"
        return f"error {code}"
