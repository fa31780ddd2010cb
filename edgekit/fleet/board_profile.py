"""Have a device of the fleet measure its own board, and receive the profile.

In: the name of a device, and how it is to be measured.  Out: the profile, whole and verified.

One command is asked again until it is answered, and again whenever nothing has been heard for a
moment: an agent measures once per command id, says where it is, and sends a finished profile again.
So neither a broker that restarts nor a lost message ends a measuring.
"""

import hashlib
import logging
import secrets
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from edgekit.errors import ConfigError, DeviceError, LinkError, TrustError
from edgekit.fleet.watch import FleetWatcher
from edgekit.spec.base import parse_json, parse_toml, to_json
from edgekit.spec.messages import Command, DeviceStatus, ProfileReport, ProfileWish
from edgekit.spec.profile import DeviceProfile
from edgekit.spec.topics import BLOCK_BYTES, Topics, last_level
from edgekit.transport.mqtt_port import MqttPort

logger = logging.getLogger(__name__)

_STATUS_TIMEOUT_S = 3.0
_QUIET_S = 0.7
_ASK_AGAIN_S = 3.0
_LOOK_S = 0.5
_SILENCE_LIMIT_S = 20.0
_GONE_LIMIT_S = 5.0
_LEASE_S = 10.0
"""An agent that is not asked again for a minute takes it that nobody waits any more."""
_SEND_TIMEOUT_S = 10.0
_CANCEL_TIMEOUT_S = 2.0
_SIZE_CAP_BYTES = 64 << 20
_BLOCKS_CAP_COUNT = 1024

Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of the time that is used up (0..1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A profile and the very bytes in which it came."""

    profile: DeviceProfile
    toml: bytes


def measure_board(
    device: str,
    wish: ProfileWish,
    *,
    mqtt: MqttPort,
    topics: Topics,
    watcher: FleetWatcher,
    progress: Progress,
    timeout_s: float = 1800.0,
) -> Received:
    """The profile of the board of ``device``, measured now by its agent.

    Left early (Ctrl-C, an error), it tells the agent to stop.
    Raises: DeviceError if the device is busy, refuses, fails or dies meanwhile; LinkError if it is
    not there, or silent; TrustError if what came is not what was measured.
    """
    status = find_online(device, watcher)
    if not status.runtime:
        raise DeviceError(
            f"the agent on {device} (edgekit {status.agent_version or 'of unknown age'}) cannot "
            "measure its board",
            hint="update edgekit there, or run `edgekit profile` on that board",
        )
    asked = _Asked(device, status.run, wish, mqtt, topics)
    try:
        report = asked.wait_end(watcher, progress, timeout_s)
        return asked.received(report)
    except BaseException:
        asked.cancel()
        raise
    finally:
        asked.close()


def find_online(device: str, watcher: FleetWatcher) -> DeviceStatus:
    """The status of ``device``. Raises: LinkError if it is offline, naming those that are not."""
    watcher.wait_for(lambda: watcher.status(device) is not None, _STATUS_TIMEOUT_S)
    status = watcher.status(device)
    if status is not None and status.state != "offline":
        return status
    watcher.wait_quiet(quiet_s=_QUIET_S, limit_s=_STATUS_TIMEOUT_S)
    names = [one.device for one in watcher.statuses() if one.state != "offline"]
    online = f"online: {', '.join(names)}" if names else "no device is online"
    if status is None:
        raise LinkError(
            f"no agent is called {device!r} on this broker and fleet; {online}",
            hint="compare fleet and broker with its agent.toml, or start its agent",
        )
    why = f" ({status.problem})" if status.problem else ""
    raise LinkError(f"{device} is offline{why}; {online}", hint=f"start the agent on {device}")


class _Asked:
    """One "profile" command and what comes back."""

    def __init__(
        self, device: str, run: str, wish: ProfileWish, mqtt: MqttPort, topics: Topics
    ) -> None:
        self._device, self._run, self._mqtt, self._topics = device, run, mqtt, topics
        self._command = Command(id=secrets.token_hex(8), verb="profile", profile=wish)
        self._changed = threading.Condition()
        self._report: ProfileReport | None = None
        self._blocks: dict[int, bytes] = {}
        self._heard_s = time.monotonic()
        self._gone_s = 0.0
        """Since when the device is offline; 0 while it is not."""
        self._filters = (
            topics.profile(device, self._command.id),
            topics.profile_block(device, self._command.id, "+"),
        )
        mqtt.subscribe(self._filters[0], self._on_report)
        mqtt.subscribe(self._filters[1], self._on_block)

    def close(self) -> None:
        """Listen no more."""
        for one in self._filters:
            self._mqtt.unsubscribe(one)

    def cancel(self) -> None:
        """Tell the agent that nobody waits any more; as well as that can be done now."""
        command = Command(id=secrets.token_hex(8), verb="cancel", request=self._command.id)
        with suppress(LinkError):
            self._send(command, _CANCEL_TIMEOUT_S)

    def _send(self, command: Command, wait_s: float) -> None:
        topic = self._topics.command(self._device)
        self._mqtt.publish(topic, to_json(command, indent=0), wait_s=wait_s)

    def wait_end(
        self, watcher: FleetWatcher, progress: Progress, timeout_s: float
    ) -> ProfileReport:
        """Ask, show how far it is, and return the last report, whose blocks are all here.

        Raises: DeviceError, LinkError.
        """
        ends_s = time.monotonic() + timeout_s
        asked_s, shown = float("-inf"), None
        while True:
            with self._changed:
                report = self._report
            if report is not None and report is not shown:
                shown = report
                progress(report.text, report.share)
                self._check_report(report)
            if report is not None and self._is_complete(report):
                return report
            self._check_agent(watcher.status(self._device))
            now_s = time.monotonic()
            if now_s > ends_s:
                raise LinkError(
                    f"{self._device} has not finished after {timeout_s:.0f} s",
                    hint="ask again with a longer --timeout: it goes on where it stopped",
                )
            self._check_silence(now_s, is_known=report is not None)
            is_silent = now_s > self._heard_s + _ASK_AGAIN_S
            if now_s > asked_s + (_ASK_AGAIN_S if is_silent else _LEASE_S):
                asked_s = now_s
                self._ask()
            self._wait_news(report)

    def _check_report(self, report: ProfileReport) -> None:
        """Raises: DeviceError if there will be no profile."""
        if report.state in ("refused", "failed", "stopped"):
            is_named = report.problem.startswith(self._device)
            what = report.problem if is_named else f"{self._device}: {report.problem}"
            raise DeviceError(what, hint=report.hint)

    def _wait_news(self, seen: ProfileReport | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._report is not seen, _LOOK_S)

    def _ask(self) -> None:
        try:
            self._send(self._command, _SEND_TIMEOUT_S)
        except LinkError as error:  # a broker that is away for a moment; silence has its limit
            logger.info("%s", error)

    def _is_complete(self, report: ProfileReport) -> bool:
        with self._changed:
            return report.state == "done" and len(self._blocks) >= report.block_count > 0

    def _check_agent(self, status: DeviceStatus | None) -> None:
        """Raises: DeviceError if the agent that was asked is no more."""
        if status is not None and status.state != "offline":
            self._gone_s = 0.0
            if status.run == self._run:
                return
            why = "restarted"
        else:  # it may come back, if it was only its network that was lost
            self._gone_s = self._gone_s or time.monotonic()
            if time.monotonic() - self._gone_s < _GONE_LIMIT_S:
                return
            why = "went offline"
        raise DeviceError(
            f"the agent on {self._device} {why} while it measured",
            hint="ask again when it is back: it goes on where it stopped",
        )

    def _check_silence(self, now_s: float, *, is_known: bool) -> None:
        if now_s - self._heard_s < _SILENCE_LIMIT_S:
            return
        what = "says nothing any more" if is_known else "does not answer"
        raise LinkError(
            f"{self._device} {what}, for {_SILENCE_LIMIT_S:.0f} s",
            hint="check the broker, and the log of the agent on that device, then ask again",
        )

    def received(self, report: ProfileReport) -> Received:
        """The profile. Raises: TrustError if it is not what the report says."""
        data = _unpacked([self._blocks.get(index) for index in range(report.block_count)], report)
        profile = parse_toml(data, DeviceProfile, origin=f"the profile from {self._device}")
        if profile.name != self._device:
            raise TrustError(
                f"{self._device} sent the profile of {profile.name!r}", hint="ask again"
            )
        return Received(profile=profile, toml=data)

    def _on_report(self, topic: str, payload: bytes) -> None:
        try:
            report = parse_json(payload, ProfileReport, origin=topic)
        except ConfigError as error:
            logger.warning("ignored: %s", error)
            return
        with self._changed:
            self._report, self._heard_s = report, time.monotonic()
            self._changed.notify_all()

    def _on_block(self, topic: str, payload: bytes) -> None:
        index = last_level(topic)
        with self._changed:
            self._heard_s = time.monotonic()
            if index.isdecimal() and int(index) < _BLOCKS_CAP_COUNT and len(payload) <= BLOCK_BYTES:
                self._blocks[int(index)] = payload


def _unpacked(blocks: list[bytes | None], report: ProfileReport) -> bytes:
    """The bytes that were measured. Raises: TrustError unless they are exactly those."""
    packed = b"".join(block for block in blocks if block is not None)
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, min(report.size_bytes, _SIZE_CAP_BYTES) + 1)
    except zlib.error as error:
        raise TrustError(
            f"the profile from {report.device} cannot be unpacked: {error}", hint="ask again"
        ) from None
    if len(data) != report.size_bytes or hashlib.sha256(data).hexdigest() != report.sha256:
        raise TrustError(
            f"the profile from {report.device} does not match its digest", hint="ask again"
        )
    return data
