"""What was asked of the planner, what it may choose from, and what it answered.

Pure values. A PlanReport is saved as JSON beside the bundle, so that a plan can be read, compared
and explained later without planning again. Times in seconds, sizes in bytes, accuracy in percentage
points (pp) lost against the model as it came.
"""

import math
from typing import Literal

import msgspec

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec
from edgekit.spec.profile import Precision

Objective = Literal["latency", "throughput", "energy", "balanced"]
Family = Literal["whole", "frames", "pipeline", "farm", "pipeline-farm"]
"""whole: the source runs everything; frames: another device does, and frames cross the link;
pipeline: the model is cut; farm: whole frames are dealt out over devices; pipeline-farm: over
pipelines of disjoint devices."""
Roof = Literal["compute", "memory", "overhead"]
FRAME_CODECS = ("raw", "png", "jpeg", "webp")
QDQ_NAME = "qdq"


class Goal(Spec, frozen=True, kw_only=True):
    """What is wanted, and what must hold. Limits of None are not limits."""

    objective: Objective = "latency"
    max_latency_s: float | None = None
    min_fps: float | None = None
    max_accuracy_drop_pp: float = 0.0
    """0: only plans whose accuracy is that of the model as it came."""
    arrival_fps: float | None = None
    """Frames arrive at random (Poisson) at this rate, and wait where a stage is busy."""
    farms: bool = False
    """Whether frames may be dealt out over pipelines in any way. Off, what no bundle holds is shown
    but not chosen: beside one pipeline, only the source's own copy of the model can take part."""
    lambda1_s_per_pp: float = 0.0
    """The paper's multiplier: seconds that one percentage point of accuracy is worth."""

    def __post_init__(self) -> None:
        for field in ("max_latency_s", "min_fps", "arrival_fps"):
            value = getattr(self, field)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"goal: {field} is {value}", hint="give a positive number")
        for field in ("max_accuracy_drop_pp", "lambda1_s_per_pp"):
            value = getattr(self, field)
            if not 0 <= value < math.inf:
                raise ConfigError(f"goal: {field} is {value}", hint="give 0 or more")


class CodecCost(Spec, frozen=True, kw_only=True):
    """What one way of sending activations costs, measured on calibration data."""

    name: str
    """Such as "fp32", "fp16", "uint8+lz4"; "qdq", "qdq+zstd" for the integers of an int8 shard."""
    bytes_per_element: float
    encode_bytes_per_s: float
    """Raw bytes, four an element, taken in per second on a processor of relative speed 1; infinite
    if nothing is done."""
    decode_bytes_per_s: float
    accuracy_drop_pp: float = 0.0
    """At a cut that is not in ``drop_by_cut``: of a measured codec, the worst of the known ones."""
    by_cut: dict[str, float] = msgspec.field(default_factory=dict)
    """Measured bytes per element of single cuts (comma-joined tensor names) where they differ."""
    drop_by_cut: dict[str, float] = msgspec.field(default_factory=dict)
    """Measured loss of accuracy at single cuts."""

    @property
    def is_integer(self) -> bool:
        """Whether it sends the integers of an int8 shard as they are; others send floats."""
        return self.name.partition("+")[0] == QDQ_NAME

    def drop_at(self, cut: str) -> float:
        """Loss of accuracy at that cut [pp]; no gain counts."""
        return max(0.0, self.drop_by_cut.get(cut, self.accuracy_drop_pp))


RAW_FP32 = CodecCost(
    name="fp32",
    bytes_per_element=4.0,
    encode_bytes_per_s=math.inf,
    decode_bytes_per_s=math.inf,
)
"""Activations as they are: always possible."""
QDQ = CodecCost(
    name=QDQ_NAME,
    bytes_per_element=1.0,
    encode_bytes_per_s=math.inf,
    decode_bytes_per_s=math.inf,
)
"""The integers of an int8 shard: one byte each, and nothing is lost that the shard has not lost."""


class FrameCost(Spec, frozen=True, kw_only=True):
    """What sending the frame itself costs."""

    codec: str
    """One of FRAME_CODECS, with its quality where it has one: "jpeg-90"."""
    nbytes: int
    encode_s: float = 0.0
    """On the machine where it was measured; scaled like everything else by relative speed."""
    decode_s: float = 0.0
    accuracy_drop_pp: float = 0.0


class AccuracyDrop(Spec, frozen=True, kw_only=True):
    """Measured loss of one sub-model under one strategy and precision, the rest as it came."""

    strategy: str
    """As in spec.fusion: "S3", "S3+Ss", ...; "*" for any."""
    precision: Precision
    drop_pp: float
    half_width_pp: float = 0.0
    """Of the 95 % interval."""
    after: str = ""
    """Cut (comma-joined tensor names) that the sub-model begins at; empty: the model's input."""
    until: str = ""
    """Cut that it ends at; empty: the model's output."""


class AccuracyTable(Spec, frozen=True, kw_only=True):
    """dA(strategy, precision, sub-model). fp32 loses nothing, so it needs no rows: every strategy
    computes the same function there, which the builder proves. What is not listed is not known, and
    not chosen."""

    metric: str = ""
    dataset: str = ""
    sample_count: int = 0
    baseline_percent: float = 0.0
    drop: tuple[AccuracyDrop, ...] = ()


class Interval(Spec, frozen=True, kw_only=True):
    """Seconds, between bounds that hold nine times in ten."""

    time_s: float
    low_s: float
    high_s: float
    is_measured: bool = False


class StagePlan(Spec, frozen=True, kw_only=True):
    """One shard on one device."""

    device: str
    strategy: str
    precision: Precision
    first_op: int
    """Position, in the workload of its strategy, of the shard's first operator, and how many."""
    op_count: int
    after: tuple[str, ...]
    """Tensors that enter from the device before; empty for the model's input."""
    until: tuple[str, ...]
    """Tensors that leave for the next device; empty for the model's output."""
    work_flop: int
    traffic_bytes: int
    weight_bytes: int
    memory_bytes: int
    """Predicted peak."""
    time: Interval
    roof: Roof
    """What binds most of its time."""
    energy_j: float | None = None
    accuracy_drop_pp: float = 0.0

    @property
    def runner(self) -> str:
        """The device, with the precision where that is not fp32: "camera", "camera in int8"."""
        return self.device if self.precision == "fp32" else f"{self.device} in {self.precision}"


class HopPlan(Spec, frozen=True, kw_only=True):
    """What crosses between two devices: the frame, activations, or answers."""

    source: str
    target: str
    carries: Literal["frame", "activations", "answers"]
    codec: str
    nbytes: int
    encode_s: float
    transfer_s: float
    """Bytes over bandwidth: the link is busy for this long."""
    delay_s: float
    """Half a round trip, on top."""
    decode_s: float
    accuracy_drop_pp: float = 0.0

    @property
    def latency_s(self) -> float:
        """What it adds to the age of an answer."""
        return self.encode_s + self.transfer_s + self.delay_s + self.decode_s


class Candidate(Spec, frozen=True, kw_only=True):
    """One way to run the model on the fleet, priced."""

    family: Family
    stages: tuple[StagePlan, ...] = ()
    hops: tuple[HopPlan, ...] = ()
    members: tuple["Candidate", ...] = ()
    """Of a farm: what each member does; then ``stages`` and ``hops`` are empty."""
    shares: tuple[float, ...] = ()
    """Of a farm: the share of frames that each member gets."""
    latency: Interval
    """Of one frame, from capture to answer; with waiting if frames arrive at random. Of a farm, the
    mean over frames."""
    interval_s: float
    """Between answers when saturated: the slowest stage or hop."""
    energy_j: float | None = None
    """Per frame; None unless every device that works has a meter's figure."""
    accuracy_drop_pp: float = 0.0
    link_bytes: int = 0

    @property
    def throughput_fps(self) -> float:
        """Answers per second when saturated."""
        return 1.0 / self.interval_s if self.interval_s > 0 else math.inf

    @property
    def devices(self) -> tuple[str, ...]:
        """Those that do any work, in frame order."""
        own = tuple(stage.device for stage in self.stages)
        return own + tuple(name for member in self.members for name in member.devices)

    def shared_by(self, source: str) -> tuple["Candidate", "Candidate"] | None:
        """What ``source`` answers itself, and what becomes of the frames that it sends on: of the
        one kind of farm that a bundle holds. None if this is something else.

        There are two members: the whole model on the source, in fp32, and a pipeline to which
        frames are sent.
        """
        own = [one for one in self.members if one.devices == (source,) and one.family == "whole"]
        others = [one for one in self.members if any(hop.carries == "frame" for hop in one.hops)]
        if len(self.members) != 2 or len(own) != 1 or len(others) != 1:
            return None
        return None if own[0].stages[0].precision != "fp32" else (own[0], others[0])

    def __str__(self) -> str:
        """Such as "camera in int8 [until conv5] -> gateway"; farms join members by " | "."""
        if self.members:
            return " | ".join(str(member) for member in self.members)
        parts = [
            f"{stage.runner} [until {','.join(stage.until)}]" if stage.until else stage.runner
            for stage in self.stages
        ]
        return " -> ".join(parts)


class Refusal(Spec, frozen=True, kw_only=True):
    """Why a candidate, or a whole family, was not chosen."""

    candidate: str
    reason: str


class Binding(Spec, frozen=True, kw_only=True):
    """A limit that no plan keeps, and how near the best one comes."""

    limit: str
    """Field of Goal or of Device, such as "max_latency_s" or "camera.memory"."""
    asked: float
    best: float
    unit: str


class PolicyResult(Spec, frozen=True, kw_only=True):
    """What a baseline planner would do, on the same cost model."""

    policy: str
    candidate: Candidate | None
    note: str = ""
    """Why it has none."""


class PlanReport(Spec, frozen=True, kw_only=True):
    """The answer, and all that was weighed."""

    model: str
    model_sha256: str
    fleet: str
    goal: Goal
    chosen: Candidate | None
    """None if no plan keeps the limits; then ``binding`` says which."""
    pareto: tuple[Candidate, ...] = ()
    """None of them is beaten in latency, interval, energy, accuracy and bytes at once."""
    alternatives: tuple[Candidate, ...] = ()
    """The best of each family by the objective, the chosen one among them."""
    neighbours: tuple[Candidate, ...] = ()
    """Plans like the chosen one, cut a little earlier or later."""
    refusals: tuple[Refusal, ...] = ()
    binding: tuple[Binding, ...] = ()
    policies: tuple[PolicyResult, ...] = ()
    flips: tuple[str, ...] = ()
    """What would change the decision: "above 140 Mbit/s from camera to gateway: frames"."""
    notes: tuple[str, ...] = ()
    """Assumptions: profiles from datasheets, links that the fleet does not name."""
    best_latency_s: float = 0.0
    best_interval_s: float = 0.0
    """The least of any plan within the accuracy limit, to which "balanced" is relative; 0 if there
    is no plan."""
    candidate_count: int = 0
    cut_count: int = 0
    seconds: float = 0.0
    """What planning took."""
