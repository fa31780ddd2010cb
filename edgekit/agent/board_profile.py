"""Measure this agent's board when asked to, and send the profile to whoever asked.

In: "profile" and "cancel" commands.  Out: ProfileReports; at the end the profile, as TOML,
compressed, in blocks.  The measuring is ``edgekit profile run`` in a process of its own, whose
journal is in the agent's store: what was interrupted goes on where it stopped.

Asking twice with one id starts nothing twice: the second time says what the first would say now,
and sends a finished profile again. So whoever missed a message asks again; and whoever is not heard
asking any more has gone, so that no board is busy for nobody.
"""

import hashlib
import logging
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from edgekit.agent.child import Child, Ended
from edgekit.bundle.blocks import split_blocks
from edgekit.errors import ConfigError, DeviceError, LinkError
from edgekit.spec.agent_config import AgentConfig
from edgekit.spec.base import parse_json, to_json
from edgekit.spec.messages import Command, DeviceState, ProfileReport, ProfileStep, ProfileWish
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt_port import MqttPort

logger = logging.getLogger(__name__)

_PERIOD_S = 0.5
"""Between two reports of progress, at the least."""
_LIMIT_S = 3600.0
_LEASE_S = 60.0
"""How long it measures on without being asked again."""
_CLOSE_LIMIT_S = 4.0
_ACK_TIMEOUT_S = 30.0


class Runnable(Protocol):
    """A process that is run once. Real: ``Child``."""

    def run(self, *, limit_s: float) -> Ended:
        """Run it to its end. Raises: DeviceError."""

    def stop(self) -> None:
        """Ask it to end."""


MakeChild = Callable[[list[str], Callable[[bytes], None]], Runnable]


@dataclass(slots=True)
class _Job:
    """One measuring, from the command to its end."""

    wish: ProfileWish
    report: ProfileReport
    child: Runnable | None = None
    asked_s: float = field(default_factory=time.monotonic)
    """When it was asked for last."""
    stopped: str = ""
    """Why it is to end; empty if it is not."""
    sending: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_running(self) -> bool:
        return self.report.state == "running"


class BoardProfiler:
    """At most one measuring at a time. ``obey`` is for the MQTT thread and never waits.

    ``objection`` says why the board had better not be measured now, or nothing; ``on_change`` is
    called when a measuring begins or has ended.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        run: str,
        folder: Path,
        mqtt: MqttPort,
        objection: Callable[[], str],
        on_change: Callable[[], None],
        make_child: MakeChild = Child,
    ) -> None:
        self._config, self._run, self._mqtt = config, run, mqtt
        self._path = folder / f"{config.device}.toml"
        self._objection, self._on_change = objection, on_change
        self._make_child = make_child
        self._topics = Topics(fleet=config.fleet)
        self._lock = threading.Lock()
        self._job: _Job | None = None
        """The newest."""
        self._told_s = 0.0
        self._thread: threading.Thread | None = None
        self.sha256 = _digest_of(self._path)
        """Of the profile that was last measured here; empty if none was."""

    @property
    def request(self) -> str:
        """Id of the command that is being obeyed; empty if none is."""
        job = self._job
        return job.report.request if job is not None and job.is_running else ""

    def obey(self, command: Command) -> None:
        """A "profile" or a "cancel" command."""
        if command.verb == "cancel":
            if command.request and command.request == self.request:
                self.stop("whoever asked for it wants it no more")
            return
        if not command.id.isalnum():
            logger.warning("a profile command with the id %r is ignored", command.id)
            return
        with self._lock:
            report, job = self._answer(command)
            if job is not None:
                self._job = job
                self._thread = threading.Thread(
                    target=self._work, args=(job,), name="profile", daemon=True
                )
                self._thread.start()
        if report.state == "done" and self._job is not None:
            # Elsewhere: this thread must not wait for acknowledgements.
            threading.Thread(target=self._send, args=(self._job,), daemon=True).start()
        else:
            self._publish(report)

    def _answer(self, command: Command) -> tuple[ProfileReport, _Job | None]:
        """What to say, and the job that begins now, if one does. Caller holds the lock."""
        known, wish = self._job, command.profile or ProfileWish()
        if known is not None and known.report.request == command.id:
            known.asked_s = time.monotonic()
            return known.report, None
        new = ProfileReport(
            device=self._config.device, run=self._run, request=command.id, state="refused"
        )
        problem, hint = "", "ask again later"
        if known is not None and known.is_running:
            share = known.report.share
            problem = f"{self._config.device} is being measured already ({share:.0%} done)"
        elif not wish.anyway and (problem := self._objection()):
            hint = "say --anyway if that does not matter"
        if problem:
            return msgspec.structs.replace(new, problem=problem, hint=hint), None
        report = msgspec.structs.replace(new, state="running", text="begin")
        return report, _Job(wish, report)

    def give_way(self, reason: str) -> None:
        """Something more important begins: stop, unless it was asked for anyway."""
        job = self._job
        if job is not None and not job.wish.anyway:
            self.stop(reason)

    def stop(self, reason: str) -> None:
        """End the measuring under way, if there is one; what was measured is kept."""
        with self._lock:
            job = self._job
            if job is None or not job.is_running:
                return
            job.stopped = job.stopped or reason
            child = job.child
        if child is not None:
            child.stop()

    def close(self) -> None:
        """Stop for good; returns within some seconds."""
        self.stop("the agent was told to end")
        thread = self._thread
        if thread is not None:
            thread.join(_CLOSE_LIMIT_S)

    # ---- on its thread ----------------------------------------------------------------------

    def _work(self, job: _Job) -> None:
        self._on_change()
        logger.info("measuring this board, as %s asks", job.report.request)
        try:
            outcome = self._measured(job)
        except (DeviceError, ConfigError) as error:
            outcome = {"state": "failed", "problem": error.what, "hint": error.hint}
        except OSError as error:  # such as no room for a temporary file
            hint = "look at the disk of that board, then ask again"
            outcome = {"state": "failed", "problem": str(error.strerror or error), "hint": hint}
        if outcome["state"] != "done":
            logger.warning("the board was not measured: %s", outcome["problem"])
        job.report = msgspec.structs.replace(job.report, **outcome)
        self._on_change()
        self._send(job)

    def _measured(self, job: _Job) -> dict[str, Any]:
        """Run the child. Returns: the fields of the last report."""
        child = self._make_child(self._arguments(job.wish), lambda line: self._step(job, line))
        with self._lock:
            job.child = child
            if job.stopped:
                child.stop()
        ended = child.run(limit_s=_LIMIT_S)
        if job.stopped and not ended.is_ok:
            hint = "ask again: it goes on where it stopped"
            return {"state": "stopped", "problem": job.stopped, "hint": hint}
        if not ended.is_ok:
            return {"state": "failed", "problem": ended.problem, "hint": ended.hint}
        self.sha256 = _digest_of(self._path)
        return {"state": "done", "text": "done"}

    def _arguments(self, wish: ProfileWish) -> list[str]:
        arguments = ["profile", "run", "--for-agent", "--device", self._config.device]
        arguments += ["--out", str(self._path), "--threads", str(self._config.runtime.threads)]
        if wish.quick:
            arguments.append("--quick")
        if wish.anyway:
            arguments.append("--anyway")
        if wish.budget_s is not None:
            arguments += ["--budget", f"{wish.budget_s:g}"]
        return arguments

    def _step(self, job: _Job, line: bytes) -> None:
        try:
            step = parse_json(line, ProfileStep, origin="the profiler")
        except ConfigError:
            logger.debug("the profiler says %r", line)
            return
        job.report = msgspec.structs.replace(job.report, text=step.text, share=step.share)
        now_s = time.monotonic()
        if now_s - job.asked_s > _LEASE_S:
            self.stop(f"nobody has asked for it for {_LEASE_S:.0f} s")
        if now_s - self._told_s >= _PERIOD_S:
            self._told_s = now_s
            self._publish(job.report)

    # ---- saying so --------------------------------------------------------------------------

    def _send(self, job: _Job) -> None:
        """The last report, after the profile itself if there is one."""
        with job.sending:  # two askings, one after the other
            report = job.report
            try:
                if report.state == "done":
                    report = self._publish_blocks(report)
            except (LinkError, DeviceError) as error:
                if isinstance(error, LinkError):  # whoever waits for it asks again
                    logger.warning("the profile was not sent: %s", error)
                    return
                report = msgspec.structs.replace(
                    report, state="failed", problem=error.what, hint=error.hint
                )
            self._publish(report)

    def _publish_blocks(self, report: ProfileReport) -> ProfileReport:
        """Send the profile. Returns: the report that describes it."""
        try:
            data = self._path.read_bytes()
        except OSError as error:
            raise DeviceError(
                f"cannot read the measured profile {self._path}: {error.strerror}",
                hint="look at the disk of this board, then ask again",
            ) from None
        blocks = list(split_blocks(zlib.compress(data)))
        for index, block in enumerate(blocks):
            topic = self._topics.profile_block(report.device, report.request, index)
            self._mqtt.publish(topic, block, wait_s=_ACK_TIMEOUT_S)
        return msgspec.structs.replace(
            report,
            share=1.0,
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            block_count=len(blocks),
        )

    def _publish(self, report: ProfileReport) -> None:
        topic = self._topics.profile(report.device, report.request)
        try:
            self._mqtt.publish(topic, to_json(report, indent=0))
        except LinkError as error:
            logger.debug("a report on the profile was not sent: %s", error)


def objection_to_measuring(config: AgentConfig, *, state: DeviceState, serving: str) -> str:
    """Why measuring this board now would spoil something, or be spoilt; or nothing."""
    if serving:
        return (
            f"{config.device} serves {serving}: the stream and the measuring would slow each "
            "other down"
        )
    if state in ("preparing", "ready"):
        return f"{config.device} is about to serve a deployment"
    if config.runtime.dilation != 1.0:
        return (
            f"{config.device} only stands for a slower board (runtime.dilation = "
            f"{config.runtime.dilation:g}): the profile would be that of the machine it runs on"
        )
    return ""


def _digest_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
