"""What a cut changes in what a runtime launches: kernels that part, and copies between layouts.

In:  a Workload, the Habits of a runtime, and closed sets of operators.  Out: per set, the launches
that ending a shard there, and beginning one, adds and takes away.
Pure. The rules live in ``launches``; here each side of the cut is lowered alone and compared with
the whole model. A tensor that arrives plain can keep its readers out of the blocked layout down to
the end of a residual network, so nothing less than the whole side will do.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from edgekit.planner.dag import Dag, bits, union
from edgekit.planner.launches import Habits, Launch, launches_of
from edgekit.spec.workload import Workload

Changes = tuple[tuple[Launch, int], ...]
"""Launches with how many more of them there are, or fewer if negative."""


@dataclass(frozen=True, slots=True)
class Border:
    """What changes on either side of a cut."""

    ending: Changes = ()
    """For the shard above."""
    beginning: Changes = ()
    """For the shard below."""


@lru_cache(maxsize=64)
def whole_launches(workload: Workload, habits: Habits) -> tuple[Launch, ...]:
    """What the whole model launches."""
    return launches_of(workload, range(len(workload.ops)), habits)


@lru_cache(maxsize=64)
def borders_of(workload: Workload, habits: Habits, sets: tuple[int, ...]) -> tuple[Border, ...]:
    """The border below each closed set of operators (bit masks) of ``workload``."""
    dag = Dag(workload)
    whole = whole_launches(workload, habits)
    launching = 0
    for launch in whole:
        launching |= 1 << launch.op
    found = []
    for ops in sets:
        readers = union(dag.readers, dag.crossing(ops)) & ~ops
        if not habits.block and not readers & ~launching:
            # Without a layout of its own, a runtime only merges: here it merged nothing.
            found.append(Border())
        else:
            found.append(_border(dag, habits, ops, whole))
    return tuple(found)


def _border(dag: Dag, habits: Habits, ops: int, whole: Sequence[Launch]) -> Border:
    below = dag.all_ops & ~ops
    return Border(
        ending=_difference(launches_of(dag.workload, tuple(bits(ops)), habits), whole, ops),
        beginning=_difference(launches_of(dag.workload, tuple(bits(below)), habits), whole, below),
    )


def _difference(apart: Iterable[Launch], whole: Iterable[Launch], side: int) -> Changes:
    counts = Counter(apart)
    counts.subtract(launch for launch in whole if side >> launch.op & 1)
    return tuple((launch, count) for launch, count in counts.items() if count)
