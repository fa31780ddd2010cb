"""A camera that may be unplugged: opened again and again until it is back or ``close``.

In: a way to open it.  Out: a Source whose ``read`` waits through every outage; frame numbers go on.
"""

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from edgekit.errors import DeviceError
from edgekit.vision.sources.port import EndOfSource, Frame, Source, SourceInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """Waits between attempts: doubling, capped, jittered so that a fleet does not knock at once."""

    first_s: float = 0.25
    cap_s: float = 5.0

    def wait_s(self, attempt: int) -> float:
        """Seconds before attempt 1, 2, ...: between half of the full wait and all of it."""
        full_s = min(self.cap_s, self.first_s * 2.0 ** min(attempt - 1, 30))
        return full_s * random.uniform(0.5, 1.0)


class ReconnectingSource:
    """Opens at once, raising what that raises; afterwards only ``close`` ends it."""

    def __init__(
        self,
        open_source: Callable[[], Source],
        *,
        first_number: int = 0,
        back_off: BackOff | None = None,
    ) -> None:
        self._open = open_source
        self._back_off = back_off or BackOff()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._source: Source | None = open_source()
        self._info = self._source.info
        self._number = first_number
        self._problem = ""

    @property
    def info(self) -> SourceInfo:
        """That of the first connection."""
        return self._info

    @property
    def problem(self) -> str:
        """Why there is no picture, or an empty string."""
        return self._problem

    def read(self) -> Frame:
        """The next frame, however long that takes. Raises: EndOfSource after ``close``."""
        attempt = 0
        while not self._closed.is_set():
            try:
                frame = self._connected().read()
            except DeviceError as error:
                attempt += 1
                self._lose(error, first=attempt == 1)
                self._closed.wait(self._back_off.wait_s(attempt))
                continue
            if self._problem:
                logger.info("%s is back", self._info.uri)
                self._problem = ""
            self._number += 1
            return replace(frame, number=self._number - 1)
        raise EndOfSource

    def close(self) -> None:
        """End for good."""
        self._closed.set()
        with self._lock:
            source, self._source = self._source, None
        if source is not None:
            source.close()

    def _connected(self) -> Source:
        if self._source is not None:
            return self._source
        source = self._open()
        with self._lock:
            if not self._closed.is_set():
                self._source = source
                return source
        source.close()
        raise EndOfSource

    def _lose(self, error: DeviceError, *, first: bool) -> None:
        """Let go of the lost device; say so once, not at every attempt."""
        with self._lock:
            source, self._source = self._source, None
        if source is not None:
            source.close()
        self._problem = f"no picture: {error} EdgeKit keeps trying."
        if first:
            logger.warning("%s", self._problem)
