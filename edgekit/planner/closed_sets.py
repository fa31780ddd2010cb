"""Enumerate the closed sets of operators below which few tensors cross.

In: a Dag and a width.  Out: closed sets as bit masks, each with what crosses.  Pure, deterministic.
Depth first, each closed set visited once: a state is a closed set and the operators that its branch
has decided to leave below the cut. Those decisions fix some of what crosses, and a branch in which
that alone is too wide holds no answer.
"""

from typing import NamedTuple

from edgekit.planner.dag import Dag, bits, union
from edgekit.planner.strands import strands_of

_VISITS_PER_SET = 40


class _State(NamedTuple):
    """``ops`` is closed and lies above; ``below`` is decided to lie below; ``ready`` is open.

    A tuple, because the search makes hundreds of thousands.
    """

    ops: int
    available: int
    """Tensors made by ``ops``, and the model inputs."""
    below: int
    needed: int
    """What ``below`` reads, and the model outputs."""
    ready: int
    """Undecided operators that could join ``ops`` next."""


def single_tensor_sets(dag: Dag) -> dict[int, int]:
    """Closed sets below which exactly one tensor crosses; complete, a few mask operations each.

    A tensor crosses alone if all that reads anything below depends on it, and of what exists above
    nothing else is read there.
    """
    found = {}
    reading = sum(1 << position for position, read in enumerate(dag.reads) if read)
    needed_after = dag.gathered_after(dag.reads)
    for tensor, maker in sorted(dag.producer.items()):
        above, readers = dag.before[maker], dag.readers[tensor]
        below = dag.all_ops & ~above
        if not below or below & reading & ~union(dag.after, readers):
            continue
        available = dag.input_mask | dag.made_before[maker]
        if available & (dag.output_mask | union(needed_after, readers)) == 1 << tensor:
            found[above] = 1 << tensor
    return found


def closed_sets(dag: Dag, width: int, max_count: int) -> tuple[dict[int, int], bool]:
    """Closed sets below which at most ``width`` tensors cross, but not the empty and the full one.

    Returns: what crosses, by closed set; and whether the search saw them all before it had found
    ``max_count`` or made forty times as many visits.
    """
    search = _Search(dag, width)
    found: dict[int, int] = {}
    visits_left = _VISITS_PER_SET * max_count
    stack = [search.start()]
    while stack:
        state = stack.pop()
        visits_left -= 1
        if visits_left < 0 or len(found) >= max_count:
            return found, False
        crossing = search.crossing(state)
        if state.ops and state.ops != dag.all_ops and crossing.bit_count() <= width:
            found[state.ops] = crossing
        stack += search.successors(state)
    return found, True


class _Search:
    """Moves between states of one Dag.

    Every strand adds one virtual tensor, made with the strand's first tensor and read by whoever
    reads its last one: it crosses exactly where the strand is sure to.
    """

    def __init__(self, dag: Dag, width: int) -> None:
        self._dag, self._width = dag, width
        self._makes, self._reads = list(dag.makes), list(dag.reads)
        self._real = (1 << len(dag.tensor_names)) - 1
        self._counted, self._outputs = self._real, dag.output_mask
        for index, strand in enumerate(strands_of(dag)):
            virtual = 1 << len(dag.tensor_names) + index
            self._counted = self._counted & ~strand.tensors | virtual
            self._makes[dag.producer[strand.head]] |= virtual
            for reader in bits(dag.readers[strand.last]):
                self._reads[reader] |= virtual
            if dag.output_mask >> strand.last & 1:
                self._outputs |= virtual
        self._needed_after = dag.gathered_after(self._reads)
        """Per operator, what it and all that depends on it read."""
        self._after = dag.after
        self._followers = [tuple(bits(followers)) for followers in dag.followers]
        """Per operator, those that read what it makes."""

    def start(self) -> _State:
        """Nothing above, nothing decided."""
        available = self._dag.input_mask
        ready = 0
        for position, read in enumerate(self._reads):
            if not read & ~available:
                ready |= 1 << position
        return _State(0, available, 0, self._outputs, ready)

    def crossing(self, state: _State) -> int:
        """What crosses if everything undecided stays below."""
        needed = state.needed | union(self._needed_after, state.ready)
        return state.available & needed & self._real

    def successors(self, state: _State) -> list[_State]:
        """One state per operator that may join next; each leaves the earlier ones below."""
        states = []
        ops, available, below, needed, ready = state
        for position in bits(ready):
            grown = available | self._makes[position]
            ready &= ~(1 << position)
            if not self._is_too_wide(grown, needed):
                more_ops = ops | 1 << position
                opened = self._opened(position, more_ops | below, grown)
                states.append(_State(more_ops, grown, below, needed, ready & ~below | opened))
            below |= self._after[position]
            needed |= self._needed_after[position]
            if self._is_too_wide(available, needed):
                break
        return states

    def _opened(self, position: int, decided: int, available: int) -> int:
        """Operators that can join now that ``position`` has, as a mask."""
        mask = 0
        for later in self._followers[position]:
            if not decided >> later & 1 and not self._reads[later] & ~available:
                mask |= 1 << later
        return mask

    def _is_too_wide(self, available: int, needed: int) -> bool:
        """Whether more tensors cross than allowed, however the rest is decided."""
        certain = available & needed
        if (certain & self._real).bit_count() > self._width:
            return True
        return (certain & self._counted).bit_count() > self._width
