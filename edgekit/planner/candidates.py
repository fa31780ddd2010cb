"""Which cuts are worth pricing: legal in every variant in floats, outside merged kernels, bounded.

In:  the variants of a model and a bound.  Out: Cuts in order, and what was left out.
Pure and deterministic. If there are more than the bound, cuts with about the same work above them
compete, and the one of fewest bytes stays.
"""

from collections.abc import Sequence
from functools import lru_cache

from edgekit.planner.cuts import legal_cuts
from edgekit.planner.dag import Dag
from edgekit.planner.kernel_groups import inner_names
from edgekit.planner.scenario import Variant
from edgekit.spec.plan import Cut
from edgekit.spec.workload import Workload

_MAX_SEARCHED = 2000
_MANY_OPS = 200
"""Of models with more operators, only cuts of up to three tensors, else four."""


def candidate_cuts(variants: Sequence[Variant], max_cuts: int) -> tuple[tuple[Cut, ...], list[str]]:
    """At most ``max_cuts`` cuts, by operators above and then by name; and notes on what is missing.

    Cuts inside a kernel that runtimes merge are used only where there are no others.
    """
    reference = variants[0].workload
    outside, inside, is_complete = _searched(reference)
    notes = []
    if not is_complete:
        notes.append(
            f"cuts of several tensors: the search stopped after {len(outside) + len(inside)}"
        )
    others = [Dag(one.workload) for one in variants[1:] if one.precision == "fp32"]
    found = [cut for cut in outside or inside if all(_is_legal(dag, cut.names) for dag in others)]
    if len(found) > max_cuts:
        notes.append(
            f"{len(found)} cuts thinned to {max_cuts}: of those with about the same work above "
            "them, the one of fewest bytes"
        )
        found = _thinned(found, max_cuts, reference.work_flop)
    return tuple(found), notes


@lru_cache(maxsize=16)
def _searched(workload: Workload) -> tuple[tuple[Cut, ...], tuple[Cut, ...], bool]:
    """Cuts outside and inside merged kernels, and whether those are all that were looked for."""
    width = 3 if len(workload.ops) > _MANY_OPS else 4
    found = legal_cuts(workload, max_tensors=width, max_count=_MAX_SEARCHED)
    merged = inner_names(Dag(workload))
    outside = tuple(cut for cut in found.cuts if not merged & set(cut.names))
    inside = tuple(cut for cut in found.cuts if merged & set(cut.names))
    return outside, inside, found.is_complete


def integer_cuts(variant: Variant, cuts: Sequence[Cut]) -> list[tuple[str, ...]]:
    """What crosses a quantized variant at each of ``cuts``; no names where it cannot be cut so."""
    dag, found = Dag(variant.workload), []
    for cut in cuts:
        names = variant.crossing(cut.names)
        found.append(names if _is_legal(dag, names) else ())
    return found


def _is_legal(dag: Dag, names: Sequence[str]) -> bool:
    if any(name not in dag.tensor_index for name in names):
        return False
    tensors = dag.mask_of(list(names))
    ops = dag.closure(tensors)
    return ops not in (0, dag.all_ops) and dag.crossing(ops) == tensors


def _thinned(cuts: Sequence[Cut], max_cuts: int, work_flop: int) -> list[Cut]:
    """One cut per bucket of work; the finest buckets of which at most ``max_cuts`` hold a cut."""
    kept: dict[int, Cut] = {}
    bucket_count = max_cuts
    while True:
        cheapest: dict[int, Cut] = {}
        for cut in cuts:
            bucket = cut.work_flop_before * bucket_count // max(1, work_flop + 1)
            if bucket not in cheapest or cut.nbytes < cheapest[bucket].nbytes:
                cheapest[bucket] = cut
        if kept and len(cheapest) > max_cuts:
            return list(kept.values())
        kept = cheapest
        if bucket_count > work_flop:
            return list(kept.values())
        bucket_count *= 2
