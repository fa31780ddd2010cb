"""Which times deserve a second look before a plan is final.

In:  a PlanReport, shards and their times.  Out: plans and shards.  Pure.
A stopwatch errs to one side: what else runs on a machine makes a shard slower, never quicker, and
may do so for as long as the shard was looked at. So a plan that is a little behind may be the best,
and so may one that is far behind for the sake of a single shard.
"""

from collections.abc import Mapping, Sequence

from edgekit.planner.families import stages_of
from edgekit.planner.pricing import Bests, objective_value
from edgekit.spec.planning import Candidate, Goal, PlanReport
from edgekit.spec.profile import Precision
from edgekit.trial.bench import ShardName

_CLOSE = 1.05
"""How much worse than the chosen plan one may be that is looked at again."""
_LONGER = 1.05
"""How many times as long as a larger shard that holds it, or as its parts, one may take: borders
differ."""


def plans_about_best(report: PlanReport, goal: Goal) -> list[Candidate]:
    """The chosen plan and those about as good, best first; none if there is no other one."""
    if report.chosen is None:
        return []
    bests = Bests(report.best_latency_s, report.best_interval_s)
    limit = _CLOSE * objective_value(goal, report.chosen, bests)
    known = (*report.neighbours, *report.pareto, *report.alternatives)
    close = [one for one in known if objective_value(goal, one, bests) <= limit]
    if all(is_same_plan(one, report.chosen) for one in close):
        return []
    return [report.chosen, *sorted(close, key=lambda one: objective_value(goal, one, bests))]


def disturbed(
    timed: Sequence[tuple[str, ShardName, float]], ops: Mapping[ShardName, frozenset[int]]
) -> list[ShardName]:
    """Shards that took longer than one that does all that they do and more, or than two parts that
    they consist of together; the worst first.

    timed: device, shard and seconds. ops: the operators of a shard, in its strategy and precision.
    """
    found: dict[ShardName, float] = {}
    for device, shard, time_s in timed:
        alike = {
            other: other_s
            for other_device, other, other_s in timed
            if (other_device, other.strategy, other.precision)
            == (device, shard.strategy, shard.precision)
        }
        larger_s = [other_s for other, other_s in alike.items() if ops[shard] < ops[other]]
        most_s = min((*larger_s, *_sums_s(shard, alike)), default=time_s)
        if time_s > _LONGER * most_s:
            found[shard] = max(time_s / most_s, found.get(shard, 0.0))
    return sorted(found, key=lambda shard: -found[shard])


def _sums_s(shard: ShardName, alike: Mapping[ShardName, float]) -> list[float]:
    """Of two parts that ``shard`` consists of, cut at some place."""
    return [
        first_s + alike[second]
        for first, first_s in alike.items()
        if first.after == shard.after
        and (second := shard._replace(after=first.until)) in alike
        and second != shard
    ]


def is_same_plan(one: Candidate | None, other: Candidate | None) -> bool:
    """Whether the same shards run on the same devices."""
    return one is not None and other is not None and _runs(one) == _runs(other)


def _runs(candidate: Candidate) -> list[tuple[str, str, Precision, tuple[str, ...]]]:
    stages = stages_of(candidate)
    return [(one.device, one.strategy, one.precision, one.until) for one in stages]
