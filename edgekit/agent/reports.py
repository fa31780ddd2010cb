"""Telemetry: one message a second, and one at every change.

In: the agent's state and its pipeline.  Out: Telemetry messages, numbered per run.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgekit.agent.pipeline import Pipeline
from edgekit.agent.prepare import Prepared
from edgekit.errors import LinkError
from edgekit.spec.agent_config import AgentConfig
from edgekit.spec.base import to_json
from edgekit.spec.messages import DeviceState, LinkTelemetry, Telemetry

logger = logging.getLogger(__name__)

_PERIOD_S = 1.0
_CHECK_S = 0.2
"""How often the end of a stream is looked for, so that it is reported at once."""

Look = Callable[[], tuple[DeviceState, str, Pipeline | None]]
Coming = Callable[[], Prepared | None]


class Reporter:
    """Sends telemetry on its own thread, also while the agent is busy loading a shard."""

    def __init__(self, config: AgentConfig, run: str, publish: Callable[[bytes], None]) -> None:
        self._config, self._run, self._publish = config, run, publish
        self._sequence = 0
        self._download_done_bytes = 0
        self._download_total_bytes = 0
        self._changed = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._report_all, name="telemetry", daemon=True)
        self._look: Look = lambda: ("idle", "", None)
        self._link: Callable[[], LinkTelemetry | None] = lambda: None
        self._coming: Coming = lambda: None

    def start(
        self,
        look: Look,
        *,
        link: Callable[[], LinkTelemetry | None] = lambda: None,
        coming: Coming = lambda: None,
    ) -> None:
        """Begin to report what ``look`` sees, what ``link`` knows of the way to the next device,
        and how far the engine is of what is ``coming``: prepared and not yet committed."""
        self._look, self._link, self._coming = look, link, coming
        self._thread.start()

    def poke(self) -> None:
        """Something changed: report now."""
        self._changed.set()

    def begin_download(self, total_bytes: int) -> None:
        """A pull of ``total_bytes`` begins."""
        self._download_done_bytes, self._download_total_bytes = 0, total_bytes

    def downloaded(self, count_bytes: int) -> None:
        """More bytes of it are here."""
        self._download_done_bytes += count_bytes

    def close(self) -> None:
        """Send a last report and stop."""
        self._stopping = True
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def _report_all(self) -> None:
        due_s, had_ended = 0.0, False
        while True:
            stopping = self._stopping
            ended = self._has_ended()
            if self._changed.is_set() or ended != had_ended or time.perf_counter() >= due_s:
                self._changed.clear()
                had_ended, due_s = ended, time.perf_counter() + _PERIOD_S
                try:
                    self._publish(to_json(self.telemetry(), indent=0))
                except LinkError as error:
                    logger.debug("telemetry not sent: %s", error)
            if stopping:
                return
            self._changed.wait(_CHECK_S)

    def _has_ended(self) -> bool:
        _, _, pipeline = self._look()
        stream = pipeline.stream() if pipeline is not None else None
        return stream is not None and stream.ended

    def telemetry(self) -> Telemetry:
        """What there is to say now."""
        state, problem, pipeline = self._look()
        self._sequence += 1
        problems = (problem,) if problem else ()
        base = Telemetry(
            device=self._config.device,
            run=self._run,
            sequence=self._sequence,
            state=state,
            problems=problems,
            download_done_bytes=self._download_done_bytes,
            download_total_bytes=self._download_total_bytes,
            rss_bytes=_rss_bytes(),
            link=self._link(),
        )
        if pipeline is not None:
            base = _with_pipeline(base, pipeline)
        coming = self._coming()
        if coming is not None and coming.session is not None:
            base = msgspec.structs.replace(base, engine=coming.session.telemetry())
        return base


def _with_pipeline(base: Telemetry, pipeline: Pipeline) -> Telemetry:
    load, session = pipeline.load(), pipeline.prepared.session
    return msgspec.structs.replace(
        base,
        run=pipeline.run,
        deployment=pipeline.prepared.deployment,
        epoch=pipeline.epoch,
        shard=pipeline.prepared.index,
        frames_in=load.frames_in,
        stage_ms=load.stage_ms,
        utilization=load.utilization,
        hop=pipeline.last_hop,
        hop_state=pipeline.hop_state,
        stream=pipeline.stream(),
        runs_on=session.runs_on if session is not None else "",
        engine=session.telemetry() if session is not None else None,
        problems=base.problems + pipeline.problems() + (session.problems() if session else ()),
    )


def _rss_bytes() -> int:
    """Memory of this process now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
