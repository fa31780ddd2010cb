"""How activations are written for the wire, as it stands in a plan: both ends must say the same.

A codec is an element form (what becomes of each number) and a packing (what becomes of the bytes):
"fp32", "fp16+zstd", "uint8-channel+lz4", "klt:0.5+zstd"; or a picture format, for the frame itself:
"jpeg-90". Its parameters, if it has any, were
measured on calibration data. ``transport/codecs`` carries it out.
"""

import hashlib
import math
import struct
from collections.abc import Iterator
from typing import Literal, get_args

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec, to_json

Element = Literal["fp32", "fp16", "uint8", "uint8-channel", "klt", "jpeg", "webp", "png"]
"""fp32: every tensor as it is, bit for bit, whatever its type: also the integers between int8
shards, which no codec rewrites. The others rewrite floats only: as half precision; in 256 steps
between a least and a greatest number of the tensor, or of each channel; as the leading principal
components of its channels, in steps of one size. jpeg, webp and png are for a camera frame alone:
uint8, (height, width, 3)."""
Packing = Literal["none", "lz4", "zstd"]

ELEMENTS: tuple[Element, ...] = ("fp32", "fp16", "uint8", "uint8-channel")
"""Those for floats that can be had without calibration data."""
PICTURES: tuple[Element, ...] = ("jpeg", "webp", "png")
PACKINGS: tuple[Packing, ...] = get_args(Packing)
DEFAULT_RELATIVE_STEP = 0.5
RANGE_LIMIT = 1e30
"""No number of a tensor in 256 steps is larger: their differences must stay finite."""

BASIS_CHANNELS_MAX = 2048
CHANNELS_MAX = 65536
_HINT = (
    f"use {', '.join(ELEMENTS)} or klt:STEP, alone or with +lz4 or +zstd, such as uint8+lz4 or "
    f"klt:{DEFAULT_RELATIVE_STEP}+zstd (a larger step: fewer bytes, more loss); for whole frames "
    "jpeg-90, webp-80 or png"
)
_LOSSLESS = ("fp32", "png")
_UNIT = 1.001
"""No number of a vector of length 1 is larger, rounding included."""


class TensorRange(Spec, frozen=True, kw_only=True):
    """Least and greatest number of one tensor on calibration data: one pair, or one a channel."""

    name: str
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not 0 < len(self.low) <= CHANNELS_MAX:
            raise ConfigError(
                f"the range of {self.name!r} has {len(self.low)} low and {len(self.high)} high "
                "ends",
                hint="calibrate the codec again",
            )
        for low, high in zip(self.low, self.high, strict=True):
            # Written so that NaN fails it.
            if not -RANGE_LIMIT <= low <= high <= RANGE_LIMIT:
                raise ConfigError(
                    f"the range of {self.name!r} goes from {low} to {high}",
                    hint=f"low <= high, both within {RANGE_LIMIT:g}: calibrate the codec again",
                )


def _floats(data: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(data) // 4}f", data)


class ChannelBasis(Spec, frozen=True, kw_only=True):
    """Principal components of the channels of one tensor, the strongest first.

    The numbers are little-endian float32: thousands of them, which text would make three times as
    long.
    """

    name: str
    mean: bytes
    """(channels,)"""
    rows: bytes
    """(components, channels), orthonormal."""
    step: float
    """The rate: components are rounded to multiples of it."""

    def __post_init__(self) -> None:
        channels, rest = divmod(len(self.mean), 4)
        if rest or not 0 < channels <= BASIS_CHANNELS_MAX:
            reason = f"a mean of {len(self.mean)} bytes"
        elif not self.rows or len(self.rows) % len(self.mean) or self.component_count > channels:
            reason = f"{len(self.rows)} bytes of rows for {channels} channels"
        elif not all(abs(one) <= RANGE_LIMIT for one in _floats(self.mean)):
            reason = f"a mean beyond {RANGE_LIMIT:g}"
        elif not all(abs(one) <= _UNIT for one in _floats(self.rows)):
            reason = "rows that are not of length 1"
        elif not 1 / RANGE_LIMIT <= self.step <= RANGE_LIMIT:
            reason = f"the step {self.step}"
        else:
            return
        raise ConfigError(
            f"the channel basis of {self.name!r} has {reason}",
            hint="calibrate the codec again",
        )

    @property
    def channel_count(self) -> int:
        """Channels of the tensor."""
        return len(self.mean) // 4

    @property
    def component_count(self) -> int:
        """Components that travel."""
        return len(self.rows) // len(self.mean)


class Components(Spec, frozen=True, kw_only=True):
    """A tensor whose channels are principal components already: the shards do the transform."""

    name: str
    step: float
    """The rate: components are rounded to multiples of it."""

    def __post_init__(self) -> None:
        if not 1 / RANGE_LIMIT <= self.step <= RANGE_LIMIT:
            raise ConfigError(
                f"the components of {self.name!r} have the step {self.step}",
                hint="calibrate the codec again",
            )


class CodecSpec(Spec, frozen=True, kw_only=True):
    """One codec with its parameters."""

    element: Element = "fp32"
    packing: Packing = "none"
    ranges: tuple[TensorRange, ...] = ()
    """Of the tensors of the cut; one that is not listed gets its range anew with every frame."""
    bases: tuple[ChannelBasis, ...] = ()
    """Of the tensors of the cut, for klt; floats without a basis or components travel as fp16."""
    components: tuple[Components, ...] = ()
    """Of the tensors of the cut, for klt, that the shards transform."""
    relative_step: float | None = None
    """For klt, the rate that was asked for: every step, in root mean squares of its tensor."""
    deadline_s: float | None = None
    """For klt, how long a frame's tensors may be on the wire: what does not fit the bytes that the
    link carries in that time is sent in larger steps, or not at all, the weakest components first.
    None: everything is sent as it is."""
    quality: int | None = None
    """Of jpeg and webp: 1 to 100."""

    def __post_init__(self) -> None:
        for why, hint in self._objections():
            raise ConfigError(f"codec {self.name!r} {why}", hint=hint)

    def _objections(self) -> Iterator[tuple[str, str]]:
        """What is wrong with it, and what to do."""
        is_klt = self.element == "klt"
        if bool(self.bases or self.components) != is_klt:
            count = len(self.bases) + len(self.components)
            yield (
                f"has {count} channel bases",
                "klt is made from calibration data and needs some, no other codec does",
            )
        if self.relative_step is not None and not (is_klt and 0 < self.relative_step < math.inf):
            yield f"has the relative step {self.relative_step}", "klt takes one above 0: 0.1 to 1"
        if self.deadline_s is not None and not (is_klt and 0 < self.deadline_s < math.inf):
            yield f"has a deadline of {self.deadline_s} s", "klt takes one above 0, others none"
        if why := _quality_objection(self.element, self.packing, self.quality):
            yield why, _HINT
        if self.ranges and self.element not in ("uint8", "uint8-channel"):
            yield "has ranges but no use for them", "leave them out, or use uint8"
        listed: tuple[TensorRange | ChannelBasis | Components, ...]
        listed = (*self.ranges, *self.bases, *self.components)
        names = [one.name for one in listed]
        if len(set(names)) != len(names):
            yield f"names a tensor twice: {names}", "calibrate the codec again"
        if self.element == "uint8" and any(len(one.low) > 1 for one in self.ranges):
            yield "has ranges of single channels", "use uint8-channel, or calibrate it again"

    @property
    def name(self) -> str:
        """Such as "uint8+lz4", "klt:0.5+zstd" or "jpeg-90"; as in spec.planning."""
        return codec_name(self.element, self.packing, self.relative_step, self.quality)

    @property
    def is_lossless(self) -> bool:
        """Whether every tensor arrives bit for bit."""
        return self.element in _LOSSLESS

    @property
    def digest(self) -> str:
        """16 hex digits that differ wherever two codecs do, parameters included."""
        return hashlib.sha256(to_json(self)).hexdigest()[:16]

    def range_of(self, tensor: str) -> TensorRange | None:
        """The calibrated range of a tensor, or None."""
        return next((one for one in self.ranges if one.name == tensor), None)


def codec_name(
    element: Element, packing: Packing, relative_step: float | None, quality: int | None
) -> str:
    """The name of a codec: what a person types, and both ends compare."""
    rate = "" if relative_step is None else f":{relative_step:.6g}"
    rate += "" if quality is None else f"-{quality}"
    return f"{element}{rate}" + ("" if packing == "none" else f"+{packing}")


def _quality_objection(element: Element, packing: Packing, quality: int | None) -> str:
    """What is wrong with a picture's quality or packing; empty if nothing is."""
    if element in PICTURES and packing != "none":
        return "packs what is packed"
    if (quality is not None) != (element in ("jpeg", "webp")):
        return f"has the quality {quality}"
    return "" if quality is None or 1 <= quality <= 100 else f"has the quality {quality}"


RAW = CodecSpec()
"""Activations as they are."""


class CodecRequest(Spec, frozen=True, kw_only=True):
    """Which codec, without the parameters that calibration finds."""

    element: Element = "fp32"
    packing: Packing = "none"
    relative_step: float | None = None
    """Of klt: its steps, in root mean squares of each tensor."""
    quality: int | None = None
    """Of jpeg and webp: 1 to 100."""

    def __post_init__(self) -> None:
        is_klt = self.element == "klt"
        step = self.relative_step
        if (step is not None) != is_klt or (step is not None and not 0 < step < math.inf):
            raise ConfigError(f"codec {self.name!r} has the relative step {step}", hint=_HINT)
        if why := _quality_objection(self.element, self.packing, self.quality):
            raise ConfigError(f"codec {self.name!r} {why}", hint=_HINT)

    @property
    def name(self) -> str:
        """The name of the CodecSpec that is made of it."""
        return codec_name(self.element, self.packing, self.relative_step, self.quality)

    @property
    def is_lossless(self) -> bool:
        """Whether every tensor arrives bit for bit."""
        return self.element in _LOSSLESS


def parse_request(text: str) -> CodecRequest:
    """The codec that ``text`` asks for. "klt" alone is klt:0.5+zstd: without packing it gains
    little. Raises: ConfigError with the names that there are."""
    form, plus, packing = text.strip().partition("+")
    element, colon, rate = form.partition(":")
    found = next((one for one in PACKINGS if one == packing and one != "none"), None)
    if picture := _picture(text.strip()):
        return picture
    if element == "klt" and (not plus or found):
        step = _number(rate) if colon else DEFAULT_RELATIVE_STEP
        if step is not None:
            return CodecRequest(element="klt", packing=found or "zstd", relative_step=step)
    elif element in ELEMENTS and not colon and (not plus or found):
        plain = next(one for one in ELEMENTS if one == element)
        return CodecRequest(element=plain, packing=found or "none")
    raise ConfigError(f"there is no codec {text!r}", hint=_HINT)


def _picture(text: str) -> CodecRequest | None:
    """ "jpeg-90", "webp-80" or "png"; None if it is none of these."""
    format_, dash, quality = text.partition("-")
    element = next((one for one in PICTURES if one == format_), None)
    if element is None or bool(dash) != (quality.isdecimal() and element != "png"):
        return None
    return CodecRequest(element=element, quality=int(quality) if dash else None)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def parse_codec(text: str) -> CodecSpec:
    """The codec of that name, if it needs no calibration: "uint8+lz4". Raises: ConfigError."""
    request = parse_request(text)
    if request.element == "klt":
        raise ConfigError(
            f"codec {request.name!r} needs calibration data",
            hint=f"calibrate it, or use {', '.join(ELEMENTS)}",
        )
    return CodecSpec(element=request.element, packing=request.packing, quality=request.quality)
