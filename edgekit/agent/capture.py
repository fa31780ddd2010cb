"""Read the source on its own thread and hold the frame that waits for inference.

Live sources: the newest frame wins, an older one that still waits is dropped with a reason.
Every-frame sources: the reader waits, nothing is dropped.
In: a Source.  Out: frames for the inference thread; every frame is entered in the ledger.
"""

import logging
import threading
from collections.abc import Callable

from edgekit.agent.ledger import Ledger
from edgekit.errors import EdgeKitError
from edgekit.vision.sources import EndOfSource, Frame, Source

logger = logging.getLogger(__name__)


class Capture:
    """A queue of one between the source and the shard."""

    def __init__(self, source: Source, ledger: Ledger) -> None:
        self.why_waiting: Callable[[], str] = lambda: "superseded"
        """Asked, when the newest frame replaces a waiting one, for the reason of that drop."""
        self.on_frame: Callable[[Frame], None] = lambda frame: None
        """Called with every frame that is read; must not wait."""
        self._source = source
        self._ledger = ledger
        self._changed = threading.Condition()
        self._waiting: Frame | None = None
        self._stopping = False
        self._problem = ""
        self._thread = threading.Thread(target=self._read, name="capture", daemon=True)

    @property
    def is_live(self) -> bool:
        """Whether the newest frame wins."""
        return self._source.info.live

    @property
    def uri(self) -> str:
        """What is read."""
        return self._source.info.uri

    @property
    def fps(self) -> float:
        """Frame rate of the source, 0 if it does not say."""
        return self._source.info.fps

    @property
    def problem(self) -> str:
        """What is wrong with the source, or an empty string."""
        return self._problem or self._source.problem

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def take(self, timeout_s: float) -> Frame | None:
        """The waiting frame, or None if none came within ``timeout_s``."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping, timeout_s)
            frame, self._waiting = self._waiting, None
            self._changed.notify_all()
            return frame

    def stop(self) -> None:
        """Stop reading; returns when the source is closed."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._source.close()  # ends a read that waits
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _read(self) -> None:
        try:
            while not self._stopping:
                frame = self._source.read()
                self.on_frame(frame)
                self._offer(frame)
        except EndOfSource:
            logger.info("the source %s came to its end", self._source.info.uri)
        except EdgeKitError as error:
            self._problem = str(error)
            logger.error("capture stopped: %s", error)
        finally:
            self._ledger.end_source()

    def _offer(self, frame: Frame) -> None:
        with self._changed:
            if not self.is_live:
                self._changed.wait_for(lambda: self._waiting is None or self._stopping)
            if self._stopping:
                return
            self._ledger.capture(frame.number)
            if self._waiting is not None:
                self._ledger.drop(self._waiting.number, self.why_waiting())
            self._waiting = frame
            self._changed.notify_all()
