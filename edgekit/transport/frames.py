"""The wire format of the hop: activations and answers <-> bytes.

In: a value, or a header and what follows it.  Out: the other one, or a named refusal.
Pure: no socket, clock or thread.  Called by both ends of the hop, and by their fake.

A message is a header (headers.py) and the payload whose size the header states: for an activation
the raw little-endian tensors in header order, for an answer its detections, else nothing. Every
size is computed and compared with its cap before anything is allocated.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from edgekit.errors import ConfigError, LinkError, ModelError, TrustError
from edgekit.spec.messages import Detection
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.headers import (
    REASON_MAX_CHARS,
    ActivationHeader,
    AnswerHeader,
    encode,
    other_pipeline,
)
from edgekit.transport.port import Activation, Answer, Identity

PAYLOAD_CAP_BYTES = 256 * 1024 * 1024
"""Default cap for one frame's tensors; the listener may set a smaller one."""
ANSWER_CAP_BYTES = 8 * 1024 * 1024
RAW_CODEC = "fp32"
"""The tensors as the shard made them, uncoded."""

_DIMS_MAX = 16
_DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8",
                 "uint64", "uint32", "uint16", "uint8", "bool")
}  # fmt: skip

_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
"""Asking a dtype for its name takes longer than all else that is done to frame a tensor."""
_DETECTIONS = msgspec.msgpack.Decoder(tuple[Detection, ...])


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
            TensorSpec(name=name, dtype=_NAMES[array.dtype], shape=array.shape)
            for name, array in zip(activation.tensors, arrays, strict=True)
        ),
        stages=activation.stages,
    )
    return [encode(header), *(array.reshape(-1).view(np.uint8).data for array in arrays)]


def _wire_array(name: str, array: Array) -> Array:
    """The array as it travels: contiguous and little-endian, the same object if it already is."""
    dtype = array.dtype if array.dtype in _NAMES else _DTYPES.get(array.dtype.name)
    if dtype is None or array.size == 0 or array.ndim > _DIMS_MAX:
        raise ModelError(
            f"tensor {name!r} cannot cross a hop: {array.dtype.name}{list(array.shape)}",
            hint=f"cut elsewhere; tensors need 1 to {_DIMS_MAX} dimensions, at least one element "
            f"and one of {', '.join(_DTYPES)}",
        )
    if dtype is array.dtype and array.flags.c_contiguous:
        return array
    # Not ascontiguousarray: that would make a 1-vector of a scalar.
    return np.require(array, dtype=dtype, requirements="C")


def check_activation(header: ActivationHeader, identity: Identity, *, cap_bytes: int) -> None:
    """Refuse a frame of another pipeline, codec or size, before anything is allocated for it.

    Raises: TrustError naming what differs.
    """
    reason = other_pipeline(header, identity)
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
