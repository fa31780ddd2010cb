"""Percentage points that running a shard under a strategy and a precision loses.

In:  an AccuracyTable, and the shares of work of the shards.  Out: a matrix (node, node); infinite
where nothing is known.  Pure.
A row that was measured for just this shard counts in full. Otherwise a row for the whole model
counts by the shard's share of the work, as Algorithm 2 of arXiv 2411.00838 has it. fp32 loses
nothing under any strategy.
"""

import math
from collections.abc import Sequence

import numpy as np

from edgekit.spec.planning import AccuracyDrop, AccuracyTable
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import Array


def drops_pp(
    table: AccuracyTable,
    strategy: str,
    precision: Precision,
    work_flop: Array,
    cut_names: Sequence[str],
) -> Array:
    """Loss of each shard. ``work_flop``: per node, the work above it; ``cut_names``: per cut."""
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
    for after, until in {(row.after, row.until) for row in rows}:
        same = [row for row in rows if (row.after, row.until) == (after, until)]
        loss = _loss(same, strategy)
        if after in begins and until in ends and math.isfinite(loss):
            result[begins[after], ends[until]] = loss
    return result


def _loss(rows: Sequence[AccuracyDrop], strategy: str) -> float:
    """The strategy's own row before the one for any; no gain counts, infinite without a row."""
    for wanted in (strategy, "*"):
        for row in rows:
            if row.strategy == wanted:
                return max(0.0, row.drop_pp)
    return math.inf
