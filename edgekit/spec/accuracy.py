"""How much accuracy sub-models, codecs and frame codecs lose, as ``edgekit accuracy`` measured it.

Pure values, saved as TOML beside a model. ``edgekit plan --accuracy`` reads what the planner needs:
an AccuracyTable, CodecCosts, and the drops of frame codecs. Accuracy in percentage points (pp) lost
against the model as it came, each with its 95 % interval; times in seconds on the machine named.
"""

import math
from collections.abc import Sequence
from typing import Literal

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec
from edgekit.spec.planning import (
    QDQ_NAME,
    RAW_FP32,
    AccuracyDrop,
    AccuracyTable,
    CodecCost,
)
from edgekit.spec.profile import Precision

Counting = Literal["at-worst", "as-measured"]
"""at-worst: a drop counts as the upper end of its interval. A planner weighs dozens of options, and
the best of dozens of noisy figures is mostly lucky: as measured, they promise too much."""
_HINT = "measure it again with `edgekit accuracy`"


class Loss(Spec, frozen=True, kw_only=True):
    """A measured drop and its 95 % interval, which holds it."""

    drop_pp: float
    low_pp: float
    high_pp: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.drop_pp, self.low_pp, self.high_pp))):
            raise ConfigError(f"an accuracy drop of {self.drop_pp} pp", hint=_HINT)

    @property
    def half_width_pp(self) -> float:
        """The longer side of the interval."""
        return max(self.high_pp - self.drop_pp, self.drop_pp - self.low_pp, 0.0)

    def counted_pp(self, counting: Counting) -> float:
        """What a plan is charged; no gain counts."""
        return max(0.0, self.high_pp if counting == "at-worst" else self.drop_pp)


class ShardLoss(Loss, frozen=True, kw_only=True):
    """Of one sub-model under one strategy and precision, the rest as it came."""

    strategy: str
    precision: Precision
    after: str = ""
    """Cut (comma-joined tensor names) that the sub-model begins at; empty: the model's input."""
    until: str = ""
    """Cut that it ends at; empty: the model's output."""
    work_share: float
    """Of the model's work, 0 to 1."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells rows apart."""
        return (self.strategy, self.precision, self.after, self.until)


class CodecLoss(Loss, frozen=True, kw_only=True):
    """Of one codec at one cut, and what it costs there a frame."""

    codec: str
    cut: str
    element_count: int
    """Numbers that the codec rewrites; 0 where no integers cross, for those of int8."""
    wire_bytes: float
    encode_s: float
    decode_s: float


class FrameLoss(Loss, frozen=True, kw_only=True):
    """Of the whole model on frames that were coded and decoded."""

    codec: str


class FloatOperators(Spec, frozen=True, kw_only=True):
    """What of the model stays in float in int8, under one strategy."""

    strategy: str
    calibrator: str
    operators: tuple[str, ...]


class AccuracyReport(Spec, frozen=True, kw_only=True):
    """All that was measured of one model, on which data, and where."""

    model: str
    model_sha256: str
    metric: str
    baseline_percent: float
    """Of the model as it came."""
    evaluation: str
    """As given: boxes:DIR or classes:PATH."""
    evaluation_count: int
    evaluation_sha256: str
    calibration: str
    """As given: images:DIR, file:clip.mp4, scene:yard."""
    calibration_count: int
    calibration_sha256: str
    target: str
    """Name of the recipe that int8 follows."""
    machine: str
    versions: dict[str, str]
    shard: tuple[ShardLoss, ...] = ()
    codec: tuple[CodecLoss, ...] = ()
    frame: tuple[FrameLoss, ...] = ()
    in_float: tuple[FloatOperators, ...] = ()

    @property
    def made_of(self) -> tuple[object, ...]:
        """Rows of two reports with this in common may stand in one."""
        return (
            self.model_sha256, self.metric, self.evaluation_sha256, self.calibration_sha256,
            self.target,
        )  # fmt: skip

    def table(self, counting: Counting = "at-worst") -> AccuracyTable:
        """What shards lose, as the planner reads it."""
        return AccuracyTable(
            metric=self.metric,
            dataset=self.evaluation,
            sample_count=self.evaluation_count,
            baseline_percent=self.baseline_percent,
            drop=tuple(
                AccuracyDrop(
                    strategy=one.strategy,
                    precision=one.precision,
                    drop_pp=one.counted_pp(counting),
                    half_width_pp=one.half_width_pp,
                    after=one.after,
                    until=one.until,
                )
                for one in self.shard
            ),
        )

    def codecs(self, counting: Counting = "at-worst") -> tuple[CodecCost, ...]:
        """Raw activations, and every codec that was measured: at other cuts than those that were,
        it is taken to lose what it loses at the worst of them.
        """
        names = dict.fromkeys(one.codec for one in self.codec if one.element_count)
        return (RAW_FP32, *(self._cost(name, counting) for name in names))

    def _cost(self, name: str, counting: Counting) -> CodecCost:
        rows = [one for one in self.codec if one.codec == name and one.element_count]
        return CodecCost(
            name=name,
            bytes_per_element=sum(one.wire_bytes for one in rows)
            / sum(one.element_count for one in rows),
            encode_bytes_per_s=_rate(rows, [one.encode_s for one in rows]),
            decode_bytes_per_s=_rate(rows, [one.decode_s for one in rows]),
            accuracy_drop_pp=max(one.counted_pp(counting) for one in rows),
            by_cut={one.cut: one.wire_bytes / one.element_count for one in rows},
            drop_by_cut={one.cut: one.counted_pp(counting) for one in rows},
        )

    def frame_drop_pp(self, codec: str, counting: Counting = "at-worst") -> float | None:
        """What frames in that codec lose; None if it was not measured."""
        for one in self.frame:
            if one.codec == codec:
                return one.counted_pp(counting)
        return None


def _rate(rows: Sequence[CodecLoss], times_s: Sequence[float]) -> float:
    """Bytes per second, four an element; infinite for what is not coded at all."""
    if rows[0].codec == QDQ_NAME:
        return math.inf
    return 4.0 * sum(one.element_count for one in rows) / max(sum(times_s), 1e-9)
