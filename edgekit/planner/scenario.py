"""What a plan is made from: the model under each strategy, the devices, and what sending costs.

In:  nothing; callers fill it.  Out: a Scenario, the planner's whole input besides the Goal.
Pure values. Links that the fleet does not name do not exist, except that a fleet without a single
link is taken to be joined by ``ASSUMED_LINK`` everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgekit.errors import PlanError
from edgekit.spec.fleet import Device, Fleet
from edgekit.spec.planning import RAW_FP32, AccuracyTable, CodecCost, FrameCost
from edgekit.spec.profile import DeviceProfile, Precision
from edgekit.spec.workload import Workload

MeasuredKey = tuple[str, str, Precision, str, str]
"""Device, strategy, precision, and the shard: the cut that it begins after and the one that it
ends at, as comma-joined tensor names, empty for the model's own ends."""
ASSUMED_BYTES_PER_S = 125e6
ASSUMED_RTT_S = 1e-3
"""1 Gbit/s and 1 ms: for a fleet that names no link at all."""
RAW_FRAME = "raw"


@dataclass(frozen=True, slots=True)
class Variant:
    """The model under one fusion strategy. Cuts have the same tensors in every variant."""

    strategy: str
    workload: Workload


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

    def __post_init__(self) -> None:
        if not self.variants or not self.codecs:
            raise PlanError(
                "a scenario needs at least one variant of the model and one codec",
                hint='give Variant("S3", workload) and RAW_FP32',
            )
        for device in self.fleet.device:
            if device.can_run and device.name not in self.profiles:
                raise PlanError(
                    f"device {device.name!r} has no profile",
                    hint="measure one with `edgekit profile`, or write can_run = false",
                )

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
