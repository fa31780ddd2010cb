"""Which of all plans are run, and how the planner's choice is compared with the best of them."""

from itertools import product
from pathlib import Path
from statistics import fmean

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import ConfigError
from edgekit.planner.cuts import partition, resolve_cut
from edgekit.planner.scenario import Variant
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.planning import Candidate, FrameCost
from edgekit.trial.bench import ShardName
from tests.bench.regret_case import Case, Row
from tests.bench.regret_cuts import cuts_of, doubtful, shard_names
from tests.bench.regret_plans import (
    MARGIN,
    Combination,
    combination_of,
    combinations,
    devices_of,
    estimate_s,
    overheads_s,
    pilots,
    worth_running,
)
from tests.bench.regret_plot import markdown, plot
from tests.bench.regret_runs import (
    Measured,
    compare,
    counted,
    explore,
    fps_of,
    is_disturbed,
    noise_percent,
    regret_percent,
    winner_of,
)
from tests.bench.regret_shards import CutFacts, Shards, ShardTime
from tests.graphs import workload
from tests.plan_values import candidate, hop, stage

STRATEGIES = ("S3", "S3+S1")
FLEET = Fleet(
    name="pair",
    host_speed=20.0,
    device=(Device(name="weak", relative_speed=1.0), Device(name="strong", relative_speed=4.0)),
    link=(Link(source="weak", target="strong", bandwidth="80 Mbit/s", rtt="1 ms"),),
)
"""The host is 20 and 5 times as fast as the two."""
RAW = FrameCost(codec="raw", nbytes=10_000)


def shards(times_ms: dict[tuple[str, str, str], float], nbytes: int = 1000) -> Shards:
    """By strategy, and the names of the cuts at both ends."""
    cuts = list(dict.fromkeys(after for _, after, _ in times_ms if after))
    return Shards(
        model_sha256="ab" * 32,
        runtime="a test",
        strategies=tuple(dict.fromkeys(strategy for strategy, _, _ in times_ms)),
        cut=tuple(CutFacts(names=(name,), nbytes=nbytes) for name in cuts),
        shard=tuple(
            ShardTime(
                strategy=strategy,
                after=(after,) if after else (),
                until=(until,) if until else (),
                time_s=1e-3 * time_ms,
            )
            for (strategy, after, until), time_ms in times_ms.items()
        ),
    )


TIMES_MS = {
    ("S3", "", ""): 3.0, ("S3", "", "a"): 0.9, ("S3", "a", ""): 2.2, ("S3", "", "b"): 2.1,
    ("S3", "b", ""): 1.0, ("S3+S1", "", ""): 3.3, ("S3+S1", "", "a"): 0.8, ("S3+S1", "a", ""): 2.6,
    ("S3+S1", "", "b"): 2.0, ("S3+S1", "b", ""): 1.4,
}  # fmt: skip


def plans() -> tuple[Combination, ...]:
    return combinations(shards(TIMES_MS), FLEET, [RAW])


def pipeline(until: str) -> Candidate:
    stages = [stage("weak", 18.0, until=(until,)), stage("strong", 11.0, after=(until,))]
    return candidate("pipeline", stages, [hop("weak", "strong", 0.1)])


def test_every_cut_is_combined_with_every_pair_of_strategies_and_both_ends_of_the_model() -> None:
    made = plans()
    whole, frames, shared, cut = 2, 2, 4, 2 * 4
    assert len(made) == len({one.key for one in made}) == whole + frames + shared + cut
    assert {one.cut for one in made} == {(), ("a",), ("b",)}


def test_parts_are_as_slow_as_the_devices_and_as_the_link() -> None:
    (one,) = [one for one in plans() if one.key == (("a",), "S3+S1", "S3", "fp32")]
    assert one.near_s == pytest.approx(20 * 0.8e-3)
    assert one.far_s == pytest.approx(5 * 2.2e-3)
    assert one.link_s == pytest.approx(1000 / 10e6)
    assert one.bound_s == one.near_s and one.binding == "near"


def test_where_frames_are_dealt_out_rates_add_up() -> None:
    (one,) = [one for one in plans() if one.key == ((), "S3", "S3", "raw")]
    assert one.is_shared
    assert 1 / one.bound_s == pytest.approx(1 / (20 * 3e-3) + 1 / (5 * 3e-3))


def test_a_first_device_with_a_limit_runs_no_whole_model() -> None:
    first, other = FLEET.device
    limited = msgspec.structs.replace(
        FLEET, device=(msgspec.structs.replace(first, max_macs=1000), other)
    )
    made = combinations(shards(TIMES_MS), limited, [RAW])
    assert {(bool(one.cut), bool(one.near)) for one in made} == {(True, True), (False, False)}


def test_a_fleet_of_three_is_refused() -> None:
    fleet = Fleet(name="three", device=tuple(Device(name=name) for name in "abc"))
    with pytest.raises(ConfigError, match="3 devices"):
        devices_of(fleet)


def test_the_choice_is_found_by_what_it_is_and_not_by_its_times() -> None:
    assert combination_of(pipeline("a"), plans()).key == (("a",), "S3", "S3", "fp32")
    with pytest.raises(ConfigError, match="not among the plans"):
        combination_of(pipeline("z"), plans())


def test_whole_models_and_forwarded_frames_are_found_too() -> None:
    whole = candidate("whole", [stage("weak", 60.0)], [])
    assert combination_of(whole, plans()).key == ((), "S3", "", "")
    way = hop("weak", "strong", 1.0, carries="frame", codec="raw")
    frames = candidate("frames", [stage("strong", 15.0)], [way])
    assert combination_of(frames, plans()).key == ((), "", "S3", "raw")
    farm = Candidate(
        family="farm", members=(whole, frames), shares=(0.2, 0.8), latency=whole.latency,
        interval_s=0.012,
    )  # fmt: skip
    assert combination_of(farm, plans()).key == ((), "S3", "S3", "raw")


@given(
    st.lists(st.floats(0.1, 9.0), min_size=10, max_size=10),
    st.floats(0.0, 2e-3),
    st.floats(0.0, 2e-3),
)
def test_no_plan_that_is_left_out_could_win(
    times_ms: list[float], near_s: float, far_s: float
) -> None:
    """If frames cost exactly the overheads besides, the best of all is among those that are run."""
    made = combinations(shards(dict(zip(TIMES_MS, times_ms, strict=True))), FLEET, [RAW])
    overhead_s = {"near": near_s, "far": far_s}
    kept = worth_running(made, overhead_s)  # type: ignore[arg-type]
    best_s = min(estimate_s(one, overhead_s) for one in made)  # type: ignore[arg-type]
    found_s = [estimate_s(one, overhead_s) for one in kept]  # type: ignore[arg-type]
    assert found_s == sorted(found_s)
    assert found_s[0] <= best_s * (1 + 1e-9) and found_s[-1] <= MARGIN * best_s


def test_overheads_are_what_runs_take_beyond_their_binding_part() -> None:
    near = Combination(cut=("a",), near="S3", far="S3", near_s=20e-3, far_s=5e-3)
    far = Combination(cut=("b",), near="S3", far="S3", near_s=5e-3, far_s=10e-3)
    found = overheads_s([(near, 22e-3), (near, 21e-3), (far, 10.5e-3)])
    assert found == {"near": pytest.approx(1e-3), "far": pytest.approx(0.5e-3)}
    assert estimate_s(near, found) == pytest.approx(21e-3)


def test_the_choice_is_run_first_and_so_is_the_best_plan_where_either_side_binds() -> None:
    near = Combination(cut=("b",), near="S3", far="S3", near_s=20e-3, far_s=5e-3)
    far = Combination(cut=("a",), near="S3", far="S3", near_s=5e-3, far_s=15e-3)
    made = [*plans(), near, far]
    chosen = made[0]
    first = pilots(made, chosen)
    assert first[0] == chosen
    assert {one.binding for one in first[1:]} == {"near", "far"}


def test_a_device_that_computes_too_slowly_or_too_fast_disturbs_a_run() -> None:
    assert not is_disturbed((10.3, 5.2), (10.0, 5.0))
    assert is_disturbed((12.0, 5.2), (10.0, 5.0))
    assert is_disturbed((10.3, 4.0), (10.0, 5.0))


def combination(name: str) -> Combination:
    return Combination(cut=(name,), near="S3", far="S3")


class FakeRun:
    """Plans whose throughput is known, and how often they were run."""

    def __init__(self, fps: dict[str, list[float]]) -> None:
        self.fps, self.order = fps, list[tuple[str, int]]()

    def __call__(self, plan: Combination, number: int) -> list[Measured]:
        (name,) = plan.cut
        values = self.fps[name]
        count = sum(done == name for done, _ in self.order)
        self.order.append((name, number))
        return [Measured(plan=str(plan), round=number, fps=values[count % len(values)])]


def test_the_choice_is_run_twice_as_often_as_the_others() -> None:
    run = FakeRun({"a": [10.0], "b": [11.0], "c": [9.0]})
    one, *others = map(combination, "abc")
    runs = explore([one, *others], one, run, rounds=2)
    assert [name for name, _ in run.order] == ["a", "b", "c", "a"] * 2
    assert winner_of([one, *others], runs) == others[0]


def test_luck_in_the_first_half_is_no_regret() -> None:
    """b is no better than the choice, but was lucky when the winner was looked for."""
    run = FakeRun({"a": [10.0], "b": [12.0, 10.0, 10.0, 10.0, 10.0]})
    one, other = map(combination, "ab")
    runs = explore([one, other], one, run, rounds=1)
    winner = winner_of([one, other], runs)
    assert winner == other
    runs += compare(winner, one, run, first=1, rounds=2)
    fps = [fps_of(plan, runs, since=1) for plan in (one, winner)]
    assert regret_percent(*fps) == 0


def test_a_winner_that_is_the_choice_is_not_run_again() -> None:
    run = FakeRun({"a": [10.0]})
    assert compare(combination("a"), combination("a"), run, first=1, rounds=2) == []


def test_regret_is_the_share_of_the_best_throughput_that_was_missed() -> None:
    assert regret_percent(9.0, 10.0) == pytest.approx(10.0)
    assert regret_percent(10.0, 9.0) == 0


def test_a_disturbed_try_does_not_count_when_it_was_done_again() -> None:
    tries = [
        Measured(plan="p", round=0, fps=5.0, is_disturbed=True),
        Measured(plan="p", round=0, fps=10.0),
        Measured(plan="p", round=1, fps=6.0, is_disturbed=True),
        Measured(plan="q", round=1, fps=0.0, problem="no"),
    ]
    assert [one.fps for one in counted(tries)] == [10.0, 6.0]


def test_noise_is_half_of_the_spread_of_the_runs() -> None:
    runs = [Measured(plan=str(combination("a")), round=at, fps=fps) for at, fps in
            enumerate((98.0, 99.0, 100.0, 101.0, 102.0))]  # fmt: skip
    assert noise_percent(combination("a"), runs) == pytest.approx(1.5)
    assert noise_percent(combination("a"), runs[:1]) == 0


CHAIN = workload(
    [("Tanh", [f"t{i - 1}" if i else "image"], [f"t{i}"]) for i in range(5)], outputs=["t4"]
)


def test_all_cuts_of_a_chain_are_timed_on_both_sides_under_every_strategy() -> None:
    cuts = cuts_of([Variant("S3", CHAIN), Variant("S3+S1", CHAIN)], is_thorough=True)
    assert [cut.names for cut in cuts] == [(f"t{i}",) for i in range(4)]
    assert all(resolve_cut(CHAIN, cut.names) == cut for cut in cuts)
    names = shard_names(STRATEGIES, [cut.names for cut in cuts])
    assert len(names) == len(set(names)) == len(STRATEGIES) * (1 + 2 * len(cuts))


def test_a_cut_that_one_strategy_lacks_is_left_out() -> None:
    other = workload(
        [("Tanh", ["image"], ["t0"]), ("Tanh", ["t0"], ["x"]), ("Tanh", ["x"], ["t4"])],
        outputs=["t4"],
    )
    cuts = cuts_of([Variant("S3", CHAIN), Variant("S3+S1", other)], is_thorough=True)
    assert [cut.names for cut in cuts] == [("t0",)]


def test_a_shard_that_takes_longer_than_one_that_holds_it_is_doubted() -> None:
    names = shard_names(("S3",), [("t0",), ("t1",), ("t2",)])
    ops = [frozenset(partition_of(name)) for name in names]
    times_s = [1e-3 * len(own) for own in ops]
    assert doubtful(names, ops, times_s) == []
    for index, name in enumerate(names):
        slow_s = [time_s * (2.0 if at == index else 1.0) for at, time_s in enumerate(times_s)]
        found = [names[at] for at in doubtful(names, ops, slow_s)]
        # Two operators that take as long as four exceed three; one does not exceed two.
        assert found == ([name] if len(ops[index]) >= 2 else [])


def partition_of(name: ShardName) -> tuple[int, ...]:
    cuts = [resolve_cut(CHAIN, names) for names in (name.after, name.until) if names]
    return partition(CHAIN, cuts)[int(bool(name.after))]


def test_a_table_and_a_plot_are_written_of_a_case(tmp_path: Path) -> None:
    made = plans()
    best = min(made, key=lambda one: one.bound_s)
    runs = tuple(
        Measured(plan=str(plan), round=number, fps=0.9 / plan.bound_s)
        for plan, number in product(made[:3], range(2))
    )
    case = Case(
        fleet="pair", dataset="mnist", network="net", chosen=str(made[0]), winner=str(best),
        regret_percent=1.25, noise_percent=0.5, chosen_fps=fmean(one.fps for one in runs),
        winner_fps=90.0, bound_regret_percent=1.0, rank=2, within_margin=3,
        overhead_s={"near": 1e-3},
        row=tuple(
            Row(plan=plan, estimate_s=plan.bound_s, predicted_s=1.1 * plan.bound_s)
            for plan in made
        ),
        run=runs,
    )  # fmt: skip
    assert "| pair | mnist net |" in markdown([case]) and "1.25" in markdown([case])
    plot([case, case], tmp_path / "regret.png")
    assert (tmp_path / "regret.png").stat().st_size > 10_000
