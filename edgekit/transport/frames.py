"""The wire format of the hop: bytes <-> values.

In: header values and tensors, or untrusted bytes.  Out: the other one, or a named refusal.
Pure: no socket, clock or thread.  Called by connection, hop_link and hop_listener.

A message is a 4-byte big-endian header length, a msgpack header (one of the structs below, told
apart by its ``kind``), and the payload whose size the header states: for an activation the raw
little-endian tensors in header order, for an answer its detections, else nothing. Every size is
computed and compared with its cap before anything is allocated.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from edgekit.errors import ConfigError, EdgeKitError, LinkError, ModelError, TrustError
from edgekit.spec.messages import Detection, HopTime, StageTime
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.port import Activation, Answer, Identity

PROTOCOL = 1
"""Version of this format. Ends that differ refuse each other in the handshake."""
PREFIX_BYTES = 4
HEADER_CAP_BYTES = 64 * 1024
PAYLOAD_CAP_BYTES = 256 * 1024 * 1024
"""Default cap for one frame's tensors; the listener may set a smaller one."""
ANSWER_CAP_BYTES = 8 * 1024 * 1024
RAW_CODEC = "fp32"
"""The tensors as the shard made them, uncoded."""

_PREFIX = struct.Struct(">I")
_DIMS_MAX = 16
_DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8",
                 "uint64", "uint32", "uint16", "uint8", "bool")
}  # fmt: skip

_Name = Annotated[str, Meta(max_length=512)]
_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Nanoseconds = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


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


class Welcome(_Header, frozen=True, kw_only=True):
    """The listener takes the connection; ``credit`` activations may be sent now."""

    device: _Name
    credit: _Count


class Refuse(_Header, frozen=True, kw_only=True):
    """The listener does not take the connection. The link retries later."""

    device: _Name
    reason: _Name


class ActivationHeader(_Header, frozen=True, kw_only=True):
    """One frame's activation; its tensors follow, raw, in this order."""

    deployment: _Name
    epoch: _Count
    cut: _Count
    stream: _Name
    run: _Name
    frame: _Nanoseconds
    capture_ns: _Nanoseconds
    source_height_px: _Count
    source_width_px: _Count
    codec: _Name
    tensors: tuple[TensorSpec, ...]
    stages: tuple[StageTime, ...] = ()

    @property
    def payload_bytes(self) -> int:
        """Bytes that follow this header."""
        return sum(spec.nbytes for spec in self.tensors)


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
_DETECTIONS = msgspec.msgpack.Decoder(tuple[Detection, ...])


def encode(message: Message) -> bytes:
    """Length prefix and header.

    Raises: ConfigError if the header exceeds its cap or a number does not fit 64 bits.
    """
    try:
        header = msgspec.msgpack.encode(message)
    except OverflowError as error:
        raise ConfigError(
            f"{type(message).__name__} holds a number beyond 64 bits: {error}",
            hint="use smaller frame numbers and time stamps",
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
    )


def refusal(greeting: Hello, identity: Identity | None) -> str:
    """Why a listener with ``identity`` refuses ``greeting``; empty if it takes it."""
    if greeting.protocol != PROTOCOL:
        return f"it speaks hop protocol {PROTOCOL}, not {greeting.protocol}"
    if identity is None:
        return f"not serving deployment {greeting.deployment} yet"
    if greeting.fleet != identity.fleet:
        return f"it belongs to fleet {identity.fleet}, not {greeting.fleet}"
    return _other_pipeline(greeting, identity)


def _other_pipeline(header: Hello | ActivationHeader, identity: Identity) -> str:
    """How the pipeline in ``header`` differs from the one served; empty if it does not."""
    if header.deployment != identity.deployment:
        return f"serving deployment {identity.deployment}, not {header.deployment}"
    if header.epoch != identity.epoch:
        return f"serving epoch {identity.epoch} of {identity.deployment}, not {header.epoch}"
    if header.cut != identity.cut:
        return f"serving cut {identity.cut} of {identity.deployment}, not {header.cut}"
    return ""


def activation_parts(activation: Activation, identity: Identity) -> list[bytes | memoryview]:
    """What to send for one activation: prefix and header, then each tensor without a copy.

    Only a tensor that is not contiguous or not little-endian is copied.
    Raises: ModelError if a tensor cannot travel; ConfigError as ``encode``.
    """
    arrays = [_wire_array(name, array) for name, array in activation.tensors.items()]
    header = ActivationHeader(
        deployment=identity.deployment,
        epoch=identity.epoch,
        cut=identity.cut,
        stream=activation.stream,
        run=activation.run,
        frame=activation.frame,
        capture_ns=activation.capture_ns,
        source_height_px=activation.source_height_px,
        source_width_px=activation.source_width_px,
        codec=RAW_CODEC,
        tensors=tuple(
            TensorSpec(name=name, dtype=array.dtype.name, shape=array.shape)
            for name, array in zip(activation.tensors, arrays, strict=True)
        ),
        stages=activation.stages,
    )
    return [encode(header), *(array.reshape(-1).view(np.uint8).data for array in arrays)]


def _wire_array(name: str, array: Array) -> Array:
    """The array as it travels: contiguous and little-endian, the same object if it already is."""
    dtype = _DTYPES.get(array.dtype.name)
    if dtype is None or array.size == 0 or array.ndim > _DIMS_MAX:
        raise ModelError(
            f"tensor {name!r} cannot cross a hop: {array.dtype.name}{list(array.shape)}",
            hint=f"cut elsewhere; tensors need 1 to {_DIMS_MAX} dimensions, at least one element "
            f"and one of {', '.join(_DTYPES)}",
        )
    # ascontiguousarray would make a 1-vector of a scalar.
    return np.require(array, dtype=dtype, requirements="C")


def check_activation(header: ActivationHeader, identity: Identity, *, cap_bytes: int) -> None:
    """Refuse a frame of another pipeline, codec or size, before anything is allocated for it.

    Raises: TrustError naming what differs.
    """
    reason = _other_pipeline(header, identity)
    if not reason and header.codec != RAW_CODEC:
        reason = f"codec {header.codec!r} is unknown here"
    names = [spec.name for spec in header.tensors]
    if not reason and len(set(names)) != len(names):
        reason = f"a tensor name is repeated in {names}"
    for spec in header.tensors:
        if spec.dtype not in _DTYPES:
            reason = reason or f"dtype {spec.dtype} of tensor {spec.name!r} cannot cross a hop"
        if len(spec.shape) > _DIMS_MAX or any(dim < 1 for dim in spec.shape):
            reason = reason or f"tensor {spec.name!r} has the shape {list(spec.shape)[:20]}"
    if not reason and header.payload_bytes > cap_bytes:
        reason = f"{header.payload_bytes} bytes of tensors exceed the cap of {cap_bytes}"
    if reason:
        raise TrustError(
            f"frame {header.frame} of stream {header.stream!r} is refused: {reason}",
            hint="deploy again, so that both ends run the same pipeline",
        )


def empty_tensors(specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Fresh arrays to receive into, one per tensor: aligned, and each owning its memory.

    Nothing is reused: an array lives as long as somebody holds it. Call ``check_activation`` first.
    """
    return {spec.name: np.empty(spec.shape, dtype=_DTYPES[spec.dtype]) for spec in specs}


def byte_views(tensors: Mapping[str, Array]) -> list[memoryview]:
    """Writable views of the tensors' bytes, in order."""
    return [array.reshape(-1).view(np.uint8).data for array in tensors.values()]


def activation(header: ActivationHeader, tensors: dict[str, Array]) -> Activation:
    """The value behind a header and its received tensors."""
    return Activation(
        stream=header.stream,
        run=header.run,
        frame=header.frame,
        capture_ns=header.capture_ns,
        source_height_px=header.source_height_px,
        source_width_px=header.source_width_px,
        tensors=tensors,
        stages=header.stages,
    )


def answer_parts(answer: Answer) -> list[bytes | memoryview]:
    """What to send for one answer: prefix and header, then the detections.

    Raises: ConfigError if the detections exceed their cap.
    """
    body = msgspec.msgpack.encode(answer.detections) if answer.detections else b""
    if len(body) > ANSWER_CAP_BYTES:
        raise ConfigError(
            f"{len(answer.detections)} detections take {len(body)} bytes, the cap is "
            f"{ANSWER_CAP_BYTES}",
            hint="raise the score threshold of the decoder",
        )
    header = AnswerHeader(
        stream=answer.stream,
        run=answer.run,
        frame=answer.frame,
        capture_ns=answer.capture_ns,
        dropped=answer.dropped,
        stages=answer.stages,
        hops=answer.hops,
        residence_s=answer.residence_s,
        detections_bytes=len(body),
    )
    return [encode(header), body]


def check_answer(header: AnswerHeader) -> None:
    """Raises: TrustError if the answer's detections exceed their cap."""
    if header.detections_bytes > ANSWER_CAP_BYTES:
        raise TrustError(
            f"the answer about frame {header.frame} announces {header.detections_bytes} bytes, "
            f"the cap is {ANSWER_CAP_BYTES}",
            hint="raise the score threshold of the decoder",
        )


def answer(header: AnswerHeader, body: bytes | bytearray | memoryview) -> Answer:
    """The value behind a header and its detections. Raises: LinkError if the body is malformed."""
    try:
        detections = _DETECTIONS.decode(body) if header.detections_bytes else ()
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise LinkError(
            f"the peer sent malformed detections: {error}",
            hint="run the same edgekit at both ends",
        ) from None
    return Answer(
        stream=header.stream,
        run=header.run,
        frame=header.frame,
        capture_ns=header.capture_ns,
        detections=detections,
        dropped=header.dropped,
        stages=header.stages,
        hops=header.hops,
        residence_s=header.residence_s,
    )
