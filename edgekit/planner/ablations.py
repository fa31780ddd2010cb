"""Our planner with one idea taken away, in the manner of the paper's ablation.

In:  a Scenario and a Goal.  Out: one PolicyResult per ablation.  Pure.
What is left decides; the decision is priced on the full cost model and by the goal that was asked.
"""

import dataclasses

from edgekit.errors import PlanError
from edgekit.planner.cost_table import CostTable
from edgekit.planner.policies import Policy, policy_result
from edgekit.planner.pricing import Step, price_pipeline
from edgekit.planner.scenario import Scenario
from edgekit.planner.search import plan
from edgekit.planner.two_devices import middle_cut, pair_of
from edgekit.spec.planning import Candidate, Goal, PolicyResult

WITHOUT_ROOFLINE = "w/o roofline"
WITHOUT_STRUCTURE = "w/o dynamic structure"
WITHOUT_OBJECTIVES = "w/o multi-objective"


def ablate(scenario: Scenario, goal: Goal) -> tuple[PolicyResult, ...]:
    """What is planned without rooflines, without strategies, and for latency alone."""
    latency_only = Goal(
        max_accuracy_drop_pp=goal.max_accuracy_drop_pp, arrival_fps=goal.arrival_fps
    )
    ablations: dict[str, Policy] = {
        WITHOUT_ROOFLINE: equal_work,
        WITHOUT_STRUCTURE: lambda _, goal: _chosen(without_structure(scenario), goal),
        WITHOUT_OBJECTIVES: lambda _, __: _chosen(scenario, latency_only),
    }
    table = CostTable(scenario)
    return tuple(policy_result(name, one, table, goal) for name, one in ablations.items())


def _chosen(scenario: Scenario, goal: Goal) -> Candidate:
    found = plan(scenario, goal).chosen
    if found is None:
        raise PlanError("no plan keeps the limits", hint="relax one of them")
    return found


def without_structure(scenario: Scenario) -> Scenario:
    """The same question for the model folded whole."""
    return dataclasses.replace(scenario, variants=scenario.variants[:1])


def equal_work(table: CostTable, goal: Goal) -> Candidate:
    """The cut that halves the work between two devices; strategies and codec remain chosen."""
    near, far = pair_of(table)
    steps = [Step(device=near, until=middle_cut(table)), Step(device=far, until=None)]
    return price_pipeline(table, goal, steps)
