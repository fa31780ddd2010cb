"""A network on a fleet, and what every method would do there.

In:  a fleet, a trained network.  Out: a Case, saved as JSON: a run that goes on goes on with the
same plans.
Methods: "ours"; the other planners of ``planner.policies``, which know one cut, raw activations and
the model folded whole; ours with one idea taken away (``planner.ablations``); and, for Fig. 8, cuts
spread over the model, whatever they are good for.
"""

from collections.abc import Callable
from pathlib import Path

from edgekit.planner.ablations import (
    WITHOUT_OBJECTIVES,
    WITHOUT_ROOFLINE,
    WITHOUT_STRUCTURE,
    ablate,
)
from edgekit.planner.cost_table import CostTable
from edgekit.planner.policies import POLICIES
from edgekit.planner.pricing import price_pipeline
from edgekit.planner.two_devices import (
    pair_of,
    reference_curve,
    single_cuts,
    split_steps,
    whole_step,
)
from edgekit.spec.base import Spec, load, save
from edgekit.spec.fleet import Fleet
from edgekit.spec.planning import Candidate, Goal, PlanReport
from edgekit.workflow_plan import PlanRequest, make_plan
from tests.bench.paper_world import Pictures, as_file_name, model_of

OURS = "ours"
ABLATIONS = (WITHOUT_ROOFLINE, WITHOUT_STRUCTURE, WITHOUT_OBJECTIVES)
METHODS = (OURS, *POLICIES, *ABLATIONS)
SPLIT = "split at "
GOAL = Goal(objective="throughput")
_SPLIT_PERCENT = (5, 15, 25, 40, 55, 70, 85)
Say = Callable[[str], None]


class Case(Spec, frozen=True, kw_only=True):
    """All plans for one network on one fleet."""

    fleet: Fleet
    dataset: str
    network: str
    report: PlanReport
    plans: dict[str, Candidate | None]
    notes: dict[str, str]
    shares: dict[str, float]
    """Of plans that cut at a given place: share of the work on the first device."""


def case_of(
    fleet: Fleet, dataset: str, network: str, pictures: Pictures, out: Path, *, say: Say
) -> Case:
    """Plan by every method, or read what was planned before."""
    key = {"what": "plans", "fleet": fleet.name, "dataset": dataset, "network": network}
    path = out / f"{as_file_name(key)}.json"
    if path.exists():
        return load(path, Case)
    say(f"{fleet.name}, {dataset}, {network}: plan")
    request = PlanRequest(
        model=model_of(dataset, network),
        fleet=fleet,
        folder=Path(),
        goal=GOAL,
        image=next(iter(sorted(pictures.folder.glob("*.png")))),
        with_policies=True,
    )
    answer = make_plan(request, progress=lambda text, done, total: None)
    results = (*answer.report.policies, *ablate(answer.scenario, GOAL))
    splits, shares = split_points(CostTable(answer.scenario))
    case = Case(
        fleet=fleet,
        dataset=dataset,
        network=network,
        report=answer.report,
        plans={
            OURS: answer.report.chosen,
            **{one.policy: one.candidate for one in results},
            **splits,
        },
        notes={one.policy: one.note for one in results},
        shares=shares,
    )
    save(case, path)
    return case


def split_points(table: CostTable) -> tuple[dict[str, Candidate], dict[str, float]]:
    """Cuts at which the first device does about so much of the work, and both ends.

    Returns: plans, and the share of the work on the first device, by method.
    """
    pair, curve, cuts = pair_of(table), reference_curve(table), single_cuts(table)
    plans: dict[str, Candidate] = {}
    shares: dict[str, float] = {}
    for percent in _SPLIT_PERCENT:
        at = int(abs(curve.work - percent / 100).argmin())
        name = f"{SPLIT}{100 * curve.work[at]:.0f} %"
        plans[name] = price_pipeline(table, GOAL, split_steps(table, pair, cuts[at]))
        shares[name] = float(curve.work[at])
    for device, share in ((pair[1], 0.0), (pair[0], 1.0)):
        name = f"{SPLIT}{100 * share:.0f} %"
        plans[name] = price_pipeline(table, GOAL, [whole_step(table, device)])
        shares[name] = share
    return plans, shares
