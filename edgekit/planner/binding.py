"""Which limit is to blame when no plan keeps them all, and by how much.

In:  a CostTable, a Goal that nothing meets, and a solver.  Out: Bindings.  Pure.
One limit at a time is dropped: if then a plan exists, that limit binds, and the plan that comes
nearest to it says how near. If no single limit is to blame, each is shown with the best that could
be reached if it were the only one.
"""

from collections.abc import Callable
from dataclasses import replace

import msgspec

from edgekit.planner.cost_table import CostTable
from edgekit.planner.pricing import violations
from edgekit.spec.fleet import Device
from edgekit.spec.planning import Binding, Candidate, Goal

Solver = Callable[[CostTable, Goal], Candidate | None]
_WITHOUT = {"memory": "1e9 GB", "max_params": 0, "max_macs": 0, "max_ms": 0.0}


def binding_limits(table: CostTable, goal: Goal, solve: Solver) -> tuple[Binding, ...]:
    """The limits that bind; ``solve`` gives the best plan that keeps all limits, or None."""
    names = [name for name in ("max_latency_s", "min_fps", "arrival_fps") if getattr(goal, name)]
    found = [_goal_limit(table, goal, name, solve) for name in names]
    found.append(_accuracy(table, goal, solve))
    for device in table.scenario.devices:
        if device.can_run:
            found += [
                _device_limit(table, goal, device, field, solve)
                for field in _WITHOUT
                if _could_bind(table, device, field)
            ]
    blamed = tuple(one for one in found if one is not None)
    if blamed:
        return blamed
    bare = Goal(max_accuracy_drop_pp=goal.max_accuracy_drop_pp)
    alone = [_goal_limit(table, bare, name, solve, asked=getattr(goal, name)) for name in names]
    return tuple(one for one in alone if one is not None)


def _goal_limit(
    table: CostTable, goal: Goal, name: str, solve: Solver, asked: float | None = None
) -> Binding | None:
    objective = "latency" if name == "max_latency_s" else "throughput"
    without = msgspec.structs.replace(goal, objective=objective, lambda1_s_per_pp=0.0)
    without = msgspec.structs.replace(without, **{name: None})
    best = solve(table, without)
    if best is None:
        return None
    is_latency = name == "max_latency_s"
    return Binding(
        limit=name,
        asked=getattr(goal, name) if asked is None else asked,
        best=best.latency.time_s if is_latency else best.throughput_fps,
        unit="s" if is_latency else "frames/s",
    )


def _accuracy(table: CostTable, goal: Goal, solve: Solver) -> Binding | None:
    """A plan that loses more exists, and this is the least that one has to lose."""
    low, high = goal.max_accuracy_drop_pp, 100.0
    best = _within(table, goal, high, solve)
    if best is None or best.accuracy_drop_pp <= low:
        return None
    high = best.accuracy_drop_pp
    while high - low > max(1e-3, 1e-2 * high):
        middle = (low + high) / 2
        if (found := _within(table, goal, middle, solve)) is None:
            low = middle
        else:
            best, high = found, min(middle, found.accuracy_drop_pp)
    return Binding(
        limit="max_accuracy_drop_pp",
        asked=goal.max_accuracy_drop_pp,
        best=best.accuracy_drop_pp,
        unit="pp",
    )


def _within(table: CostTable, goal: Goal, drop_pp: float, solve: Solver) -> Candidate | None:
    return solve(table, msgspec.structs.replace(goal, max_accuracy_drop_pp=drop_pp))


def _could_bind(table: CostTable, device: Device, field: str) -> bool:
    if field != "memory":
        return bool(getattr(device, field))
    return table.memory_could_bind(device.name)


def _device_limit(
    table: CostTable, goal: Goal, device: Device, field: str, solve: Solver
) -> Binding | None:
    fleet = table.scenario.fleet
    freed = msgspec.structs.replace(device, **{field: _WITHOUT[field]})
    devices = tuple(freed if one is device else one for one in fleet.device)
    scenario = replace(table.scenario, fleet=msgspec.structs.replace(fleet, device=devices))
    best = solve(CostTable(scenario, max_cuts=len(table.cuts)), goal)
    if best is None:
        return None
    limit = f"{device.name}.{field}"
    broken = [one for one in violations(table, goal, best) if one.limit == limit]
    return max(broken, key=lambda one: one.best, default=None)
