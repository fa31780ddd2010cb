"""One case of the regret: a network on a fleet, from the plan to the comparison.

In:  a bed, Shards, what the planner chose.  Out: a Case, kept as JSON: every combination with its
bound and prediction, every run, the regret.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.errors import DeviceError, PlanError
from edgekit.planner.cost_table import CostTable
from edgekit.planner.pricing import Step, price_farm, price_pipeline
from edgekit.spec.base import Spec
from edgekit.spec.fleet import Fleet
from edgekit.spec.planning import Goal
from edgekit.workflow_plan import PlanAnswer
from tests.bench.regret_plans import (
    Combination,
    Part,
    combination_of,
    combinations,
    devices_of,
    estimate_s,
    overheads_s,
    pilots,
    worth_running,
)
from tests.bench.regret_runs import (
    Measured,
    Run,
    compare,
    counted,
    explore,
    fps_of,
    noise_percent,
    regret_percent,
    winner_of,
)
from tests.bench.regret_shards import Shards

GOAL = Goal(objective="throughput")
Say = Callable[[str], None]


class Row(Spec, frozen=True, kw_only=True):
    """One combination in the exhaustive table."""

    plan: Combination
    estimate_s: float
    """Its bound, with what a frame costs besides."""
    predicted_s: float | None
    """What the planner believes; None for what it does not look at."""


class Case(Spec, frozen=True, kw_only=True):
    """What came of a network on a fleet."""

    fleet: str
    dataset: str
    network: str
    chosen: str
    winner: str
    regret_percent: float
    noise_percent: float
    """Half of the spread between quartiles of the runs of the choice."""
    chosen_fps: float
    winner_fps: float
    """Both in fresh rounds; of all rounds where the choice is the winner."""
    bound_regret_percent: float
    """Of the choice against the best of all combinations, by bounds with overheads alone."""
    rank: int
    """Of the choice among all combinations, by the same; 1 is the best."""
    within_margin: int
    """Combinations that were worth running."""
    overhead_s: dict[str, float]
    """What a frame costs besides, by the part that binds."""
    row: tuple[Row, ...]
    run: tuple[Measured, ...]

    @property
    def place(self) -> str:
        """Such as "nano-nx cifar10 repvgg"."""
        return f"{self.fleet} {self.dataset} {self.network}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """How much is run."""

    rounds: int
    most: int
    """Finalists."""


def case_of(
    fleet: Fleet,
    dataset: str,
    network: str,
    *,
    answer: PlanAnswer,
    shards: Shards,
    run: Run,
    scope: Scope,
    say: Say,
) -> Case:
    """Measure one case.

    Raises: PlanError if the planner found no plan, DeviceError if its plan could not be run.
    """
    candidate = answer.report.chosen
    if candidate is None:
        raise PlanError("the planner found no plan", hint="see edgekit plan")
    plans = combinations(shards, fleet, answer.scenario.frame_costs)
    chosen = combination_of(candidate, plans)
    first = pilots(plans, chosen)
    say(f"{len(plans)} combinations; the choice: {chosen}")
    trials = [measured for plan in first for measured in run(plan, -1)]
    by_plan = {str(plan): plan for plan in plans}
    overhead_s = overheads_s((by_plan[one.plan], 1 / one.fps) for one in counted(trials))
    worthy = worth_running(plans, overhead_s)
    finalists = worthy[: scope.most]
    say(f"{len(worthy)} are within the margin, {len(finalists)} are run")
    runs = explore(finalists, chosen, run, rounds=scope.rounds)
    winner = winner_of([chosen, *finalists], runs)
    say(f"the winner: {winner}")
    runs += compare(winner, chosen, run, first=scope.rounds, rounds=2 * scope.rounds)
    is_same = winner.key == chosen.key
    since = 0 if is_same else scope.rounds
    chosen_fps, winner_fps = (fps_of(one, runs, since=since) for one in (chosen, winner))
    if not chosen_fps:
        problems = [one.problem for one in runs if one.plan == str(chosen) and one.problem]
        raise DeviceError(
            f"the planner's choice could not be run: {(problems or ['no answers'])[-1]}",
            hint="run it again: what was measured is kept",
        )
    rows = rows_of(plans, overhead_s, predictions(answer, plans, fleet))
    own_s, best_s = estimate_s(chosen, overhead_s), rows[0].estimate_s
    return Case(
        fleet=fleet.name,
        dataset=dataset,
        network=network,
        chosen=str(chosen),
        winner=str(winner),
        regret_percent=regret_percent(chosen_fps, winner_fps),
        noise_percent=noise_percent(chosen, runs),
        chosen_fps=chosen_fps,
        winner_fps=winner_fps,
        bound_regret_percent=100 * (1 - best_s / own_s),
        rank=1 + sum(row.estimate_s < own_s for row in rows),
        within_margin=len(worthy),
        overhead_s=dict(overhead_s),
        row=tuple(rows),
        run=(*trials, *runs),
    )


def rows_of(
    plans: Sequence[Combination],
    overhead_s: Mapping[Part, float],
    predicted_s: Mapping[str, float],
) -> list[Row]:
    """All combinations, best first."""
    rows = [
        Row(
            plan=plan,
            estimate_s=estimate_s(plan, overhead_s),
            predicted_s=predicted_s.get(str(plan)),
        )
        for plan in plans
    ]
    return sorted(rows, key=lambda row: row.estimate_s)


def predictions(answer: PlanAnswer, plans: Sequence[Combination], fleet: Fleet) -> dict[str, float]:
    """Interval of each combination as the planner sees it, where it looks at it."""
    table = CostTable(answer.scenario)
    names = {frozenset(cut.names): index for index, cut in enumerate(table.cuts)}
    near, far = devices_of(fleet)
    found = {}
    for plan in plans:
        until = names.get(frozenset(plan.cut)) if plan.cut else None
        if plan.cut and until is None:
            continue
        steps = [
            Step(device, until if device == near else None, strategy=strategy)
            for device, strategy in ((near, plan.near), (far, plan.far))
            if strategy
        ]
        frame = plan.codec if plan.far and not plan.cut else None
        if plan.is_shared:
            members = [price_pipeline(table, GOAL, [one], frame_codec=frame) for one in steps]
            found[str(plan)] = price_farm(table, GOAL, members).interval_s
        else:
            priced = price_pipeline(table, GOAL, steps, frame_codec=frame)
            found[str(plan)] = priced.interval_s
    return found
