"""What may lie on either side of a cut, and what crosses there then.

In:  the precisions of two shards, and a quantized variant.  Out: the sort of a crossing, and which
floats cross as integers.  Pure.
A tensor is rounded by the shard that makes it if the operator that makes it is one of integers, and
for the shard that reads it if an operator that reads it is. So it crosses as integers between two
int8 shards in both cases, and between one of floats and one of integers in one of them each.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.planner.candidates import integer_cuts
from edgekit.planner.geometry import Geometry
from edgekit.planner.scenario import Variant, integers_of
from edgekit.spec.plan import Cut
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import Array
from edgekit.spec.workload import OpCost

FLOATS, BOTH, MADE, WANTED = range(4)
"""Between shards of floats; between two of integers; from integers to floats; the other way."""
SORTS_OF_INTEGERS = (BOTH, MADE, WANTED)
_MARKS = ("QuantizeLinear", "DequantizeLinear")
_SORTS = {
    (False, False): FLOATS, (True, True): BOTH, (True, False): MADE, (False, True): WANTED,
}  # fmt: skip
BEGINS = {True: (BOTH, WANTED), False: (FLOATS, MADE)}
ENDS = {True: (BOTH, MADE), False: (FLOATS, WANTED)}
"""Sorts of crossings at which shards of integers (True) and of floats may begin and end."""


def sort_between(one: Precision, other: Precision) -> int:
    """The sort of crossing from a shard in one precision to a shard in the other."""
    return _SORTS[one == "int8", other == "int8"]


def crossing_integers(variant: Variant, names: Sequence[str]) -> dict[int, frozenset[str]]:
    """Which of the floats ``names`` cross as integers, by sort of crossing."""
    known, made, wanted = variant.workload.tensor, set[str](), set[str]()
    candidates = {name for name in names if integers_of(name) in known}
    back: dict[str, str] = {}
    for op in variant.workload.ops:
        if variant.is_integer(op.name):
            made.update(candidates.intersection(op.outputs))
            wanted.update(back[one] for one in op.inputs if one in back)
        for name in candidates:
            if integers_of(name) in op.inputs:
                back.update(dict.fromkeys(op.outputs, name))
    return {
        FLOATS: frozenset(),
        BOTH: frozenset(made | wanted),
        MADE: frozenset(made),
        WANTED: frozenset(wanted),
    }


def names_crossing(variants: Sequence[Variant], cuts: Sequence[Cut]) -> list[list[tuple[str, ...]]]:
    """Per variant and cut, what crosses; quantized variants that disagree do not have the cut."""
    agreed: dict[int, tuple[str, ...]] = {}
    found = []
    for variant in variants:
        names = [cut.names for cut in cuts]
        if variant.precision == "int8":
            own = integer_cuts(variant, cuts)
            for at, one in enumerate(own):
                if one:
                    agreed.setdefault(at, one)
            names = [one if one == agreed.get(at) else () for at, one in enumerate(own)]
        found.append(names)
    return found


def integers_at(
    quantized: Sequence[tuple[Variant, Sequence[tuple[str, ...]]]], at: int, cut: Cut
) -> Mapping[int, frozenset[str]]:
    """Names of the floats that cross ``cut``, which is number ``at``, as integers, by sort.

    ``quantized``: variants in int8, with what crosses them at each cut.
    """
    for variant, cuts in quantized:
        if cuts[at]:
            return crossing_integers(variant, cut.names)
    return dict.fromkeys((FLOATS, *SORTS_OF_INTEGERS), frozenset())


def integer_shards(variant: Variant, geometry: Geometry) -> Array:
    """Shards that are what their precision says: in int8, at least one operator of integers."""
    if variant.precision != "int8":
        return np.array(True)
    count = geometry.summed([float(_is_integer(variant, op)) for op in variant.workload.ops])
    result: Array = count[None, :] > count[:, None]
    return result


def _is_integer(variant: Variant, op: OpCost) -> bool:
    return variant.is_integer(op.name) and op.op_type not in _MARKS
