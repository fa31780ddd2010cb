"""What a plan is made from: the model under each strategy, the devices, and what sending costs.

In:  nothing; callers fill it.  Out: a Scenario, the planner's whole input besides the Goal.
Pure values. Links that the fleet does not name do not exist, except that a fleet without a single
link is taken to be joined by ``ASSUMED_LINK`` everywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgekit.errors import PlanError
from edgekit.spec.fleet import Device, Fleet
from edgekit.spec.planning import QDQ, RAW_FP32, AccuracyTable, CodecCost, FrameCost
from edgekit.spec.profile import DeviceProfile, Precision
from edgekit.spec.workload import Workload

MeasuredKey = tuple[str, str, Precision, str, str]
"""Device, strategy, precision, and the shard: the cut that it begins after and the one that it
ends at, as comma-joined tensor names, empty for the model's own ends."""
ASSUMED_BYTES_PER_S = 125e6
ASSUMED_RTT_S = 1e-3
"""1 Gbit/s and 1 ms: for a fleet that names no link at all."""
RAW_FRAME = "raw"


def integers_of(tensor: str) -> str:
    """How the quantizer calls the integers that it makes of a tensor of floats."""
    return f"{tensor}_QuantizeLinear_Output"


@dataclass(frozen=True, slots=True)
class Variant:
    """The model under one fusion strategy, in floats or quantized.

    Cuts have the same tensors in every variant in floats. In one of integers (QDQ), a tensor that
    is quantized there crosses as the integers that its QuantizeLinear makes: ``integers_of``.
    """

    strategy: str
    workload: Workload
    precision: Literal["fp32", "int8"] = "fp32"
    """fp32: operators on floats, which fp16 runs too."""
    integers: frozenset[str] | None = None
    """Of one in int8: names of the operators that work on integers; None for all."""

    def is_integer(self, op: str) -> bool:
        """Whether that operator works on integers; those that quantize do not count."""
        return self.precision == "int8" and (self.integers is None or op in self.integers)

    def crossing(self, names: Sequence[str]) -> tuple[str, ...]:
        """What crosses this variant where the floats ``names`` cross the others."""
        if self.precision != "int8":
            return tuple(names)
        known = self.workload.tensor
        return tuple(integers_of(one) if integers_of(one) in known else one for one in names)


@dataclass(frozen=True, slots=True)
class Wire:
    """One direction between two devices."""

    bytes_per_s: float
    delay_s: float
    """Half a round trip."""


@dataclass(frozen=True)
class Scenario:
    """The planner's input besides the goal. The first variant is the reference."""

    model: str
    model_sha256: str
    variants: tuple[Variant, ...]
    fleet: Fleet
    profiles: Mapping[str, DeviceProfile]
    """By device name."""
    codecs: tuple[CodecCost, ...] = (RAW_FP32,)
    frames: tuple[FrameCost, ...] = ()
    """What crosses when the frame itself travels; if empty, the model's input as it is."""
    accuracy: AccuracyTable = field(default_factory=AccuracyTable)
    answer_bytes: int = 2048
    measured: Mapping[MeasuredKey, float] = field(default_factory=dict)
    """Seconds of shards that were timed for real; they replace predictions."""
    slower: Mapping[tuple[str, Precision], float] = field(default_factory=dict)
    """By device and precision, by what factor its predicted times are too short."""

    def __post_init__(self) -> None:
        if not self.variants or not self.codecs:
            raise PlanError(
                "a scenario needs at least one variant of the model and one codec",
                hint='give Variant("S3", workload) and RAW_FP32',
            )
        if self.variants[0].precision != "fp32" or all(one.is_integer for one in self.codecs):
            raise PlanError(
                "the first variant is the reference, in floats, and so must one codec be",
                hint="put the variant in fp32 first, and give RAW_FP32",
            )
        for device in self.fleet.device:
            if device.can_run and device.name not in self.profiles:
                raise PlanError(
                    f"device {device.name!r} has no profile",
                    hint="measure one with `edgekit profile`, or write can_run = false",
                )

    @property
    def float_codecs(self) -> tuple[CodecCost, ...]:
        """How floats may cross."""
        return tuple(one for one in self.codecs if not one.is_integer)

    @property
    def integer_codecs(self) -> tuple[CodecCost, ...]:
        """How the integers of an int8 shard may cross: at least as they are, if there are any."""
        if all(one.precision != "int8" for one in self.variants):
            return ()
        return tuple(one for one in self.codecs if one.is_integer) or (QDQ,)

    @property
    def reference(self) -> Workload:
        """The workload of the first variant."""
        return self.variants[0].workload

    @property
    def devices(self) -> tuple[Device, ...]:
        """The fleet's devices, in its order."""
        return self.fleet.device

    @property
    def frame_costs(self) -> tuple[FrameCost, ...]:
        """``frames``, or the raw input where there are none."""
        if self.frames:
            return self.frames
        workload = self.reference
        nbytes = sum(workload.tensor[name].nbytes for name in workload.inputs)
        return (FrameCost(codec=RAW_FRAME, nbytes=nbytes),)

    def wire(self, source: str, target: str) -> Wire | None:
        """How ``source`` reaches ``target``; None if it does not."""
        if not self.fleet.link:
            return Wire(ASSUMED_BYTES_PER_S, ASSUMED_RTT_S / 2)
        link = self.fleet.link_between(source, target)
        return Wire(link.toward(target), link.rtt_s / 2) if link else None
