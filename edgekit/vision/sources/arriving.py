"""Footage whose frames arrive at random, as requests do: a Poisson process.

In:  Footage, a mean rate and a seed.  Out: a Source.  The arrivals do not wait for the reader: a
frame that is read late carries the time at which it arrived, so that its waiting counts in the age
of its answer. Equal seeds give equal gaps.
Source: Kleinrock, "Queueing Systems", vol. 1, 1975, ch. 2 (exponential gaps).
"""

import random
import threading
import time
from dataclasses import replace

from edgekit.vision.sources.port import EndOfSource, Footage, Frame, SourceInfo


class ArrivingSource:
    """Gives the frames of ``footage`` after exponential gaps of mean ``1 / fps``."""

    def __init__(self, footage: Footage, *, fps: float, seed: int = 1) -> None:
        self._footage, self._fps = footage, fps
        self._generator = random.Random(seed)
        self._closed = threading.Event()
        self._due_ns = 0

    @property
    def info(self) -> SourceInfo:
        """That of the footage."""
        return self._footage.info

    @property
    def problem(self) -> str:
        """That of the footage."""
        return self._footage.problem

    def read(self) -> Frame:
        """The next frame, when it has arrived. Raises: EndOfSource."""
        frame = self._footage.read()  # before the wait: decoding does not make it late
        if not self._due_ns:
            self._due_ns = time.perf_counter_ns()
        self._due_ns += int(1e9 * self._generator.expovariate(self._fps))
        if self._closed.wait(max(0, self._due_ns - time.perf_counter_ns()) / 1e9):
            raise EndOfSource
        late_s = (time.perf_counter_ns() - self._due_ns) / 1e9
        return replace(frame, captured_ns=self._due_ns, captured_unix_s=time.time() - late_s)

    def close(self) -> None:
        """Close the footage; a wait ends at once."""
        self._closed.set()
        self._footage.close()
