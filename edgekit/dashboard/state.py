"""What a fleet says, folded into one state: the last word of every device, stream and deployment.

In: MQTT topics and payloads, each with the moment it was heard (the viewer's monotonic clock).
Out: a FleetView, from which ``snapshot`` derives what the page shows.
Pure: no clock, network or thread; the caller serialises. Whatever cannot be read is counted and
remembered, never raised: one bad message must not end the view of all others. Bounded: a flood of
invented names is refused, and counted, too.
"""

from collections import deque
from dataclasses import dataclass, field

from msgspec import structs

from edgekit.dashboard.accounts import StreamAccounts, adds_up
from edgekit.dashboard.window import AnswerWindow
from edgekit.errors import EdgeKitError, LinkError
from edgekit.spec.base import parse_json
from edgekit.spec.messages import (
    Announcement,
    DeviceStatus,
    Preview,
    StreamTelemetry,
    Telemetry,
    parse_answers,
)
from edgekit.spec.topics import Topics

_DEVICES_MAX = 256
_STREAMS_MAX = 64
_DEPLOYMENTS_MAX = 256
_JPEG_MAX_BYTES = 8 * 1024 * 1024
_SIDE_MAX_PX = 1 << 16
_PAST_RUNS_KEPT = 16
_SAID_MAX = 300


@dataclass(slots=True)
class DeviceView:
    """The last words of one device, and when they were heard."""

    name: str
    status: DeviceStatus | None = None
    status_heard_s: float = 0.0
    state_since_s: float | None = None
    """When it changed to its present state; None if it was in that state when we came."""
    telemetry: Telemetry | None = None
    telemetry_heard_s: float | None = None
    past_runs: deque[str] = field(default_factory=lambda: deque(maxlen=_PAST_RUNS_KEPT))

    @property
    def is_offline(self) -> bool:
        """Whether it said good-bye, or the broker published its last will."""
        return self.status is not None and self.status.state == "offline"


@dataclass(slots=True)
class StreamView:
    """What is known of one stream."""

    name: str
    accounts: StreamAccounts = field(default_factory=StreamAccounts)
    answers: AnswerWindow = field(default_factory=AnswerWindow)
    telemetry: StreamTelemetry | None = None
    source_device: str = ""
    preview: Preview | None = None
    preview_payload: bytes = b""
    """The Preview as it came, to be passed on to browsers as it is."""
    preview_serial: int = 0
    """Counts pictures; frame numbers begin again when the source does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One announcement, and when it was heard."""

    announcement: Announcement
    heard_s: float


class FleetView:
    """The fold. ``apply`` takes messages in, the attributes are the state."""

    def __init__(self, fleet: str) -> None:
        self.topics = Topics(fleet=fleet)
        self.devices: dict[str, DeviceView] = {}
        self.streams: dict[str, StreamView] = {}
        self.deployments: dict[str, Deployment] = {}
        self.malformed_count = 0
        self.malformed_last = ""
        """Topic and reason of the last message that could not be read."""

    @property
    def fleet(self) -> str:
        """Name of the fleet."""
        return self.topics.fleet

    def apply(self, topic: str, payload: bytes, now_s: float) -> None:
        """Take in one message. Topics of other fleets, and those nobody here reads, are ignored."""
        levels = topic.split("/")
        if levels[:2] != ["edgekit", self.fleet]:
            return
        try:
            match levels[2:]:
                case ["device", name, "status"]:
                    self._status(name, payload, now_s, topic)
                case ["device", name, "telemetry"]:
                    self._telemetry(name, payload, now_s, topic)
                case ["deployment", name]:
                    self._deployment(name, payload, now_s, topic)
                case ["stream", name, "detections"]:
                    self._answer(name, payload, now_s, topic)
                case ["stream", name, "preview"]:
                    self._preview(name, payload, topic)
        except EdgeKitError as error:
            self.malformed_count += 1
            what = error.what if topic in error.what else f"{topic}: {error.what}"
            self.malformed_last = what[:_SAID_MAX]

    def _status(self, name: str, payload: bytes, now_s: float, topic: str) -> None:
        if not payload:  # the retained status was cleared: the device left the fleet
            self.devices.pop(name, None)
            return
        status = parse_json(payload, DeviceStatus, origin=topic)
        _same(status.device, name)
        device = self._device(name)
        if device.status is not None and device.status.state != status.state:
            device.state_since_s = now_s
        device.status, device.status_heard_s = status, now_s

    def _telemetry(self, name: str, payload: bytes, now_s: float, topic: str) -> None:
        telemetry = parse_json(payload, Telemetry, origin=topic)
        _same(telemetry.device, name)
        if telemetry.stream is not None and not adds_up(telemetry.stream):
            raise LinkError(
                f"the accounts of stream {telemetry.stream.stream!r} do not add up",
                hint="run the same edgekit everywhere",
            )
        stream = self._stream(telemetry.stream.stream) if telemetry.stream is not None else None
        device = self._device(name)
        before = device.telemetry
        if telemetry.run in device.past_runs:
            return
        if before is not None and before.run == telemetry.run:
            if telemetry.sequence <= before.sequence:
                return
        elif before is not None:
            device.past_runs.append(before.run)
        device.telemetry, device.telemetry_heard_s = telemetry, now_s
        if stream is not None:
            stream.telemetry, stream.source_device = telemetry.stream, name
        for other in self.streams.values():
            is_this = other is stream
            other.accounts.hear(telemetry if is_this else structs.replace(telemetry, stream=None))

    def _deployment(self, name: str, payload: bytes, now_s: float, topic: str) -> None:
        if not payload:  # withdrawn
            self.deployments.pop(name, None)
            return
        announcement = parse_json(payload, Announcement, origin=topic)
        _same(announcement.manifest.deployment_id, name)
        _room(self.deployments, name, _DEPLOYMENTS_MAX, "deployments")
        self.deployments[name] = Deployment(announcement=announcement, heard_s=now_s)

    def _answer(self, name: str, payload: bytes, now_s: float, topic: str) -> None:
        for report in parse_answers(payload, origin=topic):
            _same(report.stream, name)
            self._stream(name).answers.hear(report, now_s)

    def _preview(self, name: str, payload: bytes, topic: str) -> None:
        preview = parse_json(payload, Preview, origin=topic)
        _same(preview.stream, name)
        size_px = (preview.width_px, preview.height_px)
        is_jpeg = preview.jpeg.startswith(b"\xff\xd8\xff") and len(preview.jpeg) <= _JPEG_MAX_BYTES
        if not is_jpeg or not 1 <= min(size_px) <= max(size_px) <= _SIDE_MAX_PX:
            raise LinkError(
                f"a preview of {size_px[0]}x{size_px[1]} px is not a JPEG picture",
                hint="run the same edgekit everywhere",
            )
        stream = self._stream(name)
        stream.preview, stream.preview_payload = preview, payload
        stream.preview_serial += 1

    def _device(self, name: str) -> DeviceView:
        _room(self.devices, name, _DEVICES_MAX, "devices")
        return self.devices.setdefault(name, DeviceView(name))

    def _stream(self, name: str) -> StreamView:
        _room(self.streams, name, _STREAMS_MAX, "streams")
        return self.streams.setdefault(name, StreamView(name))


def _same(said: str, level: str) -> None:
    """Raises: LinkError if a message speaks of somebody else than its topic."""
    if said != level:
        raise LinkError(
            f"it speaks of {said[:80]!r}", hint="publish each message under its own topic"
        )


def _room(known: object, name: str, most: int, what: str) -> None:
    """Raises: LinkError if a new ``name`` would be one too many."""
    if isinstance(known, dict) and name not in known and len(known) >= most:
        raise LinkError(
            f"more than {most} {what}", hint=f"clear retained messages of {what} that are gone"
        )
