"""What codecs cost on calibration activations: the planner's CodecCost, measured here.

In: codecs, and the tensors of some cuts for some frames.  Out: bytes and speed of each codec.
The only part of the codecs that reads a clock. Run it on one quiet processor.
"""

import math
import statistics
import time
from collections.abc import Mapping, Sequence

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec
from edgekit.spec.codec import RAW, CodecSpec, parse_request
from edgekit.spec.planning import CodecCost
from edgekit.spec.tensors import Array
from edgekit.transport.codecs.codec import make_codec

CAP_BYTES = 2**31 - 1
"""Calibration data is our own: only the codec's own limits apply."""

Frames = Sequence[Mapping[str, Array]]
"""Tensors of one cut, frame by frame."""


class Measurement(Spec, frozen=True, kw_only=True):
    """One codec on one cut, a frame: medians over frames."""

    raw_bytes: int
    wire_bytes: float
    element_count: int
    encode_s: float
    decode_s: float


def measure_codec(
    codec: CodecSpec, frames: Frames, *, repeat_count: int = 3, budget_bytes: int | None = None
) -> Measurement:
    """Bytes and times of ``codec`` on the tensors of a cut. Each time is the best of some.

    ``budget_bytes`` is what ``Codec.encode`` takes.

    Raises: ConfigError if there are no frames or the codec's library is not installed.
    """
    if not frames or repeat_count < 1:
        raise ConfigError(
            f"codec {codec.name!r} was given nothing to be measured on", hint="give it frames"
        )
    coder = make_codec(codec)
    wire_bytes, encode_s, decode_s = [], [], []
    for frame in frames:
        there, back = [], []
        for _ in range(repeat_count):
            started_s = time.perf_counter()
            sent = coder.encode(frame, budget_bytes=budget_bytes)
            middle_s = time.perf_counter()
            # As the receiver does: into memory of its own, which costs no copy on a socket.
            coder.decode(sent.header, sent.buffers, cap_bytes=CAP_BYTES)
            there.append(middle_s - started_s)
            back.append(time.perf_counter() - middle_s)
        wire_bytes.append(sent.header.payload_bytes)
        encode_s.append(min(there))
        decode_s.append(min(back))
    return Measurement(
        raw_bytes=sum(array.nbytes for array in frames[0].values()),
        wire_bytes=statistics.median(wire_bytes),
        element_count=sum(array.size for array in frames[0].values()),
        encode_s=statistics.median(encode_s),
        decode_s=statistics.median(decode_s),
    )


def measured_codec_costs(
    codecs: Mapping[str, Sequence[CodecSpec]],
    cuts: Mapping[str, Frames],
    *,
    accuracy_drop_pp: Mapping[str, float],
    repeat_count: int = 3,
) -> tuple[CodecCost, ...]:
    """CodecCost of every codec that was given for every cut, by name.

    ``codecs`` holds, by cut, the codecs to measure there (their ranges differ from cut to cut);
    ``cuts`` the activations, by cut (comma-joined tensor names).
    Raises: ConfigError as ``measure_codec``.
    """
    measured = {
        cut: {
            codec.name: measure_codec(codec, frames, repeat_count=repeat_count)
            for codec in codecs.get(cut, ())
        }
        for cut, frames in cuts.items()
    }
    return codec_costs(measured, accuracy_drop_pp=accuracy_drop_pp)


def codec_costs(
    measured: Mapping[str, Mapping[str, Measurement]], *, accuracy_drop_pp: Mapping[str, float]
) -> tuple[CodecCost, ...]:
    """CodecCost of every codec that was measured on every cut: ``measured[cut][codec]``.

    A codec that loses something, but whose loss is not in ``accuracy_drop_pp``, is left out: what
    is not known is not chosen. Bytes and times are summed over cuts.
    """
    by_cut = list(measured.values())
    names = [name for name in (by_cut[0] if by_cut else ()) if all(name in one for one in by_cut)]
    return tuple(
        _cost(
            name,
            {cut: rows[name] for cut, rows in measured.items()},
            accuracy_drop_pp.get(name, 0.0),
        )
        for name in names
        if name in accuracy_drop_pp or parse_request(name).is_lossless
    )


def _cost(name: str, rows: Mapping[str, Measurement], drop_pp: float) -> CodecCost:
    raw_bytes = sum(row.raw_bytes for row in rows.values())
    elements = sum(row.element_count for row in rows.values())
    is_nothing = name == RAW.name
    return CodecCost(
        name=name,
        bytes_per_element=sum(row.wire_bytes for row in rows.values()) / elements,
        encode_bytes_per_s=math.inf
        if is_nothing
        else raw_bytes / sum(row.encode_s for row in rows.values()),
        decode_bytes_per_s=math.inf
        if is_nothing
        else raw_bytes / sum(row.decode_s for row in rows.values()),
        accuracy_drop_pp=drop_pp,
        by_cut={cut: row.wire_bytes / row.element_count for cut, row in rows.items()},
    )
