"""Answer how a model should run on a fleet.

In:  a Scenario and a Goal.  Out: a PlanReport: the best plan, the trade-off, and what was refused.
Pure, exact and repeatable. Pipelines of any cuts over any devices in any order come from
``engine``; frames dealt out over them from ``farms``; single devices are always priced.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.errors import PlanError
from edgekit.planner.binding import binding_limits
from edgekit.planner.cost_table import CostTable
from edgekit.planner.engine import Engine, Value
from edgekit.planner.families import neighbours_of, refusal, single_devices
from edgekit.planner.farms import all_farms
from edgekit.planner.pareto import pareto_front
from edgekit.planner.pricing import Bests, balanced, objective_value, violations
from edgekit.planner.scenario import Scenario
from edgekit.spec.planning import Candidate, Goal, PlanReport, Refusal

_FRONT_STEPS = 5e9
"""Elementary steps that the trade-off may take."""
_LEAST_RUNS = 2
_SOME_FARMS = (
    "farms: only those of the largest sums of rates and of the quickest devices were priced"
)
_NOT_ASKED = (
    "agents deal frames out between the source itself and one pipeline only (--farms plans it all "
    "the same)"
)
_SAME = 1e-9


def plan(scenario: Scenario, goal: Goal, *, max_cuts: int | None = None) -> PlanReport:
    """The best plan by ``goal``, with everything that was weighed; no policies and no flips.

    ``chosen`` is None if no plan keeps the limits, and then ``binding`` says which ones bind.
    ``seconds`` is left to the caller, who has a clock.
    Raises: PlanError if the question makes no sense, or is too large to answer exactly.
    """
    return plan_with(CostTable(scenario, max_cuts=max_cuts), goal)


def plan_with(table: CostTable, goal: Goal) -> PlanReport:
    """As ``plan``, on a table that is already made."""
    _refuse_nonsense(table, goal)
    weighed = weigh(table, goal)
    chosen = weighed.chosen
    scenario = table.scenario
    return PlanReport(
        model=scenario.model,
        model_sha256=scenario.model_sha256,
        fleet=scenario.fleet.name,
        goal=goal,
        chosen=chosen,
        pareto=pareto_front([one for one in weighed.all if _is_finite(one)]),
        alternatives=tuple(one for one in weighed.families if _is_finite(one)),
        neighbours=tuple(neighbours_of(table, goal, chosen)) if chosen else (),
        refusals=weighed.refusals,
        binding=() if chosen else binding_limits(table, goal, _limited_best),
        notes=(*table.notes, *weighed.notes),
        candidate_count=weighed.count,
        cut_count=len(table.cuts),
        best_latency_s=_or_zero(weighed.bests.latency_s),
        best_interval_s=_or_zero(weighed.bests.interval_s),
    )


@dataclass(frozen=True, slots=True)
class Weighed:
    """All that was found for one goal."""

    chosen: Candidate | None
    families: list[Candidate]
    """Single devices, and the best of each other family."""
    all: list[Candidate]
    refusals: tuple[Refusal, ...]
    bests: Bests
    notes: tuple[str, ...]
    count: int


def weigh(table: CostTable, goal: Goal, *, with_front: bool = True) -> Weighed:
    """Search all families."""
    engine = Engine(table, goal)
    farms, is_every_farm = all_farms(engine)
    extremes = _extremes(engine)
    source = table.scenario.fleet.source_name

    def may_be(some: Sequence[Candidate]) -> list[Candidate]:
        return [one for one in some if goal.farms or not one.members or one.shared_by(source)]

    bests = _bests([*extremes, *may_be(farms)])

    def rank(one: Candidate) -> tuple[float, ...]:
        return (len(violations(table, goal, one)), *_order(goal, one, bests))

    singles, refused = single_devices(table, goal, rank)
    found = [
        _best_pipeline(engine, bests),
        _best_pipeline(Engine(table, goal, least_devices=2), bests),
    ]
    front, is_whole = _front(engine) if with_front else ([], True)
    paths = [*(one for one in found if one), *extremes, *front]
    families = list(singles)
    for name in ("pipeline", "farm", "pipeline-farm"):
        same = [one for one in (*paths, *farms) if one.family == name]
        possible = may_be(same)
        families += [min(some, key=rank) for some in (possible, same) if some]
    families = list(dict.fromkeys(families))
    everything = [*families, *paths, *farms]
    chosen = min(may_be(everything), key=rank, default=None)
    if chosen is not None and violations(table, goal, chosen):
        chosen = None
    others = [one for one in families if chosen is None or one != chosen]
    possible = may_be(others)
    refused += [
        refusal(table, goal, one, _why(goal, one, chosen, bests, is_possible=one in possible))
        for one in others
    ]
    notes = [] if is_every_farm else [_SOME_FARMS]
    notes += [] if is_whole else ["the trade-off has too many points: only a part is shown"]
    return Weighed(
        chosen=chosen,
        families=sorted(families, key=rank),
        all=may_be(everything),
        refusals=tuple(refused),
        bests=bests,
        notes=tuple(notes),
        count=len(everything),
    )


def best_pipeline(table: CostTable, goal: Goal, bests: Bests | None = None) -> Candidate | None:
    """The best single device or pipeline alone, without farms; None if none keeps the limits.

    ``bests``: what "balanced" is relative to; by default, to the best pipelines.
    """
    engine = Engine(table, goal)
    found = _best_pipeline(engine, bests or _bests(_extremes(engine)))
    return found if found and not violations(table, goal, found) else None


def _best_pipeline(engine: Engine, bests: Bests) -> Candidate | None:
    goal = engine.goal
    cap_s = math.inf if goal.min_fps is None else 1.0 / goal.min_fps
    if goal.objective == "energy":
        limit_s = goal.max_latency_s or math.inf
        within = [one for one in engine.at(cap_s) if one.latency.time_s <= limit_s * (1 + _SAME)]
        known = [one for one in within if one.energy_j is not None]
        return min(known, key=lambda one: (one.energy_j, one.latency.time_s), default=None)
    return engine.best(_value_of(goal, bests), cap_s=cap_s, max_latency_s=goal.max_latency_s)


def _value_of(goal: Goal, bests: Bests) -> Value:
    def value(latency_s: float, interval_s: float, drop_pp: float) -> float:
        worth_s = goal.lambda1_s_per_pp * drop_pp if goal.lambda1_s_per_pp else 0.0
        if goal.objective == "latency":
            return latency_s + worth_s
        if goal.objective == "throughput":
            return interval_s + worth_s
        return balanced(latency_s + worth_s, interval_s + worth_s, bests)

    return value


def _extremes(engine: Engine) -> list[Candidate]:
    """The pipelines of least latency, and those of least interval."""
    found = engine.best(lambda latency_s, _, drop_pp: latency_s)
    fastest = engine.best(lambda latency_s, interval_s, _: interval_s)
    return [one for one in (found, fastest) if one is not None]


def _bests(candidates: Sequence[Candidate]) -> Bests:
    return Bests(
        latency_s=min((one.latency.time_s for one in candidates), default=math.inf),
        interval_s=min((one.interval_s for one in candidates), default=math.inf),
    )


def _front(engine: Engine) -> tuple[list[Candidate], bool]:
    return engine.front(max(_LEAST_RUNS, int(_FRONT_STEPS / max(1.0, engine.dense.steps))))


def _order(goal: Goal, one: Candidate, bests: Bests) -> tuple[float, ...]:
    """What is to be least, and how ties are broken; names play no part."""
    figures = (objective_value(goal, one, bests), one.latency.time_s, one.interval_s)
    return (*(_rounded(figure) for figure in figures), len(one.devices), one.link_bytes)


def _rounded(value: float) -> float:
    """To ten digits, so that the order of additions decides nothing."""
    return float(f"{value:.9e}")


def _or_zero(value: float) -> float:
    """What a report says of a figure that does not exist."""
    return value if math.isfinite(value) else 0.0


def _is_finite(one: Candidate) -> bool:
    """Whether it keeps up with what arrives: endless waiting is no plan, and no JSON either."""
    return math.isfinite(one.latency.time_s) and math.isfinite(one.accuracy_drop_pp)


def _why(
    goal: Goal, one: Candidate, chosen: Candidate | None, bests: Bests, *, is_possible: bool
) -> str:
    """How far ``one`` is behind, or what else speaks against it."""
    if not is_possible:
        gain = "" if chosen is None else _gain(goal, one, chosen, bests)
        return gain + _NOT_ASKED
    if chosen is None:
        return "no plan keeps the limits"
    words = {
        "latency": "latency",
        "throughput": "time between answers",
        "energy": "energy",
        "balanced": "sum of relative latency and interval",
    }[goal.objective]
    mine, best = objective_value(goal, one, bests), objective_value(goal, chosen, bests)
    if not math.isfinite(mine):
        return f"its {words} is not known"
    return f"{words} {(mine / best - 1) * 100:.1f} % above the best" if best > 0 else "not better"


def _gain(goal: Goal, one: Candidate, chosen: Candidate, bests: Bests) -> str:
    """Such as "1.28 times the throughput, but ", where a farm is ahead."""
    faster = chosen.interval_s / one.interval_s if one.interval_s > 0 else 1.0
    if objective_value(goal, one, bests) >= objective_value(goal, chosen, bests) or faster <= 1:
        return ""
    return f"{faster:.2f} times the throughput, but "


def _refuse_nonsense(table: CostTable, goal: Goal) -> None:
    scenario = table.scenario
    if not any(table.options.values()):
        names = ", ".join(table.options)
        raise PlanError(
            f"none of {names} has a profile with a ceiling that its provider can use",
            hint="write provider in the fleet file as the profile has it, or measure fp32",
        )
    if goal.objective == "energy" and not any(
        scenario.profiles[name].energy for name in table.options
    ):
        raise PlanError(
            "energy cannot be planned: no profile holds a meter's figure",
            hint="measure with a power meter, or choose another objective",
        )


def _limited_best(table: CostTable, goal: Goal) -> Candidate | None:
    return weigh(table, goal, with_front=False).chosen
