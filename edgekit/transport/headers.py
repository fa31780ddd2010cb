"""The messages of the hop: header values <-> bytes, and who may talk to whom.

In: a header value, or untrusted bytes.  Out: the other one, or a named refusal.
Pure: no socket, clock or thread.  Called by frames, connection and both ends of the hop.

A header is a msgpack map, told apart by its ``kind``, after its length as 4 big-endian bytes.
What follows an activation or an answer is the business of frames.py.
"""

import struct
from typing import Annotated

import msgspec
from msgspec import Meta

from edgekit.errors import ConfigError, EdgeKitError, LinkError, TrustError
from edgekit.spec.messages import HopTime, StageTime
from edgekit.transport.codecs.port import CodedHeader
from edgekit.transport.port import Identity

PROTOCOL = 2
"""Version of this format. Ends that differ refuse each other in the handshake."""
PREFIX_BYTES = 4
HEADER_CAP_BYTES = 64 * 1024
REASON_MAX_CHARS = 400
"""Senders cut their sentences off here; receivers take a little more."""

_PREFIX = struct.Struct(">I")

_Name = Annotated[str, Meta(max_length=512)]
_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Nanoseconds = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Seconds = Annotated[float, Meta(ge=0, le=1e9)]


class _Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower):
    """What every header shares. Unknown fields pass: a later version must be able to say Hello."""


class Hello(_Header, frozen=True, kw_only=True):
    """First message of the link: who it is, and for which pipeline it has activations."""

    protocol: int
    device: _Name
    fleet: _Name
    deployment: _Name
    epoch: _Count
    cut: _Count
    codec: _Name = ""
    codec_digest: _Name = ""
    """Protocol 1 says neither; it must still be understood to be refused."""


class Welcome(_Header, frozen=True, kw_only=True):
    """The listener takes the connection; ``credit`` activations may be sent now."""

    device: _Name
    credit: _Count


class Refuse(_Header, frozen=True, kw_only=True):
    """The listener does not take the connection. The link retries later."""

    device: _Name
    reason: _Name


class ActivationHeader(_Header, frozen=True, kw_only=True):
    """One frame's activation; its tensors follow, as ``coded`` says, in its order."""

    deployment: _Name
    epoch: _Count
    cut: _Count
    stream: _Name
    run: _Name
    frame: _Nanoseconds
    capture_ns: _Nanoseconds
    source_height_px: _Count
    source_width_px: _Count
    coded: CodedHeader
    stages: tuple[StageTime, ...] = ()


class AnswerHeader(_Header, frozen=True, kw_only=True):
    """What became of one frame; ``detections_bytes`` of msgpack detections follow."""

    stream: _Name
    run: _Name
    frame: _Nanoseconds
    capture_ns: _Nanoseconds
    dropped: _Name = ""
    stages: tuple[StageTime, ...] = ()
    hops: tuple[HopTime, ...] = ()
    residence_s: float = 0.0
    decode_s: _Seconds = 0.0
    detections_bytes: _Count = 0


class Credit(_Header, frozen=True, kw_only=True):
    """The listener grants ``count`` more activations."""

    count: Annotated[int, Meta(ge=1, le=65535)]


class Ping(_Header, frozen=True, kw_only=True):
    """I am alive. ``stamp_ns`` is opaque to the receiver."""

    stamp_ns: _Nanoseconds


class Pong(_Header, frozen=True, kw_only=True):
    """Ping's stamp, sent back: its sender learns the bare round trip."""

    stamp_ns: _Nanoseconds


class Bye(_Header, frozen=True, kw_only=True):
    """Last message: why this end closes."""

    reason: _Name


Message = (
    Hello | Welcome | Refuse | ActivationHeader | AnswerHeader | Credit | Ping | Pong | Bye
)  # fmt: skip

_DECODER: "msgspec.msgpack.Decoder[Message]" = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Length prefix and header.

    Raises: ConfigError if the header exceeds its cap or a number does not fit 64 bits.
    """
    try:
        header = msgspec.msgpack.encode(message)
    except (OverflowError, UnicodeEncodeError) as error:
        raise ConfigError(
            f"{type(message).__name__} holds a number beyond 64 bits or text that is none: {error}",
            hint="use smaller frame numbers and time stamps, and plain names",
        ) from None
    if len(header) > HEADER_CAP_BYTES:
        raise ConfigError(
            f"{type(message).__name__} header of {len(header)} bytes exceeds {HEADER_CAP_BYTES}",
            hint="shorten the names, or cut where fewer tensors cross",
        )
    return _PREFIX.pack(len(header)) + header


def header_length(prefix: bytes | bytearray | memoryview) -> int:
    """Header bytes that follow the 4 bytes of ``prefix``. Raises: TrustError beyond the cap."""
    length: int = _PREFIX.unpack(prefix)[0]
    if not 0 < length <= HEADER_CAP_BYTES:
        raise TrustError(
            f"the peer announces a header of {length} bytes, the cap is {HEADER_CAP_BYTES}",
            hint="check that the port belongs to an EdgeKit hop and both ends agree on TLS",
        )
    return length


def decode(header: bytes | bytearray | memoryview) -> Message:
    """The header value. Raises: LinkError if the bytes are not a valid header."""
    try:
        message: Message = _DECODER.decode(header)
    except (msgspec.MsgspecError, ValueError, RecursionError, EdgeKitError) as error:
        what = error.what if isinstance(error, EdgeKitError) else str(error)
        raise LinkError(
            f"the peer sent a malformed header: {what}", hint="run the same edgekit at both ends"
        ) from None
    return message


def hello(identity: Identity) -> Hello:
    """The first message of a link with this identity."""
    return Hello(
        protocol=PROTOCOL,
        device=identity.device,
        fleet=identity.fleet,
        deployment=identity.deployment,
        epoch=identity.epoch,
        cut=identity.cut,
        codec=identity.codec.name,
        codec_digest=identity.codec.digest,
    )


def refusal(greeting: Hello, identity: Identity | None) -> str:
    """Why a listener with ``identity`` refuses ``greeting``; empty if it takes it."""
    if greeting.protocol != PROTOCOL:
        return f"it speaks hop protocol {PROTOCOL}, not {greeting.protocol}"
    if identity is None:
        return f"not serving deployment {greeting.deployment} yet"
    if greeting.fleet != identity.fleet:
        return f"it belongs to fleet {identity.fleet}, not {greeting.fleet}"
    return other_pipeline(greeting, identity) or _other_codec(greeting, identity)


def _other_codec(greeting: Hello, identity: Identity) -> str:
    codec, cut = identity.codec, f"cut {identity.cut} of {identity.deployment}"
    if greeting.codec != codec.name:
        return f"{cut} is coded as {codec.name}, not {greeting.codec}"
    if greeting.codec_digest != codec.digest:
        return f"{cut} is coded as {codec.name} with other parameters; deploy again"
    return ""


def other_pipeline(header: Hello | ActivationHeader, identity: Identity) -> str:
    """How the pipeline in ``header`` differs from the one served; empty if it does not."""
    if header.deployment != identity.deployment:
        return f"serving deployment {identity.deployment}, not {header.deployment}"
    if header.epoch != identity.epoch:
        return f"serving epoch {identity.epoch} of {identity.deployment}, not {header.epoch}"
    if header.cut != identity.cut:
        return f"serving cut {identity.cut} of {identity.deployment}, not {header.cut}"
    return ""
