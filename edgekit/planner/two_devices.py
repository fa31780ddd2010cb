"""What planners for two devices look at, and how their decisions are priced.

In:  a CostTable.  Out: pair of devices, cuts, roofs and link of a policy; Candidates.  Pure.
"""

import contextlib
from collections.abc import Iterable, Sequence

import numpy as np

from edgekit.errors import PlanError
from edgekit.planner.cost_table import CostTable
from edgekit.planner.paper_algorithms import Curve, curve_of
from edgekit.planner.pricing import Step, price_pipeline, violations
from edgekit.spec.planning import RAW_FP32, Candidate, Goal

Decision = tuple[Sequence[Step], str | None]
"""The steps of a pipeline, and how the frame is sent if it travels (None: as it is cheapest)."""


def by_strength(table: CostTable) -> list[str]:
    """Devices that frames reach, in order of the time that they take for the whole model.

    Raises: PlanError if there is none.
    """
    times_s = {}
    for device in table.scenario.devices:
        if device.can_run:
            with contextlib.suppress(PlanError):
                whole = price_pipeline(table, Goal(), [whole_step(table, device.name)])
                times_s[device.name] = whole.stages[0].time.time_s
    if not times_s:
        raise PlanError("no device can run the model", hint="see why each one is refused")
    return sorted(times_s, key=lambda name: times_s[name])


def pair_of(table: CostTable) -> tuple[str, str]:
    """Where frames begin (else the second strongest device), and the strongest other device.

    Raises: PlanError where fewer than two devices can run the model.
    """
    ordered = by_strength(table)
    if len(ordered) < 2:
        raise PlanError("fewer than two devices can run the model", hint="add a device")
    source = table.scenario.fleet.source_name
    if source in ordered:
        return source, next(name for name in ordered if name != source)
    return ordered[1], ordered[0]


def single_cuts(table: CostTable) -> list[int]:
    """Indices of the cuts that one tensor crosses. Raises: PlanError if the model has none."""
    found = [index for index, cut in enumerate(table.cuts) if len(cut.tensors) == 1]
    if not found:
        raise PlanError("no single tensor cuts this model in two", hint="use one device")
    return found


def curves(table: CostTable) -> dict[str, Curve]:
    """What lies above each single-tensor cut, by strategy; the reference is the first."""
    cuts = [table.cuts[index] for index in single_cuts(table)]
    return {one.strategy: curve_of(one.workload, cuts) for one in table.scenario.variants}


def reference_curve(table: CostTable) -> Curve:
    """What lies above each single-tensor cut of the model folded whole."""
    cuts = [table.cuts[index] for index in single_cuts(table)]
    return curve_of(table.scenario.reference, cuts)


def middle_cut(table: CostTable) -> int:
    """Index of the single-tensor cut nearest to half of the work; of equals, the thinnest."""
    curve = reference_curve(table)
    ranked = zip(np.abs(curve.work - 0.5), curve.nbytes, single_cuts(table), strict=True)
    return min(ranked)[2]


def whole_step(table: CostTable, device: str, strategy: str = "") -> Step:
    """All that is left of the model on one device, in fp32; folded whole unless it says more."""
    chosen = strategy or table.scenario.variants[0].strategy
    return Step(device=device, until=None, strategy=chosen, precision="fp32")


def split_steps(
    table: CostTable,
    pair: tuple[str, str],
    cut: int | None,
    strategies: tuple[str, str] = ("", ""),
) -> list[Step]:
    """The first device down to the cut, raw activations, the second; or the second one alone."""
    below = whole_step(table, pair[1], strategies[1])
    if cut is None:
        return [below]
    chosen = strategies[0] or table.scenario.variants[0].strategy
    raw = RAW_FP32.name
    return [Step(device=pair[0], until=cut, strategy=chosen, precision="fp32", codec=raw), below]


def fastest(table: CostTable, goal: Goal, decisions: Iterable[Decision]) -> Candidate:
    """The one of least latency on an idle fleet; those that break a limit of the goal come last.

    Raises: PlanError of the last decision if none can be carried out.
    """
    idle = Goal(max_accuracy_drop_pp=goal.max_accuracy_drop_pp)
    best: tuple[tuple[bool, float], Decision] | None = None
    refusal = PlanError("there is nothing to choose from", hint="add a device")
    for steps, frame_codec in decisions:
        try:
            one = price_pipeline(table, idle, steps, frame_codec=frame_codec)
        except PlanError as error:
            refusal = error
            continue
        rank = (bool(violations(table, goal, one)), one.latency.time_s)
        if best is None or rank < best[0]:
            best = rank, (steps, frame_codec)
    if best is None:
        raise refusal
    steps, frame_codec = best[1]
    return price_pipeline(table, goal, steps, frame_codec=frame_codec)


def roofs(table: CostTable, device: str) -> tuple[float, float]:
    """Compute ceiling in fp32 [flop/s] and memory ceiling [byte/s].

    Raises: PlanError if the profile has no such ceiling.
    """
    profile = table.scenario.profiles[device]
    provider = {one.name: one.provider for one in table.scenario.devices}[device]
    roof = profile.roof("fp32", provider)
    if roof is None:
        raise PlanError(f"{device} has no fp32 ceiling of {provider}", hint="profile it again")
    return roof.flop_per_s, profile.memory_bytes_per_s


def link_bytes_per_s(table: CostTable, pair: tuple[str, str]) -> float:
    """Bandwidth from the first device to the second. Raises: PlanError if nothing joins them."""
    wire = table.scenario.wire(*pair)
    if wire is None:
        raise PlanError(f"no link joins {pair[0]} and {pair[1]}", hint="add it to the fleet file")
    return wire.bytes_per_s


def fp32_drop_pp(table: CostTable, strategy: str) -> float:
    """dA of a sub-model under ``strategy``; fp32 loses nothing unless somebody measured it."""
    rows = table.scenario.accuracy.drop
    return max(
        (
            row.drop_pp
            for row in rows
            if row.precision == "fp32" and row.strategy in (strategy, "*")
        ),
        default=0.0,
    )
