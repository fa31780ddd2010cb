"""Which shards of a model there are, and which of their times cannot be.

In:  the model under each strategy; times.  Out: Cuts, ShardNames.  Pure.
"""

from collections.abc import Sequence

from edgekit.errors import PlanError
from edgekit.planner.cuts import legal_cuts, resolve_cut
from edgekit.planner.dag import Dag
from edgekit.planner.kernel_groups import inner_names
from edgekit.planner.scenario import Variant
from edgekit.spec.plan import Cut
from edgekit.trial.bench import ShardName

_MOST_TENSORS, _MOST_CUTS = 4, 2000
_DOUBT = 1.1
"""How many times as long as a shard that holds it one may take: their borders differ."""
Parts = dict[tuple[str, tuple[str, ...], tuple[str, ...]], float]
"""Seconds by strategy, and the cuts that a shard begins after and ends at."""


def cuts_of(variants: Sequence[Variant], *, is_thorough: bool) -> list[Cut]:
    """Cuts that are legal in every variant. Thorough: more of them than the planner looks at.

    Outside merged kernels every cut of up to four tensors, not thinned; inside, those of one.
    """
    reference = variants[0].workload
    merged = inner_names(Dag(reference))
    most = _MOST_TENSORS if is_thorough else 1
    found = [
        cut
        for cut in legal_cuts(reference, max_tensors=most, max_count=_MOST_CUTS).cuts
        if not merged & set(cut.names) or (is_thorough and len(cut.tensors) == 1)
    ]
    return [cut for cut in found if all(_is_legal(one, cut) for one in variants[1:])]


def _is_legal(variant: Variant, cut: Cut) -> bool:
    try:
        return set(resolve_cut(variant.workload, cut.names).names) == set(cut.names)
    except PlanError:
        return False


def shard_names(
    strategies: Sequence[str], cuts: Sequence[tuple[str, ...]]
) -> tuple[ShardName, ...]:
    """The whole model, and what lies on either side of every cut, under every strategy."""
    sides = [((), ()), *(side for cut in cuts for side in (((), cut), (cut, ())))]
    return tuple(
        ShardName(strategy, after, until) for after, until in sides for strategy in strategies
    )


def doubtful(
    names: Sequence[ShardName], ops: Sequence[frozenset[int]], times_s: Sequence[float]
) -> list[int]:
    """Those that took longer than one of the same strategy that holds all of their operators."""
    parts = {
        (name.strategy, name.after, name.until): time_s
        for name, time_s in zip(names, times_s, strict=True)
    }
    found = []
    for index, (name, own, time_s) in enumerate(zip(names, ops, times_s, strict=True)):
        holding = (
            other_s
            for other, others, other_s in zip(names, ops, times_s, strict=True)
            if other.strategy == name.strategy and own < others
        )
        if time_s > _DOUBT * min(holding, default=time_s):
            found.append(index)
    return found + [at for at, name in enumerate(names) if _is_long(name, times_s[at], parts)]


def _is_long(name: ShardName, time_s: float, parts: Parts) -> bool:
    """Whether it is a whole model that took longer than its two sides at some cut."""
    if name.after or name.until:
        return False
    own = {
        (after, until): part_s for (strategy, after, until), part_s in parts.items()
        if strategy == name.strategy
    }  # fmt: skip
    sums = (part_s + own[until, ()] for (_, until), part_s in own.items() if until)
    return time_s > _DOUBT * min(sums, default=time_s)
