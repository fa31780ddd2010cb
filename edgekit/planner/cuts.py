"""Legal cuts of a model: all of them, or the one that somebody named.

In: a Workload.  Out: Cuts.  Pure and deterministic.
A cut is legal if the operators above it form a closed set; what crosses is then everything that is
still needed, also model outputs already made and model inputs read later. Since every operator
leads to a model output, a closed set is exactly what its crossing tensors depend on, so the names
of a cut's tensors say it all, and no two cuts have the same tensors.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.errors import PlanError
from edgekit.planner.closed_sets import closed_sets, single_tensor_sets
from edgekit.planner.dag import Dag, bits
from edgekit.spec.plan import Cut
from edgekit.spec.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSet:
    """Legal cuts, ordered by how many operators lie above, then by name."""

    cuts: tuple[Cut, ...]
    max_tensors: int
    """Cuts of more tensors were not looked for."""
    complete_to: int
    """Every cut of up to this many tensors is here; below ``max_tensors`` if a bound was hit."""

    @property
    def is_complete(self) -> bool:
        """Whether no bound was hit."""
        return self.complete_to == self.max_tensors

    @property
    def single_count(self) -> int:
        """Cuts that one tensor crosses."""
        return sum(len(cut.tensors) == 1 for cut in self.cuts)


def legal_cuts(workload: Workload, *, max_tensors: int = 4, max_count: int = 20000) -> CutSet:
    """Every cut that at most ``max_tensors`` tensors cross, up to ``max_count`` cuts.

    Narrow cuts are found first: if a bound stops the search, ``complete_to`` says up to which
    number of tensors nothing is missing. Single-tensor cuts are always complete.
    """
    if max_tensors < 1 or max_count < 1:
        raise PlanError(
            f"no cut has {max_tensors} tensors within {max_count} cuts", hint="give at least 1"
        )
    dag = Dag(workload)
    found = single_tensor_sets(dag)
    complete_to = 1
    for limit in range(2, max_tensors + 1):
        wider, finished = closed_sets(dag, limit, max_count)
        if not finished:
            room = max(0, max_count - len(found))
            fresh = [ops for ops in wider if ops not in found][:room]
            found |= {ops: wider[ops] for ops in fresh}
            break
        found |= wider
        complete_to = limit
    cuts = sorted(
        (dag.cut(ops, crossing) for ops, crossing in found.items()),
        key=lambda cut: (cut.op_count_before, cut.names),
    )
    return CutSet(cuts=tuple(cuts), max_tensors=max_tensors, complete_to=complete_to)


def names_in(workload: Workload, text: str) -> tuple[str, ...]:
    """Tensor names in ``TENSOR[,TENSOR]``; a text that is itself a tensor's name is that one."""
    if text in workload.tensor:
        return (text,)
    return tuple(name.strip() for name in text.split(",") if name.strip())


def resolve_cut(workload: Workload, names: Sequence[str]) -> Cut:
    """The cut that exactly the tensors ``names`` cross.

    Raises: PlanError saying which tensor does not exist (and what is called alike), is a weight, or
    is missing from the cut, with the corrected ``--cut``.
    """
    dag = Dag(workload)
    if not names:
        raise PlanError("a cut needs at least one tensor", hint="see `edgekit inspect MODEL`")
    for name in names:
        if name not in dag.tensor_index:
            raise _unknown(name, dag)
    asked = dag.mask_of(list(names))
    ops = dag.closure(asked)
    crossing = dag.crossing(ops)
    if not ops:
        raise PlanError(
            f"the cut {','.join(names)} leaves the first shard without work",
            hint="name a tensor that an operator makes, see `edgekit inspect MODEL`",
        )
    if ops == dag.all_ops:
        raise PlanError(
            f"the cut {','.join(names)} leaves the last shard without work",
            hint="name a tensor before the last operator, see `edgekit inspect MODEL`",
        )
    if crossing != asked:
        raise _not_closed(dag, asked, crossing)
    return dag.cut(ops, crossing)


def _unknown(name: str, dag: Dag) -> PlanError:
    close = difflib.get_close_matches(name, dag.tensor_names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else ""
    return PlanError(
        f"there is no activation {name!r} to cut at (weights and constants cannot cross)",
        hint=hint or "list the cuts with `edgekit inspect MODEL`",
    )


def _not_closed(dag: Dag, asked: int, crossing: int) -> PlanError:
    also = dag.names_of(crossing & ~asked)
    idle = dag.names_of(asked & ~crossing)
    asked_text = ",".join(dag.names_of(asked))
    reasons = []
    if also:
        reasons.append(f"{', '.join(also)} must cross too")
    if idle:
        reasons.append(f"nothing after the cut needs {', '.join(idle)}")
    return PlanError(
        f"the cut {asked_text} is not legal: {' and '.join(reasons)}",
        hint=f"--cut {','.join(dag.names_of(crossing))}",
    )


def partition(workload: Workload, cuts: Sequence[Cut]) -> tuple[tuple[int, ...], ...]:
    """Operator indices of each shard, in workload order; one shard more than ``cuts``.

    Raises: PlanError unless each cut lies wholly below the one before it.
    """
    dag = Dag(workload)
    above, shards = 0, []
    for index, cut in enumerate(cuts):
        below = dag.ops_before(cut)
        if above & ~below:
            raise PlanError(
                f"cut {cut} does not lie below cut {cuts[index - 1]}",
                hint="give the cuts from the first device to the last, each further down the model",
            )
        if above == below or below == dag.all_ops:
            raise PlanError(
                f"cut {cut} leaves a shard without work", hint="give each border another cut"
            )
        shards.append(tuple(bits(below & ~above)))
        above = below
    return (*shards, tuple(bits(dag.all_ops & ~above)))
