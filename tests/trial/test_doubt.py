"""A second look is for what a single one may have got wrong, and for nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from edgekit.spec.planning import Candidate, Goal, PlanReport
from edgekit.trial.bench import ShardName
from edgekit.trial.doubt import disturbed, is_same_plan, plans_about_best
from tests.plan_values import candidate, hop, stage

WHOLE = ShardName("S3", (), ())
UNTIL = {count: ShardName("S3", (), (f"t{count}",)) for count in range(1, 8)}
OPS = {shard: frozenset(range(count)) for count, shard in UNTIL.items()} | {
    WHOLE: frozenset(range(8))
}


def timed(factors: dict[ShardName, float]) -> list[tuple[str, ShardName, float]]:
    """A millisecond for each operator, times a factor."""
    return [
        ("camera", shard, 1e-3 * len(ops) * factors.get(shard, 1.0)) for shard, ops in OPS.items()
    ]


def test_times_that_grow_with_the_shard_are_believed() -> None:
    assert disturbed(timed({}), OPS) == []


@given(st.sampled_from([*UNTIL.values()]), st.sampled_from((1.3, 2.0, 5.0)))
def test_a_shard_that_took_longer_than_a_larger_one_is_doubted(
    slow: ShardName, factor: float
) -> None:
    count = len(OPS[slow])
    found = disturbed(timed({slow: factor}), OPS)
    assert found == ([slow] if count * factor > 1.05 * (count + 1) else [])


def test_the_worst_come_first() -> None:
    found = disturbed(timed({UNTIL[6]: 1.6, UNTIL[3]: 4.0}), OPS)
    assert found == [UNTIL[3], UNTIL[6]]


def test_a_whole_model_that_took_longer_than_its_parts_is_doubted() -> None:
    """There is no larger one to tell."""
    below = {count: ShardName("S3", (f"t{count}",), ()) for count in UNTIL}
    ops = OPS | {shard: frozenset(range(count, 8)) for count, shard in below.items()}
    calm = [("camera", shard, 1e-3 * len(own)) for shard, own in ops.items()]
    assert disturbed(calm, ops) == []
    slow = [(device, shard, 1.5 * time_s if shard == WHOLE else time_s)
            for device, shard, time_s in calm]  # fmt: skip
    assert disturbed(slow, ops) == [WHOLE]


def test_devices_and_strategies_are_not_compared_with_each_other() -> None:
    """A weak board takes longer for a part than a strong one for all of it."""
    other = ShardName("S3+S1", (), ("t3",))
    ops = OPS | {other: OPS[UNTIL[3]]}
    times = [("weak", UNTIL[3], 1.0), ("strong", WHOLE, 0.1), ("weak", other, 2.0)]
    assert disturbed(times, ops) == []


def pipeline(near_ms: float, until: str) -> Candidate:
    stages = [stage("camera", near_ms, until=(until,)), stage("gateway", 5.0, after=(until,))]
    return candidate("pipeline", stages, [hop("camera", "gateway", 1.0)])


def report(chosen: Candidate | None, *others: Candidate) -> PlanReport:
    return PlanReport(
        model="net", model_sha256="ab" * 32, fleet="yard", goal=GOAL, chosen=chosen,
        neighbours=others, alternatives=(chosen,) if chosen else (),
    )  # fmt: skip


GOAL = Goal(objective="throughput")


def test_plans_a_little_behind_the_chosen_one_are_looked_at_with_it() -> None:
    best, close, far = pipeline(20.0, "a"), pipeline(20.8, "b"), pipeline(30.0, "c")
    found = plans_about_best(report(best, far, close), GOAL)
    assert [one.stages[0].until for one in dict.fromkeys(found)] == [("a",), ("b",)]


def test_where_no_other_plan_is_close_nothing_is_looked_at_again() -> None:
    assert plans_about_best(report(pipeline(20.0, "a"), pipeline(30.0, "c")), GOAL) == []
    assert plans_about_best(report(None), GOAL) == []


def test_plans_are_the_same_if_the_same_shards_run_on_the_same_devices() -> None:
    assert is_same_plan(pipeline(20.0, "a"), pipeline(25.0, "a"))
    assert not is_same_plan(pipeline(20.0, "a"), pipeline(20.0, "b"))
    assert not is_same_plan(None, None)
