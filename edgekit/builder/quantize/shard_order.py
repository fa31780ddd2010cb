"""What is asked of the shards of a build, and what of it makes sense.

In:  a precision for each device, codecs, calibration frames, a held-out set.  Out: one answer for
each shard and each cut, or a refusal that names the option.  Pure.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.builder.quantize.frames import CalibrationFrames, refuse_seen
from edgekit.builder.quantize.gate import DEFAULT_MAX_DROP_PP
from edgekit.builder.quantize.ranges import CALIBRATORS
from edgekit.builder.quantize.score import EvaluationSet
from edgekit.builder.quantize.shard_report import ShardTimes, Wanted
from edgekit.builder.quantize.sizes import MeasureBytes
from edgekit.builder.race import MIN_GAIN
from edgekit.errors import ConfigError
from edgekit.spec.card import ModelCard
from edgekit.spec.codec import CodecRequest
from edgekit.spec.profile import DeviceProfile, Precision

ANY_DEVICE = "*"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lowering:
    """What is asked of the shards of a build."""

    precision: Mapping[str, Wanted] = field(default_factory=dict)
    """By device; ANY_DEVICE for those that are not named, else these are fp32."""
    codecs: tuple[CodecRequest, ...] = ()
    """None, one for all cuts, or one for each."""
    deadline_s: float | None = None
    """What klt may take to cross: a frame that would take longer is sent more coarsely."""
    frames: CalibrationFrames | None = None
    card: ModelCard | None = None
    """How a detector's outputs are read: calibrators are judged by what is detected."""
    profiles: Mapping[str, DeviceProfile] = field(default_factory=dict)
    """By device; one without is taken to be like this machine."""
    calibrators: tuple[str, ...] = CALIBRATORS
    keep_float: Collection[str] = ("auto",)
    held_out: EvaluationSet | None = None
    max_drop_pp: float = DEFAULT_MAX_DROP_PP
    race_s: float = 3.0
    measure_bytes: MeasureBytes | None = None
    """Most memory of a session of a file; None: not measured."""


def choose(wanted: Wanted, made: Precision, times: ShardTimes) -> tuple[Precision, list[str]]:
    """The precision of one shard by speed alone, and why.

    made: what it became when it was asked for; fp32 if it has no layer to quantize.
    """
    said = said_of(times)
    if wanted == "fp32":
        return "fp32", ["nothing else was asked for"]
    if wanted != "auto":
        none = [] if made == wanted else ["it has no layer to quantize: head and decoding alone"]
        return made, [f"{wanted} asked for", *none, *said]
    if made == "int8" and times.is_int8_faster and times.is_int8_faster_than_fp16:
        return "int8", ["int8 is faster", *said]
    if times.is_fp16_faster:
        return "fp16", ["fp16 is faster", *said]
    if times.how == "unknown":
        return "fp32", ["nothing is known to be faster on this target", *said]
    return "fp32", ["neither int8 nor fp16 is faster beyond the error band", *said]


def said_of(times: ShardTimes) -> list[str]:
    """Both speed-ups in words."""
    if times.how == "unknown":
        return ["speed on its target is not known here: time the shards on the device"]
    found: list[str] = []
    precisions: tuple[Precision, ...] = ("int8", "fp16")
    for precision in precisions:
        speed_up = times.speed_up(precision)
        if speed_up is not None:
            found.append(f"{precision} runs {speed_up:.2f} times as fast as fp32, {times.how}")
    band = f"noise {MIN_GAIN:.0%}" if times.how == "measured" else "compared by their intervals"
    return [*found, band]


def wanted_of(precision: Mapping[str, Wanted], devices: Sequence[str]) -> tuple[Wanted, ...]:
    """What each device's shard is to be. Raises: ConfigError for a device without a shard."""
    for name in precision:
        if name not in devices and name != ANY_DEVICE:
            raise ConfigError(
                f"--precision names the device {name!r}, which gets no shard",
                hint=f"use one of {', '.join(devices)}",
            )
    rest = precision.get(ANY_DEVICE, "fp32")
    return tuple(precision.get(name, rest) for name in devices)


def codecs_of(codecs: Sequence[CodecRequest], cut_count: int) -> tuple[CodecRequest, ...]:
    """One codec for each cut. Raises: ConfigError if their numbers do not fit."""
    if not codecs:
        return (CodecRequest(),) * cut_count
    if len(codecs) == 1 and cut_count:
        return (codecs[0],) * cut_count
    if len(codecs) != cut_count:
        raise ConfigError(
            f"{len(codecs)} codecs are given for {cut_count} cuts",
            hint="give one --codec for all cuts, or one for each, from the first to the last"
            if cut_count
            else "leave out --codec: nothing crosses where one device runs the whole model",
        )
    return tuple(codecs)


def check_needs(order: Lowering, wanted: Sequence[Wanted], codecs: Sequence[CodecRequest]) -> None:
    """Raises: ConfigError if something is asked for that calibration frames are missing for."""
    integers = [one for one in wanted if one in ("int8", "auto")]
    klt = [one.name for one in codecs if one.element == "klt"]
    if order.frames is None and (integers or klt):
        raise ConfigError(
            f"--precision {integers[0]} needs calibration frames"
            if integers
            else f"--codec {klt[0]} needs calibration frames, for its principal components",
            hint="add --calibrate images:DIR with pictures of what the camera will see",
        )
    if order.frames is not None and order.held_out is not None:
        refuse_seen(order.frames, order.held_out.digests)
