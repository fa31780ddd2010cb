"""Plans of random small instances against a plain enumeration of every pipeline."""

import math
import statistics
from collections.abc import Iterator

from edgekit.planner.cost_table import CostTable
from edgekit.planner.pricing import Bests, objective_value
from edgekit.planner.search import best_pipeline
from edgekit.spec.planning import Goal, Objective
from tests.planner.brute_force import Priced, best_value, every_pipeline, random_scenario

_OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput", "energy", "balanced")
_TOLERANCE = 1e-9
_ABOVE = 1.0001
"""A limit that is some plan's own figure would be kept or broken by the last digit."""
_DROP_PP = 1.0
"""Budget of accuracy, so that lossy codecs and precisions count where an instance has them."""


def brute_force_mismatches(instances: int) -> tuple[int, int]:
    """How many answers differ, and how many were compared: each instance for several goals."""
    mismatches = compared = 0
    for seed in range(instances):
        scenario = random_scenario(seed)
        table = CostTable(scenario)
        found = list(every_pipeline(scenario, Goal(max_accuracy_drop_pp=_DROP_PP)))
        bests = _bests(found)
        for goal in _goals(found):
            want = best_value(found, goal, (bests.latency_s, bests.interval_s))
            got = _planned(table, goal, bests)
            compared += 1
            if not (got == want or math.isclose(got, want, rel_tol=_TOLERANCE)):
                mismatches += 1
                print(f"instance {seed}, {goal.objective}: planned {got}, enumerated {want}")
    return mismatches, compared


def _goals(found: list[Priced]) -> Iterator[Goal]:
    """Each objective alone, and the two that the other one limits: just above the median plan."""
    for objective in _OBJECTIVES:
        yield Goal(objective=objective, max_accuracy_drop_pp=_DROP_PP)
    if not found:
        return
    fps = 1 / (_ABOVE * statistics.median(one.interval_s for one in found))
    latency_s = _ABOVE * statistics.median(one.latency_s for one in found)
    yield Goal(objective="latency", min_fps=fps, max_accuracy_drop_pp=_DROP_PP)
    yield Goal(objective="throughput", max_latency_s=latency_s, max_accuracy_drop_pp=_DROP_PP)


def _bests(found: list[Priced]) -> Bests:
    within = [one for one in found if one.drop_pp <= _DROP_PP + 1e-12]
    return Bests(
        latency_s=min((one.latency_s for one in within), default=math.inf),
        interval_s=min((one.interval_s for one in within), default=math.inf),
    )


def _planned(table: CostTable, goal: Goal, bests: Bests) -> float:
    chosen = best_pipeline(table, goal, bests)
    return objective_value(goal, chosen, bests) if chosen else math.inf
