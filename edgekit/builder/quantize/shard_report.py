"""What lowering a model's shards came to: the numbers behind every choice, to be read later.

Pure values; they travel in the bundle as report.json.
"""

from typing import Literal

from edgekit.builder.quantize.loss import TensorLoss
from edgekit.builder.quantize.operators import FloatOperator
from edgekit.builder.quantize.score import AccuracyDrop
from edgekit.spec.base import Spec
from edgekit.spec.profile import Precision

Wanted = Literal["fp32", "fp16", "int8", "auto"]
"""auto: the fastest that is faster than fp32 beyond the error band, and accurate enough."""


class ShardTimes(Spec, frozen=True, kw_only=True):
    """Seconds of one frame on the target; None where that is not known."""

    how: Literal["measured", "predicted", "unknown"]
    fp32_s: float | None = None
    fp16_s: float | None = None
    int8_s: float | None = None
    is_int8_faster: bool = False
    """Beyond the noise of the measurement, or the intervals of the predictions."""
    is_fp16_faster: bool = False
    is_int8_faster_than_fp16: bool = True

    def of(self, precision: Precision) -> float | None:
        """Seconds in ``precision``."""
        return {"fp32": self.fp32_s, "fp16": self.fp16_s, "int8": self.int8_s}[precision]

    def speed_up(self, precision: Precision) -> float | None:
        """How many times faster than fp32."""
        own_s = self.of(precision)
        return self.fp32_s / own_s if self.fp32_s and own_s else None


class ShardReport(Spec, frozen=True, kw_only=True):
    """One shard: what it became, and what that costs and saves."""

    device: str
    wanted: Wanted
    precision: Precision
    reasons: tuple[str, ...]
    target: str
    """The recipe of its integers."""
    times: ShardTimes
    drop_alone: AccuracyDrop | None = None
    """Of the model with this shard alone lowered; None if it is fp32 or nothing was scored."""
    calibrator: str = ""
    bias_corrected: bool = False
    fidelity_db: float | None = None
    """Signal to noise of what the head reads, or of the shard's last integers."""
    integer_count: int = 0
    """Operators that became integers."""
    float_operators: tuple[FloatOperator, ...] = ()
    fp32_bytes: int = 0
    """Of the shard's file."""
    bytes: int = 0
    fp32_memory_bytes: int | None = None
    """Most that a session of the shard takes, in a process of its own; None if not measured."""
    memory_bytes: int | None = None

    @property
    def speed_up(self) -> float | None:
        """How many times faster than fp32 the shard is as it was made."""
        return self.times.speed_up(self.precision)


class LoweringReport(Spec, frozen=True, kw_only=True):
    """All shards together."""

    shards: tuple[ShardReport, ...]
    codecs: tuple[str, ...]
    """What each cut's tensors are written as."""
    drop: AccuracyDrop | None
    """Of the whole chain, codecs included."""
    max_drop_pp: float
    fidelity_db: dict[str, float]
    """Of each output against the float model, codecs included; on calibration frames."""
    noise: float
    """Of the shards without codecs against the float model, on random inputs and on calibration
    frames: root of the energy of errors over that of values, of the worst output."""
    losses: tuple[TensorLoss, ...]
    """Of every rounded tensor, worst first."""
    calibration: str = ""
    """The source, and how many frames of it."""
    notes: tuple[str, ...] = ()
    outputs_compared: int = 0
    """Of the chain of shards against the lowered model in one piece."""
    bit_equal: int = 0
