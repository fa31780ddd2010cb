"""The hop port: activations forward, answers back, between two neighbours of a pipeline.

Real: ``hop.py`` (TCP, TLS 1.3 when certificates are given). Fake: ``memory.py``.

One connection joins a pair. The upstream end (the link) sends activations; the downstream end (the
listener) grants credit, one per frame it may be sent, and sends exactly one Answer back for every
Activation it took in. Clocks of two devices are never subtracted: ``capture_ns`` is opaque to
everyone but the source, and an Answer says how long its frame stayed downstream (``residence_s``),
so the upstream end knows hop time = its own round trip - residence.

Both ends make the codec of the cut from their Identity: tensors are coded in ``send`` and decoded
before the consumer gets them. A frame that cannot be decoded is answered as dropped, like any
other that the downstream end gives up.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from edgekit.spec.codec import RAW, CodecSpec
from edgekit.spec.messages import Detection, HopTime, StageTime
from edgekit.spec.tensors import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who speaks, about which pipeline. Both ends of a hop must agree on all but ``device``."""

    device: str
    fleet: str
    deployment: str
    epoch: int
    cut: int
    """Index of the cut that this hop carries: hop k joins shard k to shard k + 1."""
    codec: CodecSpec = RAW
    """How the tensors of that cut are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A cut's tensors for one frame, with what the last stage needs to answer about it."""

    stream: str
    run: str
    frame: int
    capture_ns: int
    source_height_px: int
    source_width_px: int
    tensors: dict[str, Array]
    stages: tuple[StageTime, ...] = ()
    """Times of the shards already run, in order."""

    @property
    def nbytes(self) -> int:
        """Raw bytes of the tensors."""
        return sum(array.nbytes for array in self.tensors.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one frame: detections, or the reason why it was dropped."""

    stream: str
    run: str
    frame: int
    capture_ns: int
    detections: tuple[Detection, ...] = ()
    dropped: str = ""
    """Reason, if the frame was dropped downstream; empty for an answered frame."""
    stages: tuple[StageTime, ...] = ()
    hops: tuple[HopTime, ...] = ()
    residence_s: float = 0.0
    """From the last byte of the activation to this answer, by the downstream device's clock."""
    decode_s: float = 0.0
    """The part of it that went into decoding the tensors; the listener sets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """How one frame went over a hop and its answer came back, by the upstream end's clock."""

    round_trip_s: float
    """From the first byte of the activation to its answer."""
    payload_bytes: int
    """The tensors, as they travelled."""
    encode_s: float = 0.0
    """Before the first byte."""


def hop_time(answer: Answer, trip: Trip, *, source: str, target: str) -> HopTime:
    """The time of the hop from ``source`` to ``target`` that ``answer`` came back over."""
    return HopTime(
        source=source,
        target=target,
        bytes=trip.payload_bytes,
        ms=round(1e3 * max(0.0, trip.round_trip_s - answer.residence_s), 3),
        encode_ms=round(1e3 * trip.encode_s, 3),
        decode_ms=round(1e3 * answer.decode_s, 3),
    )


def answer_to(
    activation: Activation,
    *,
    detections: tuple[Detection, ...] = (),
    dropped: str = "",
    stages: tuple[StageTime, ...] = (),
    residence_s: float = 0.0,
) -> Answer:
    """The answer about the frame of ``activation``."""
    return Answer(
        stream=activation.stream,
        run=activation.run,
        frame=activation.frame,
        capture_ns=activation.capture_ns,
        detections=detections,
        dropped=dropped,
        stages=stages,
        residence_s=residence_s,
    )


@dataclass(slots=True, kw_only=True)
class HopCounters:
    """Running totals of one end, for telemetry and tests."""

    activations_sent: int = 0
    answers_received: int = 0
    bytes_sent: int = 0
    connects: int = 0
    last_error: str = ""
    extra: dict[str, int] = field(default_factory=dict)


class HopLink(Protocol):
    """Upstream end: keeps one connection to the next device alive and sends activations over it."""

    def set_peer(self, host: str, port: int) -> None:
        """Where the next device listens now. Reconnects if the address changed."""

    def send(self, activation: Activation, *, timeout_s: float) -> int:
        """Code the tensors, and send as soon as there is a connection and a credit.

        Returns: bytes that went out. Raises: LinkError if neither came within ``timeout_s``, or the
        connection broke meanwhile: a broken send was never acted on as a whole frame, the receiver
        drops partial ones. ModelError or ConfigError if this activation can never be sent, such as
        one with NaN in 256 steps; sending it again is of no use.
        """

    def wait_ready(self, timeout_s: float) -> bool:
        """True once a frame could be sent at once (connected, credit in hand); else False."""

    @property
    def state(self) -> str:
        """ "connected", or one sentence that says what is wrong."""

    @property
    def is_connected(self) -> bool:
        """Whether frames can be sent, credit permitting."""

    def close(self) -> None:
        """Stop for good; threads end within a second."""


class HopListener(Protocol):
    """Downstream end: accepts one upstream neighbour per cut."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on."""

    def serve(self, identity: Identity | None) -> None:
        """Accept hops that match ``identity`` from now on; None refuses all ("not serving yet").

        Raises: ConfigError if the library of its codec is not installed here.
        """

    def close(self) -> None:
        """Stop for good; threads end within a second."""


CANNOT_DECODE = "cannot_decode"
"""``Answer.dropped`` of a frame whose bytes were not what its header says."""

OnAnswer = Callable[[Answer, Trip], None]
"""Called on the link's receive thread with the answer and how its frame fared."""
OnState = Callable[[bool, str], None]
"""Called when a connection comes (True) or goes (False), with the state sentence."""
Reply = Callable[[Answer], None]
"""Sends one Answer back; never raises: an answer whose connection is gone is dropped."""
OnActivation = Callable[[Activation, Reply, Callable[[], None]], None]
"""Called on the listener's receive thread: the activation, its reply, and ``release``, which grants
the sender one more credit (call it when the frame leaves the queue: queues stay bounded)."""
