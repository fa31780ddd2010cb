"""Strands of a model: stretches from one tensor to another that touch nothing else.

In: a Dag.  Out: strands, disjoint.  Pure.
Once a strand's first tensor exists while its last one is needed below the cut, at least one tensor
of it crosses, wherever the cut runs inside. That lets a search count what is sure to cross early.
"""

from dataclasses import dataclass

from edgekit.planner.dag import Dag, bits

_MAX_REGION_OPS = 8
"""Operators between two neighbouring single tensors of a strand: an activation, a small block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strand:
    """From ``head`` to ``last``, tensor indices; ``tensors`` is a mask and holds both."""

    head: int
    last: int
    tensors: int


def strands_of(dag: Dag) -> tuple[Strand, ...]:
    """Maximal strands of two tensors or more, in the order of their heads."""
    taken, strands = 0, []
    for head in range(len(dag.tensor_names)):
        if taken >> head & 1 or dag.input_mask >> head & 1:
            continue
        last, tensors = head, 1 << head
        while (step := _next_single(dag, last)) is not None and not step[1] & taken:
            last = step[0]
            tensors |= step[1]
        if last != head:
            strands.append(Strand(head=head, last=last, tensors=tensors))
            taken |= tensors
    return tuple(strands)


def _latest(tensors: int) -> int:
    return tensors.bit_length() - 1


def _next_single(dag: Dag, tensor: int) -> tuple[int, int] | None:
    """The nearest tensor through which everything made of ``tensor`` must go, and the mask of what
    lies between (that tensor included); None if there is none close by."""
    if dag.output_mask >> tensor & 1:
        return None
    after = 0
    for reader in bits(dag.readers[tensor]):
        after |= dag.after[reader]
    for count, position in enumerate(bits(after)):
        if count == _MAX_REGION_OPS:
            return None
        region = dag.before[position] & after
        made = read = 0
        for inner in bits(region):
            made |= dag.makes[inner]
            read |= dag.reads[inner]
        if dag.makes[position].bit_count() != 1 or read & ~made & ~(1 << tensor):
            continue
        inside = (made & ~dag.makes[position]) | 1 << tensor
        readers = 0
        for one in bits(inside):
            readers |= dag.readers[one]
        if not readers & ~region and not inside & dag.output_mask:
            return _latest(dag.makes[position]), made
    return None
