"""Percentage points that running a shard under a strategy and a precision loses.

In:  an AccuracyTable, and the shares of work of the shards.  Out: a matrix (node, node); infinite
where nothing is known; and what a plan takes for granted.  Pure.
A row that was measured for just this shard counts in full. Otherwise a row for the whole model
counts by the shard's share of the work, as Algorithm 2 of arXiv 2411.00838 has it; but no shard is
taken to lose less than a measured one within it: else not being measured would be an advantage.
fp32 loses nothing under any strategy.
"""

import math
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from edgekit.planner.scenario import Scenario
from edgekit.spec.accuracy import AccuracyReport, Counting
from edgekit.spec.planning import (
    AccuracyDrop,
    AccuracyTable,
    Candidate,
    FrameCost,
    PlanReport,
    StagePlan,
)
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import Array

_LOSSLESS_FRAMES = ("raw", "png")


def drops_pp(
    table: AccuracyTable,
    strategy: str,
    precision: Precision,
    work_flop: Array,
    cut_names: Sequence[str],
    is_shard: Array,
) -> Array:
    """Loss of each shard. ``work_flop``: per node, the work above it; ``cut_names``: per cut;
    ``is_shard``: (node, node), whether the second lies below the first.
    """
    count = len(work_flop)
    if precision == "fp32":
        return np.zeros((count, count))
    total = max(1.0, float(work_flop[-1]))
    share = (work_flop[None, :] - work_flop[:, None]) / total
    rows = [row for row in table.drop if row.precision == precision]
    whole = _loss([row for row in rows if not row.after and not row.until], strategy)
    with np.errstate(invalid="ignore"):
        result: Array = np.where(share > 0, share * whole, 0.0 if math.isfinite(whole) else whole)
    begins = {"": 0} | {name: node for node, name in enumerate(cut_names, start=1)}
    ends = {"": count - 1} | {name: node for node, name in enumerate(cut_names, start=1)}
    known: dict[tuple[int, int], float] = {}
    for after, until in {(row.after, row.until) for row in rows}:
        same = [row for row in rows if (row.after, row.until) == (after, until)]
        loss = _loss(same, strategy)
        if after in begins and until in ends and math.isfinite(loss):
            known[begins[after], ends[until]] = loss
    reaches = is_shard | np.eye(count, dtype=bool)
    for (begin, end), loss in known.items():
        holds = reaches[:, begin][:, None] & reaches[end][None, :]
        result = np.where(holds, np.maximum(result, loss), result)
    for (begin, end), loss in known.items():
        result[begin, end] = loss
    return result


def _loss(rows: Sequence[AccuracyDrop], strategy: str) -> float:
    """The strategy's own row before the one for any; no gain counts, infinite without a row."""
    for wanted in (strategy, "*"):
        for row in rows:
            if row.strategy == wanted:
                return max(0.0, row.drop_pp)
    return math.inf


def measured_frames(
    known: AccuracyReport, frames: Sequence[FrameCost], counting: Counting = "at-worst"
) -> tuple[FrameCost, ...]:
    """``frames`` with the measured drop of each; lossy ones without are left out, as unknown."""
    found = []
    for frame in frames:
        drop_pp = known.frame_drop_pp(frame.codec, counting)
        if drop_pp is None and frame.codec in _LOSSLESS_FRAMES:
            drop_pp = 0.0
        if drop_pp is not None:
            found.append(msgspec.structs.replace(frame, accuracy_drop_pp=drop_pp))
    return tuple(found)


def accuracy_notes(
    known: AccuracyReport, report: PlanReport, scenario: Scenario, counting: Counting = "at-worst"
) -> tuple[str, ...]:
    """Where the accuracy of the chosen plan comes from, and what of it was not measured itself."""
    notes = [
        f"accuracy: {known.metric} {known.baseline_percent:.1f} % in fp32 on "
        f"{known.evaluation_count} pictures of {known.evaluation}; drops are counted "
        + ("at the upper end of their 95 % intervals" if counting == "at-worst" else "as measured")
    ]
    cuts, shards = set[str](), set[str]()
    if report.chosen is not None:
        for member in report.chosen.members or (report.chosen,):
            cuts |= set(_unmeasured_cuts(member, scenario))
            shards |= {name for one in member.stages for name in _unmeasured(one, scenario)}
    if cuts:
        notes.append(
            "at this cut the codec was not measured, and is taken to lose what it loses at the "
            f"worst of those that were: to be sure, `edgekit accuracy --cut {sorted(cuts)[0]}`"
        )
    if shards:
        notes.append(
            f"{', '.join(sorted(shards))} was not measured as this shard: its share of what the "
            "whole model loses, by work"
        )
    return tuple(notes)


def _unmeasured_cuts(member: Candidate, scenario: Scenario) -> Iterator[str]:
    codecs = {one.name: one for one in scenario.codecs}
    ends = [",".join(stage.until) for stage in member.stages[:-1]]
    crossing = [hop for hop in member.hops if hop.carries == "activations"]
    for cut, hop in zip(ends, crossing, strict=True):
        codec = codecs.get(hop.codec)
        if codec and not codec.is_integer and codec.drop_by_cut and cut not in codec.drop_by_cut:
            yield cut


def _unmeasured(stage: StagePlan, scenario: Scenario) -> Iterator[str]:
    if stage.precision == "fp32":
        return
    ends = (",".join(stage.after), ",".join(stage.until))
    if not any(
        row.precision == stage.precision and (row.after, row.until) == ends
        for row in scenario.accuracy.drop
    ):
        yield f"{stage.precision} on {stage.device}"
