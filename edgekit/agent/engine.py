"""Get a TensorRT engine for a shard while ONNX Runtime serves it; put it on top when it is right.

::

    waiting -> building -> rehearsing -> proving -> serving
                   |            |           |          |
                   +------------+-----------+----------+--> failed   (ONNX Runtime serves on)

In: an EngineJob, the ladder that serves, the proof.  Out: a better session on that ladder, or the
reason in words why there is none. Nothing here ever stops a deployment.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from edgekit.errors import EdgeKitError, TrustError
from edgekit.runtime.ladder import LadderSession, Prove
from edgekit.runtime.session import Session
from edgekit.runtime.tensorrt import (
    EngineCache,
    EngineFile,
    EngineJob,
    EngineReport,
    TensorRtSession,
    obtain_engine,
)
from edgekit.spec.messages import EngineTelemetry

logger = logging.getLogger(__name__)

_CLOSE_LIMIT_S = 4.0


class ClosableSession(Session, Protocol):
    """A session that holds memory of the GPU. Real: ``TensorRtSession``."""

    def close(self) -> None:
        """Give it back."""


class Obtain(Protocol):
    """Find or build an engine. Real: ``obtain_engine``, in a process of its own."""

    def __call__(
        self,
        job: EngineJob,
        *,
        on_report: Callable[[EngineReport], None],
        stopping: threading.Event,
    ) -> EngineFile:
        """Blocks. Raises: DeviceError."""


OpenEngine = Callable[[EngineFile], ClosableSession]


class EngineSupervisor:
    """At most one engine for one shard; works on a thread of its own."""

    def __init__(
        self,
        job: EngineJob,
        *,
        ladder: LadderSession,
        prove: Prove,
        on_change: Callable[[], None] = lambda: None,
        obtain: Obtain | None = None,
        open_engine: OpenEngine | None = None,
    ) -> None:
        self._job, self._ladder, self._prove = job, ladder, prove
        self._on_change = on_change
        self._obtain: Obtain = obtain or obtain_engine
        self._open_engine: OpenEngine = open_engine or TensorRtSession.open
        self._stopping = threading.Event()
        self._said = EngineTelemetry(state="waiting")
        self._began_s: float | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._began_s = time.monotonic()
        self._thread.start()

    def telemetry(self) -> EngineTelemetry:
        """How far it is."""
        said, began_s = self._said, self._began_s
        if began_s is None or said.state in ("serving", "failed"):
            return said
        return msgspec.structs.replace(said, elapsed_s=round(time.monotonic() - began_s, 1))

    def close(self) -> None:
        """Stop building, or take the engine down; from any thread, twice does no harm."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_LIMIT_S)
        self._ladder.close()

    def wait(self, timeout_s: float) -> bool:
        """Whether it came to its end, good or bad, within that time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # ---- on its thread ----------------------------------------------------------------------

    def _work(self) -> None:
        try:
            file = self._obtain(self._job, on_report=self._report, stopping=self._stopping)
            self._take(file)
        except EdgeKitError as error:
            self._fail(error.what)
        except Exception as error:  # noqa: BLE001 - a board's libraries may raise anything
            self._fail(f"{type(error).__name__}: {error}")

    def _take(self, file: EngineFile) -> None:
        """Load it, prove it, put it on top."""
        cache = EngineCache(Path(self._job.folder))
        label = file.facts.library
        self._say(EngineTelemetry(state="proving", text=label, was_cached=file.was_cached))
        session = self._open_engine(file)
        try:
            self._prove(session)
            self._ladder.put_on_top(label, session, close=lambda: self._taken_down(session))
            if self._stopping.is_set():  # meanwhile: nobody else would take it down
                self._ladder.close()
                return
        except TrustError as error:
            cache.refuse(file.key, error.what)  # building it once more would give the same
            session.close()
            raise
        except BaseException:
            session.close()
            raise
        cache.remove_older(file)
        elapsed_s = round(time.monotonic() - (self._began_s or 0.0), 1)
        logger.info("%s runs this shard from now on, %.1f s after its start", label, elapsed_s)
        said = EngineTelemetry(state="serving", text=label, share=1.0, elapsed_s=elapsed_s)
        self._say(msgspec.structs.replace(said, was_cached=file.was_cached))

    def _taken_down(self, session: ClosableSession) -> None:
        """It failed while serving, or the shard is stopped."""
        session.close()
        if not self._stopping.is_set():
            self._fail(self._ladder.reasons[-1] if self._ladder.reasons else "it was taken down")

    def _report(self, report: EngineReport) -> None:
        """From the child."""
        if report.step in ("building", "rehearsing"):
            said = EngineTelemetry(state=report.step, text=report.text, share=report.share)
            self._say(said, is_news=report.step != self._said.state)
        elif report.step == "found":
            self._say(msgspec.structs.replace(self._said, text=report.text))

    def _fail(self, problem: str) -> None:
        if self._stopping.is_set():
            return
        logger.warning("no TensorRT engine for this shard: %s", problem)
        elapsed_s = self.telemetry().elapsed_s
        self._say(EngineTelemetry(state="failed", elapsed_s=elapsed_s, problem=problem))

    def _say(self, said: EngineTelemetry, *, is_news: bool = True) -> None:
        self._said = said
        if is_news:
            self._on_change()
