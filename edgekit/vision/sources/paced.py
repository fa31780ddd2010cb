"""Footage with a clock: frames come at their rate, as from a camera.

In: Footage and a rate.  Out: a Source.  With ``skip_late`` the reader gets the newest frame that is
due and the numbers in between are left out, as a camera would do; without it no frame is left out
and a late reader moves the clock.
"""

import logging
import threading
import time
from dataclasses import replace

from edgekit.vision.sources.port import EndOfSource, Footage, Frame, SourceInfo

logger = logging.getLogger(__name__)

_STALL_S = 5.0
"""A reader later than this was stopped, not slow: the clock goes on from now."""


class PacedSource:
    """Gives the frames of ``footage`` at ``fps``; the first one at once."""

    def __init__(self, footage: Footage, *, fps: float, skip_late: bool) -> None:
        self._footage = footage
        self._fps = fps
        self._skip_late = skip_late
        self._closed = threading.Event()
        self._start_s: float | None = None
        self._position = 0
        """Frames read or skipped since the start."""

    @property
    def info(self) -> SourceInfo:
        """That of the footage."""
        return self._footage.info

    @property
    def problem(self) -> str:
        """That of the footage."""
        return self._footage.problem

    def read(self) -> Frame:
        """The next frame, when it is due. Raises: EndOfSource."""
        self._catch_up()
        frame = self._footage.read()  # before the wait: decoding does not make it late
        if self._start_s is None:
            self._start_s = time.perf_counter()
        due_s = self._start_s + self._position / self._fps
        self._position += 1
        if self._closed.wait(max(0.0, due_s - time.perf_counter())):
            raise EndOfSource
        return replace(frame, captured_ns=time.perf_counter_ns(), captured_unix_s=time.time())

    def close(self) -> None:
        """Close the footage; a wait ends at once."""
        self._closed.set()
        self._footage.close()

    def _catch_up(self) -> None:
        """Bring the next frame and the clock together again after a late read."""
        if self._start_s is None:
            return
        late_s = time.perf_counter() - (self._start_s + self._position / self._fps)
        if self._skip_late and late_s < _STALL_S:
            missed_count = int(late_s * self._fps) if late_s > 0 else 0
            if missed_count:
                self._footage.skip(missed_count)
                self._position += missed_count
        elif late_s > 0:
            if self._skip_late:
                logger.warning("the reader of %s stood still for %.1f s", self.info.uri, late_s)
            self._start_s += late_s
