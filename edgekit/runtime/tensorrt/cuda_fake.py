"""A GPU made of the computer's own memory, for tests and teaching.

"Device" addresses are those of numpy arrays, so a fake engine may read and write them. Whatever is
begun is done at once, except while capturing: then it is recorded and done at every launch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from edgekit.errors import DeviceError
from edgekit.spec.tensors import Array


class FakeCuda:
    """A Cuda without a GPU. ``capture_problem`` makes captures fail as some drivers do."""

    name = "fake"
    stream = 1

    def __init__(self, *, capability: str = "8.7", driver: str = "12.6") -> None:
        self._capability, self._driver = capability, driver
        self._memory: dict[int, Array] = {}
        self._recording: list[Callable[[], None]] | None = None
        self._graphs: list[list[Callable[[], None]]] = []
        self.capture_problem = ""
        self.problem = ""
        self.launched_count = 0
        self.is_closed = False

    @contextmanager
    def current(self) -> Iterator[None]:
        """Nothing to do."""
        yield

    def capability(self) -> str:
        """As given."""
        return self._capability

    def driver(self) -> str:
        """As given."""
        return self._driver

    def host(self, count_bytes: int) -> Array:
        """Plain memory."""
        return np.zeros(count_bytes, np.uint8)

    def device(self, count_bytes: int) -> int:
        """Plain memory as well."""
        memory = np.zeros(max(1, count_bytes), np.uint8)
        self._memory[memory.ctypes.data] = memory
        return int(memory.ctypes.data)

    def do(self, work: Callable[[], None]) -> None:
        """Something begins on the stream: now, or at every launch if this is being recorded."""
        if self._recording is not None:
            self._recording.append(work)
        else:
            work()

    def to_device(self, address: int, host: Array) -> None:
        """Copy."""
        self.do(lambda: np.copyto(self._memory[address][: host.nbytes], host))

    def to_host(self, host: Array, address: int) -> None:
        """Copy back."""
        self.do(lambda: np.copyto(host, self._memory[address][: host.nbytes]))

    def wait(self) -> None:
        """All is done already. Raises: DeviceError if ``problem`` is set."""
        if self.problem:
            raise DeviceError(self.problem, hint="look at dmesg")

    def capture(self, work: Callable[[], None]) -> int:
        """Record."""
        if self.capture_problem:
            raise DeviceError(self.capture_problem, hint="run without a graph")
        self._recording = []
        try:
            work()
            self._graphs.append(self._recording)
        finally:
            self._recording = None
        return len(self._graphs) - 1

    def launch(self, graph: int) -> None:
        """Do what was recorded."""
        self.launched_count += 1
        for work in self._graphs[graph]:
            work()

    def close(self) -> None:
        """Forget all."""
        self._memory.clear()
        self.is_closed = True
