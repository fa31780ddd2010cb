"""One case of the regret from plan to comparison, with runs that take what their parts take."""

import pytest

from edgekit.errors import DeviceError
from edgekit.trial.settle import search
from edgekit.workflow_plan import PlanAnswer
from tests.bench.regret_case import GOAL, Case, Scope, case_of
from tests.bench.regret_cuts import cuts_of, shard_names
from tests.bench.regret_plans import Combination
from tests.bench.regret_runs import Measured, Run
from tests.bench.regret_shards import CutFacts, Shards, ShardTime
from tests.trial.test_settle import FLEET, FakeBench, scenario

SCOPE = Scope(rounds=2, most=5)


def measured(run: Run) -> Case:
    """The planner's predictions are exact."""
    asked = scenario()
    bench = FakeBench({"camera": 1.0})
    cuts = cuts_of(asked.variants, is_thorough=True)
    names = shard_names(["S3"], [cut.names for cut in cuts])
    times_s = bench.time(names, threads=1)
    shards = Shards(
        model_sha256="ab" * 32,
        runtime="a test",
        strategies=("S3",),
        cut=tuple(CutFacts(names=cut.names, nbytes=cut.nbytes) for cut in cuts),
        shard=tuple(
            ShardTime(strategy="S3", after=name.after, until=name.until, time_s=time_s)
            for name, time_s in zip(names, times_s, strict=True)
        ),
    )
    answer = PlanAnswer(
        report=search(asked, GOAL).report,
        scenario=asked,
        profiles=asked.profiles,
        loaded=None,  # type: ignore[arg-type]
        compared=(),
    )
    return case_of(
        FLEET, "mnist", "net", answer=answer, shards=shards, run=run, scope=SCOPE,
        say=lambda text: None,
    )  # fmt: skip


def exact(plan: Combination, number: int) -> list[Measured]:
    return [Measured(plan=str(plan), round=number, fps=1 / plan.bound_s)]


def test_a_planner_whose_times_are_right_has_no_regret() -> None:
    case = measured(exact)
    assert case.regret_percent == pytest.approx(0.0, abs=1e-6)
    assert case.bound_regret_percent == pytest.approx(0.0, abs=1.0)
    assert len(case.row) == 1 + 1 + 1 + 7  # whole, frames, shared, cuts
    assert all(row.predicted_s for row in case.row)
    assert [row.estimate_s for row in case.row] == sorted(row.estimate_s for row in case.row)


def test_every_way_to_run_the_model_is_predicted_as_its_parts_say() -> None:
    """Cuts, forwarded frames and shared ones: same times, so the same interval but for hops."""
    for row in measured(exact).row:
        assert row.predicted_s == pytest.approx(row.plan.bound_s, rel=0.05)


def test_a_choice_that_answers_at_two_thirds_of_the_rate_is_a_regret_of_a_third() -> None:
    chosen = measured(exact).chosen

    def run(plan: Combination, number: int) -> list[Measured]:
        (found,) = exact(plan, number)
        share = 2 / 3 if str(plan) == chosen else 1.0
        return [Measured(plan=found.plan, round=number, fps=share * 100)]

    case = measured(run)
    assert case.chosen == chosen != case.winner
    assert case.regret_percent == pytest.approx(100 / 3)
    fresh = [one for one in case.run if one.round >= SCOPE.rounds]
    assert len(fresh) == 2 * 2 * SCOPE.rounds


def test_a_choice_that_cannot_be_run_is_no_regret_but_an_error() -> None:
    def run(plan: Combination, number: int) -> list[Measured]:
        return [Measured(plan=str(plan), round=number, fps=0.0, problem="out of memory")]

    with pytest.raises(DeviceError, match="could not be run: out of memory"):
        measured(run)
