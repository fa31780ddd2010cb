"""What travels over MQTT as JSON: status, commands, announcements, telemetry and answers."""

from collections.abc import Iterable
from typing import Literal

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec, parse_json
from edgekit.spec.manifest import Manifest
from edgekit.spec.plan import Plan

DeviceState = Literal["offline", "idle", "preparing", "ready", "serving", "failed"]


class DeviceStatus(Spec, frozen=True, kw_only=True):
    """Retained; the broker publishes the last will (state "offline") when the agent vanishes."""

    device: str
    state: DeviceState
    run: str = ""
    """Random id of this agent process: a new one after every restart."""
    agent_version: str = ""
    runtime: str = ""
    """What runs shards there, with its version: "onnxruntime 1.31.1"."""
    processor: str = ""
    hop_address: str = ""
    """host:port where this device takes activations; empty while it takes none."""
    probe_address: str = ""
    """host:port where this device answers link probes; empty if it does not."""
    deployment: str = ""
    epoch: int = 0
    command: str = ""
    """Id of the last command obeyed, so that the operator never takes an old status for news."""
    profiling: str = ""
    """Id of the command that asked for the measuring now under way; empty if there is none."""
    profile_sha256: str = ""
    """Digest of the profile that was last measured there on request; empty if none was."""
    problem: str = ""
    """What is wrong and what to try, in one sentence; empty when all is well."""


class ProfileWish(Spec, frozen=True, kw_only=True):
    """How a board is to be measured."""

    quick: bool = False
    anyway: bool = False
    """Also on a board that is busy, hot, throttled, serving or standing for a slower one."""
    budget_s: float | None = None
    """How long to measure, instead of what full or quick mean."""

    def __post_init__(self) -> None:
        if self.budget_s is not None and not 1.0 <= self.budget_s <= 36_000.0:
            raise ConfigError(f"budget_s is {self.budget_s:g}", hint="measure for 1 to 36000 s")


class Command(Spec, frozen=True, kw_only=True):
    """From the operator to one device. Idempotent: the same id is obeyed once."""

    id: str
    verb: Literal["prepare", "commit", "abort", "stop", "profile", "cancel"]
    deployment: str = ""
    epoch: int = 0
    profile: ProfileWish | None = None
    """With "profile"."""
    request: str = ""
    """With "cancel": id of the "profile" command that is to end."""


class ProfileStep(Spec, frozen=True, kw_only=True):
    """How far a measuring has come: a line of what the profiler tells the agent."""

    text: str
    share: float
    """Of the time that it may take, 0..1."""


class ProfileReport(Spec, frozen=True, kw_only=True):
    """Answer to a "profile" command: at once, at every step, at the end; again if asked again."""

    device: str
    run: str
    request: str
    """Id of the command."""
    state: Literal["running", "done", "refused", "failed", "stopped"]
    text: str = ""
    share: float = 0.0
    problem: str = ""
    """Why it was refused, failed or was stopped."""
    hint: str = ""
    sha256: str = ""
    """When done: of the profile, as TOML."""
    size_bytes: int = 0
    block_count: int = 0
    """Of its compressed bytes."""


class Announcement(Spec, frozen=True, kw_only=True):
    """Retained: one deployment, what is in it and who runs what."""

    manifest: Manifest
    plan: Plan
    is_whole: bool = True
    """False: the codecs of the plan, with their bases, would make this larger than one message may
    be. They are left out here; plan.json of the bundle, published like a shard, has them."""


class Detection(Spec, frozen=True, kw_only=True):
    """One box in pixels of the source frame: x1, y1, x2, y2."""

    label: str
    score: float
    box: tuple[float, float, float, float]


class StageTime(Spec, frozen=True, kw_only=True):
    """How long one shard took on one device, by that device's clock."""

    device: str
    shard: int
    ms: float


class HopTime(Spec, frozen=True, kw_only=True, rename={"source": "from", "target": "to"}):
    """One transfer: round trip by the sender's clock minus the receiver's residence time."""

    source: str
    target: str
    bytes: int
    """Of the tensors, as they travelled."""
    ms: float
    """On the way; coding comes on top."""
    encode_ms: float = 0.0
    decode_ms: float = 0.0

    @property
    def whole_ms(self) -> float:
        """With coding at both ends."""
        return self.ms + self.encode_ms + self.decode_ms


class AnswerReport(Spec, frozen=True, kw_only=True):
    """The answer about one frame: a line of stream/<id>/detections, and of ``--detections``."""

    stream: str
    run: str
    frame: int
    """Number of the frame in its source, from 0."""
    detections: tuple[Detection, ...]
    captured_unix_s: float
    """By the source device's clock."""
    age_ms: float
    """From capture to answer, both by the source device's clock."""
    stages: tuple[StageTime, ...] = ()
    hops: tuple[HopTime, ...] = ()
    degraded: bool = False


def parse_answers(payload: bytes, *, origin: str) -> tuple[AnswerReport, ...]:
    """The answers of one message: one JSON object per line.

    Raises: ConfigError naming the origin and the field.
    """
    lines = payload.splitlines() or [b""]  # a message without any answer is refused
    return tuple(parse_json(line, AnswerReport, origin=origin) for line in lines)


class Quantiles(Spec, frozen=True, kw_only=True):
    """Latency of answered frames [ms]."""

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0

    @classmethod
    def of(cls, values_ms: Iterable[float]) -> "Quantiles":
        """Nearest-rank quantiles [ms]; zeros if there are no values."""
        ordered = sorted(values_ms)
        if not ordered:
            return cls()
        last = len(ordered) - 1
        p50, p95, p99 = (round(ordered[round(q * last)], 3) for q in (0.50, 0.95, 0.99))
        return cls(p50=p50, p95=p95, p99=p99)


class StreamTelemetry(Spec, frozen=True, kw_only=True):
    """The accounts of one stream: captured = answered + dropped + in flight, in every message."""

    stream: str
    source: str
    frames_captured: int
    frames_answered: int
    frames_dropped: dict[str, int]
    """By reason."""
    frames_in_flight: int
    fps: float
    """Answers per second over the last window."""
    latency_ms: Quantiles
    ended: bool = False
    """The source came to its end and every frame is accounted for."""
    width_px: int = 0
    height_px: int = 0


class LinkTelemetry(Spec, frozen=True, kw_only=True):
    """What the background watch knows of the link to the next device. None: not known yet."""

    target: str
    bandwidth_bytes_per_s: float | None = None
    """Payload that one TCP connection would carry there."""
    bandwidth_age_s: float | None = None
    """Since a look told the bandwidth; no look does while the hop itself fills the link."""
    rtt_p50_s: float | None = None
    rtt_p99_s: float | None = None
    loss: float | None = None
    """Share of the echoes that did not come back."""
    age_s: float | None = None
    """Since the last look that was answered."""
    problem: str = ""
    """Why the latest look failed; empty if it did not."""


class EngineTelemetry(Spec, frozen=True, kw_only=True):
    """How far the TensorRT engine of a shard is; ONNX Runtime serves until it is there."""

    state: Literal["waiting", "building", "rehearsing", "proving", "serving", "failed"]
    text: str = ""
    """What is being done, or which TensorRT serves."""
    share: float | None = None
    """Of the build, 0..1; None where TensorRT does not tell."""
    elapsed_s: float = 0.0
    """Since its building began; how long it took when that is over."""
    was_cached: bool = False
    """It was on this board's disk already."""
    problem: str = ""
    """Why there is none."""


class Telemetry(Spec, frozen=True, kw_only=True):
    """One device, once a second and at every change."""

    device: str
    run: str
    sequence: int
    state: DeviceState
    deployment: str = ""
    epoch: int = 0
    shard: int | None = None
    frames_in: int = 0
    """Frames this shard has taken in."""
    stage_ms: float = 0.0
    """Median time of the shard over the last window."""
    utilization: float = 0.0
    """Share of the last window in which the shard was running."""
    hop: HopTime | None = None
    """The hop that leaves this device, medians over the last window."""
    hop_state: str = ""
    """"connected", or what is wrong with the hop that leaves this device; empty if none leaves."""
    link: LinkTelemetry | None = None
    """The link under that hop."""
    stream: StreamTelemetry | None = None
    """Only on the device that owns the source."""
    runs_on: str = ""
    """What runs the shard: "onnxruntime cpu", "TensorRT 10.3.0"."""
    engine: EngineTelemetry | None = None
    """None if this shard needs none."""
    problems: tuple[str, ...] = ()
    download_done_bytes: int = 0
    download_total_bytes: int = 0
    rss_bytes: int = 0


class Preview(Spec, frozen=True, kw_only=True):
    """A picture for people: never used for inference."""

    stream: str
    frame: int
    width_px: int
    """Of the source frame, the coordinates of ``detections``."""
    height_px: int
    jpeg: bytes
    """Base64 in JSON."""
    detections: tuple[Detection, ...]
