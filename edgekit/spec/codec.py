"""How activations are written for the wire, as it stands in a plan: both ends must say the same.

A codec is an element form (what becomes of each number) and a packing (what becomes of the bytes):
"fp32", "fp16+zstd", "uint8-channel+lz4". Its ranges, if it has any, were measured on calibration
data. ``transport/codecs`` carries it out.
"""

import hashlib
import math
import struct
from typing import Literal, get_args

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec, to_json

Element = Literal["fp32", "fp16", "uint8", "uint8-channel", "klt"]
"""fp32: every tensor as the shard made it, bit for bit. The others rewrite floats only: as half
precision; in 256 steps between a least and a greatest number of the tensor, or of each channel; as
the leading principal components of its channels, in steps of one size."""
Packing = Literal["none", "lz4", "zstd"]

ELEMENTS: tuple[Element, ...] = ("fp32", "fp16", "uint8", "uint8-channel")
"""Those that can be had without calibration data."""
PACKINGS: tuple[Packing, ...] = get_args(Packing)
RANGE_LIMIT = 1e30
"""No number of a tensor in 256 steps is larger: their differences must stay finite."""

CHANNEL_ELEMENTS_MIN = 32
"""Elements of a channel that make its range, 8 bytes when sent, worth its place."""
BASIS_CHANNELS_MAX = 2048
_CHANNELS_MAX = 65536
_UNIT = 1.001
"""No number of a vector of length 1 is larger, rounding included."""


class TensorRange(Spec, frozen=True, kw_only=True):
    """Least and greatest number of one tensor on calibration data: one pair, or one a channel."""

    name: str
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not 0 < len(self.low) <= _CHANNELS_MAX:
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


class CodecSpec(Spec, frozen=True, kw_only=True):
    """One codec with its parameters."""

    element: Element = "fp32"
    packing: Packing = "none"
    ranges: tuple[TensorRange, ...] = ()
    """Of the tensors of the cut; one that is not listed gets its range anew with every frame."""
    bases: tuple[ChannelBasis, ...] = ()
    """Of the tensors of the cut, for klt; floats of one that is not listed travel as fp16."""

    def __post_init__(self) -> None:
        if bool(self.bases) != (self.element == "klt"):
            raise ConfigError(
                f"codec {self.name!r} has {len(self.bases)} channel bases",
                hint="klt is made from calibration data and needs some, no other codec does",
            )
        if self.ranges and self.element not in ("uint8", "uint8-channel"):
            raise ConfigError(
                f"codec {self.name!r} has ranges but no use for them",
                hint="leave them out, or use uint8",
            )
        names = [*(one.name for one in self.ranges), *(one.name for one in self.bases)]
        if len(set(names)) != len(names):
            raise ConfigError(
                f"codec {self.name!r} names a tensor twice: {names}",
                hint="calibrate the codec again",
            )
        if self.element == "uint8" and any(len(one.low) > 1 for one in self.ranges):
            raise ConfigError(
                f"codec {self.name!r} has ranges of single channels",
                hint="use uint8-channel, or calibrate the codec again",
            )

    @property
    def name(self) -> str:
        """Such as "fp32" or "uint8+lz4"; as in spec.planning.CodecCost."""
        return self.element if self.packing == "none" else f"{self.element}+{self.packing}"

    @property
    def is_lossless(self) -> bool:
        """Whether every tensor arrives bit for bit."""
        return self.element == "fp32"

    @property
    def digest(self) -> str:
        """16 hex digits that differ wherever two codecs do, parameters included."""
        return hashlib.sha256(to_json(self)).hexdigest()[:16]

    def range_of(self, tensor: str) -> TensorRange | None:
        """The calibrated range of a tensor, or None."""
        return next((one for one in self.ranges if one.name == tensor), None)


RAW = CodecSpec()
"""Activations as they are."""


def parse_codec(text: str) -> CodecSpec:
    """The codec of that name, without ranges: "uint8+lz4". Raises: ConfigError."""
    for element in ELEMENTS:
        for packing in PACKINGS:
            codec = CodecSpec(element=element, packing=packing)
            if codec.name == text.strip():
                return codec
    raise ConfigError(
        f"there is no codec {text!r}",
        hint=f"use {', '.join(ELEMENTS)}, alone or with +lz4 or +zstd, such as uint8+lz4",
    )


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """The axis with a range of its own for each index: 1 of NCHW, else the last.

    None where that would not pay: two numbers a channel for fewer than CHANNEL_ELEMENTS_MIN.
    """
    if not shape:
        return None
    axis = 1 if len(shape) == 4 else len(shape) - 1
    per_channel = math.prod(shape) // shape[axis] if shape[axis] else 0
    worthwhile = per_channel >= CHANNEL_ELEMENTS_MIN and shape[axis] <= _CHANNELS_MAX
    return axis if worthwhile else None
