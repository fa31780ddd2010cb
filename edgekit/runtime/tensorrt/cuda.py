"""The port over GPU memory: what an engine needs of CUDA, and the ways to it, in order.

Real: ``cuda_ctypes`` (libcudart, or the driver's libcuda), ``cuda_python``, ``cuda_pycuda``.
Fake: ``cuda_fake``.  Each object owns what it hands out and frees it when closed. Addresses and
handles are plain numbers, as TensorRT takes them.
"""

import ctypes
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from edgekit.errors import DeviceError
from edgekit.spec.tensors import Array

_HINT = "install the NVIDIA driver and look at `edgekit doctor`"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""cudaDevAttrComputeCapabilityMajor and Minor."""


class Cuda(Protocol):
    """Memory, copies, one stream, graphs. Every call may raise DeviceError naming the CUDA error.

    Calls other than ``current`` and ``close`` belong inside ``with cuda.current():``.
    """

    @property
    def name(self) -> str:
        """Which way to CUDA this is, such as "libcudart.so.12"."""

    @property
    def stream(self) -> int:
        """Handle of the stream on which everything happens."""

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU that of the calling thread."""

    def capability(self) -> str:
        """Compute capability, such as "8.7"."""

    def driver(self) -> str:
        """Version of the driver's interface, such as "12.6"."""

    def host(self, count_bytes: int) -> Array:
        """Pinned memory, as uint8 of shape (count_bytes,)."""

    def device(self, count_bytes: int) -> int:
        """Address of memory on the GPU."""

    def to_device(self, address: int, host: Array) -> None:
        """Begin to copy pinned memory to the GPU."""

    def to_host(self, host: Array, address: int) -> None:
        """Begin to copy from the GPU to pinned memory."""

    def wait(self) -> None:
        """Until all that was begun is done; the thread sleeps meanwhile."""

    def capture(self, work: Callable[[], None]) -> int:
        """Record what ``work`` begins on the stream. Returns: a graph; nothing was executed."""

    def launch(self, graph: int) -> None:
        """Begin all that a graph recorded."""

    def close(self) -> None:
        """Free everything; twice does no harm."""


OpenCuda = Callable[[], Cuda]


def capability_of(attribute: Callable[[int], int]) -> str:
    """Compute capability by a function that asks for device attributes."""
    return f"{attribute(_CAPABILITY_MAJOR)}.{attribute(_CAPABILITY_MINOR)}"


def array_at(address: int, count_bytes: int) -> Array:
    """The computer's memory there, as uint8; it stays whoever's it is."""
    content: Any = (ctypes.c_uint8 * count_bytes).from_address(address)
    return np.frombuffer(content, np.uint8) if count_bytes else np.empty(0, np.uint8)


def driver_version(number: int) -> str:
    """CUDA's 12060 as "12.6"."""
    return f"{number // 1000}.{number % 1000 // 10}"


def ways_to_cuda() -> tuple[OpenCuda, ...]:
    """In the order of trying. libcudart first: it needs no Python package and records graphs."""
    from edgekit.runtime.tensorrt.cuda_ctypes import open_driver, open_runtime
    from edgekit.runtime.tensorrt.cuda_pycuda import PyCuda
    from edgekit.runtime.tensorrt.cuda_python import CudaPython

    return (open_runtime, CudaPython, PyCuda, open_driver)


def open_cuda(ways: Sequence[OpenCuda] | None = None) -> Cuda:
    """The first way that works. Raises: DeviceError saying for each why not."""
    reasons = []
    for way in ways_to_cuda() if ways is None else ways:
        try:
            return way()
        except DeviceError as error:
            reasons.append(error.what)
    raise DeviceError(f"no GPU can be used here ({'; '.join(reasons)})", hint=_HINT)
