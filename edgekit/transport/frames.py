"""The wire format of the hop: activations and answers <-> bytes.

In: a value, or a header and what follows it.  Out: the other one, or a named refusal.
Pure: no socket, clock or thread.  Called by both ends of the hop, and by their fake.

A message is a header (headers.py) and the payload whose size the header states: for an activation
its tensors as the codec of the cut writes them (codecs/), in header order; for an answer its
detections; else nothing. Every size is compared with its cap before anything is allocated.
"""

import msgspec
import numpy as np

from edgekit.errors import ConfigError, LinkError, ModelError, TrustError
from edgekit.spec.messages import Detection
from edgekit.spec.tensors import Array
from edgekit.transport.codecs.port import Codec, CodedHeader, Encoded
from edgekit.transport.headers import (
    REASON_MAX_CHARS,
    ActivationHeader,
    AnswerHeader,
    encode,
    other_pipeline,
)
from edgekit.transport.port import Activation, Answer, Identity

PAYLOAD_CAP_BYTES = 256 * 1024 * 1024
"""Default cap for one frame's tensors in memory; the listener may set a smaller one."""
ANSWER_CAP_BYTES = 8 * 1024 * 1024

_DETECTIONS = msgspec.msgpack.Decoder(tuple[Detection, ...])


def coded(activation: Activation, codec: Codec, *, budget_bytes: int | None = None) -> Encoded:
    """The tensors as they will travel; without a copy where the codec leaves them as they are.

    ``budget_bytes`` is for codecs that can send less (see codecs/port.py).
    Raises: ModelError or ConfigError if they cannot travel.
    """
    if activation.nbytes > PAYLOAD_CAP_BYTES:
        raise ModelError(
            f"{activation.nbytes} bytes of tensors exceed the cap of {PAYLOAD_CAP_BYTES}",
            hint="cut where fewer bytes cross",
        )
    return codec.encode(activation.tensors, budget_bytes=budget_bytes)


def activation_parts(
    activation: Activation, encoded: Encoded, identity: Identity
) -> list[bytes | bytearray | memoryview]:
    """What to send for one activation: prefix and header, then each tensor's bytes.

    Raises: ConfigError as ``headers.encode``.
    """
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
        coded=encoded.header,
        stages=activation.stages,
    )
    return [encode(header), *encoded.buffers]


def check_activation(
    header: ActivationHeader, identity: Identity, codec: Codec, *, cap_bytes: int
) -> None:
    """Refuse a frame of another pipeline, codec or size, before anything is allocated for it.

    Raises: TrustError naming what differs.
    """
    reason = other_pipeline(header, identity)
    if not reason:
        try:
            codec.check(header.coded, cap_bytes=cap_bytes)
        except TrustError as error:
            reason = error.what
    if reason:
        raise TrustError(
            f"frame {header.frame} of stream {header.stream!r} is refused: {reason}",
            hint="deploy again, so that both ends run the same pipeline",
        )


def empty_buffers(header: CodedHeader) -> list[memoryview]:
    """Fresh memory to receive into, one piece per tensor, aligned for any dtype.

    Nothing is reused: tensors that share it live as long as somebody holds them. Call
    ``check_activation`` first.
    """
    return [np.empty(tensor.nbytes, np.uint8).data for tensor in header.tensors]


def activation(header: ActivationHeader, tensors: dict[str, Array]) -> Activation:
    """The value behind a header and its decoded tensors."""
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


def answer_parts(answer: Answer) -> list[bytes]:
    """What to send for one answer: prefix and header, then the detections.

    A reason beyond REASON_MAX_CHARS is cut off there.
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
        dropped=answer.dropped[:REASON_MAX_CHARS],
        stages=answer.stages,
        hops=answer.hops,
        residence_s=answer.residence_s,
        decode_s=answer.decode_s,
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
        decode_s=header.decode_s,
    )
