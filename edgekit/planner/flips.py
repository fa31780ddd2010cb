"""What would change the decision: bandwidths and speeds at which another plan wins.

In:  a CostTable, a Goal and the PlanReport made of them.  Out: such as "above 140 Mbit/s from
camera to gateway: gateway, frames as jpeg-90 from camera".  Pure.
Each link and device is made 4 and 32 times faster and slower. Where another plan wins there, the
value from which on it does is found by bisection on a logarithmic scale, to 4 %. What lies beyond
the first change is not looked for. Tables are changed in place of being made again: all times of
one device by one factor, or the links alone.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

from edgekit.planner.cost_table import CostTable
from edgekit.planner.search import weigh
from edgekit.planner.what_if import with_bandwidth
from edgekit.planner.wording import describe
from edgekit.spec.fleet import Link
from edgekit.spec.planning import Candidate, Goal, PlanReport
from edgekit.units import format_count

_PROBES = (2.0, 5.0)
"""Powers of two by which a link or device is changed first."""
_HALVINGS = 6
"""8 ** (1 / 2 ** 6) is 1.033."""
_MOST_KNOBS = 12
Choose = Callable[[CostTable], Candidate | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Knob:
    """Something that could be faster or slower, and how to say at which value."""

    turned: Callable[[float], CostTable]
    words: Callable[[float, bool], str]
    """Of a factor, and whether the change lies above it."""


def find_flips(
    table: CostTable, goal: Goal, report: PlanReport, *, choose: Choose | None = None
) -> tuple[str, ...]:
    """At which bandwidth or speed another plan than ``report.chosen`` wins, link by link.

    ``choose`` finds the best plan of a changed table; the whole search if None.
    """
    if report.chosen is None:
        return ()
    answer = choose or (lambda changed: weigh(changed, goal, with_front=False).chosen)
    flips = []
    for knob in _knobs(table)[:_MOST_KNOBS]:
        for step in (2.0, 0.5):
            found = _first_change(knob, report.chosen, step, answer)
            if found is not None:
                factor, other = found
                flips.append(f"{knob.words(factor, step > 1)}: {other}")
    return tuple(flips)


def _knobs(table: CostTable) -> list[_Knob]:
    links = [_link_knob(table, link) for link in table.scenario.fleet.link]
    # What a limit in milliseconds allows was decided by the times as they are.
    devices = [name for name in table.options if not table.device[name].max_ms]
    return links + [_device_knob(table, name) for name in devices]


def _link_knob(table: CostTable, link: Link) -> _Knob:
    def turned(factor: float) -> CostTable:
        changed = copy.copy(table)
        fleet = with_bandwidth(table.scenario.fleet, link, factor)
        changed.scenario = replace(table.scenario, fleet=fleet)
        return changed

    def words(factor: float, is_above: bool) -> str:
        rate = format_count(link.bandwidth_bytes_per_s * 8 * factor, "bit/s")
        where = f"from {link.source} to {link.target}"
        return f"{'above' if is_above else 'below'} {rate} {where}"

    return _Knob(turned=turned, words=words)


def _device_knob(table: CostTable, name: str) -> _Knob:
    def turned(factor: float) -> CostTable:
        changed = copy.copy(table)
        faster = tuple(replace(one, time_s=one.time_s / factor) for one in table.options[name])
        changed.options = {**table.options, name: faster}
        return changed

    def words(factor: float, is_above: bool) -> str:
        if is_above:
            return f"if {name} were more than {factor:.2g} times as fast"
        return f"if {name} were more than {1 / factor:.2g} times slower"

    return _Knob(turned=turned, words=words)


def _first_change(
    knob: _Knob, chosen: Candidate, step: float, choose: Choose
) -> tuple[float, str] | None:
    """The factor at which another plan first wins, and that plan; None if none does."""
    own, same = _kind(chosen), 1.0
    for power in _PROBES:
        changed = step**power
        winner = choose(knob.turned(changed))
        if winner is None or _kind(winner) != own:
            break
        same = changed
    else:
        return None
    for _ in range(_HALVINGS):
        middle = (same * changed) ** 0.5
        between = choose(knob.turned(middle))
        if between is not None and _kind(between) == own:
            same = middle
        else:
            changed, winner = middle, between
    return changed, describe(winner) if winner is not None else "no plan keeps the limits"


def _kind(candidate: Candidate) -> tuple[object, ...]:
    """Who does what, in which form: a cut that moves along a little makes no other plan."""
    stages = tuple((stage.device, stage.precision) for stage in candidate.stages)
    codecs = tuple(hop.codec for hop in candidate.hops if hop.carries != "answers")
    members = frozenset(_kind(one) for one in candidate.members)
    return (candidate.family, stages, codecs, members)
