"""Finalists are timed, and the plan is made again with what was found, until it is settled."""

from collections.abc import Sequence

import msgspec
import pytest

from edgekit.errors import PlanError
from edgekit.planner.cuts import partition, resolve_cut
from edgekit.planner.predict import Predictor
from edgekit.planner.scenario import Scenario, Variant
from edgekit.planner.search import plan
from edgekit.planner.what_if import scaled_profile
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.planning import Goal
from edgekit.spec.workload import KernelShape, Workload
from edgekit.trial.bench import ShardName
from edgekit.trial.settle import Settled, search, settle, stages_of
from tests.graphs import workload
from tests.profiler.test_fleet_profiles import HERE

CHAIN = workload(
    [("Tanh", [f"t{i - 1}" if i else "image"], [f"t{i}"]) for i in range(8)],
    outputs=["t7"],
    flop={f"t{i}": 10_000_000 for i in range(8)},
    elements={f"t{i}": 20_000 for i in range(8)} | {"image": 60_000},
)
MODEL = msgspec.structs.replace(
    CHAIN,
    ops=tuple(
        msgspec.structs.replace(
            op, kernel=KernelShape(key="Tanh", sizes=(1_000_000,)), weight_bytes=4_000_000
        )
        for op in CHAIN.ops
    ),
)
"""Eight equal operators: 2 ms and 4 MB of weights each, 80 kB between them."""
FLEET = Fleet(
    name="yard",
    device=(Device(name="camera"), Device(name="gateway")),
    link=(Link(source="camera", target="gateway", bandwidth="1 Gbit/s"),),
)
BOARD = HERE


class FakeBench:
    """Shards take ``factor`` times as long as predicted; ``slow`` ones ten times that, and those
    that are ``disturbed`` somewhat longer at the first look."""

    runtime = "a test"

    def __init__(
        self,
        here: dict[str, float],
        factor: float = 1.0,
        slow: str = "",
        disturbed: set[ShardName] | None = None,
    ) -> None:
        self.here, self.factor, self.slow = here, factor, slow
        self.disturbed = disturbed or set()
        self.timed: list[ShardName] = []
        self.again: list[ShardName] = []
        self._predictor = Predictor(BOARD)

    def ops(self, shard: ShardName) -> tuple[Workload, tuple[int, ...]]:
        cuts = [resolve_cut(MODEL, names) for names in (shard.after, shard.until) if names]
        return MODEL, partition(MODEL, cuts)[int(bool(shard.after))]

    def time(self, shards: Sequence[ShardName], *, threads: int) -> list[float]:
        self.timed += shards
        return [self._time_s(shard) for shard in shards]

    def time_again(self, shards: Sequence[ShardName], *, threads: int) -> list[float]:
        """Nobody disturbs a second look."""
        self.again += shards
        self.disturbed -= set(shards)
        return [self._time_s(shard) for shard in shards]

    def _time_s(self, shard: ShardName) -> float:
        workload, ops = self.ops(shard)
        slowed = 10.0 if self.slow and self.slow in shard.until else 1.0
        slowed *= 1.6 if shard in self.disturbed else 1.0
        return self._predictor.predict(workload, ops).time_s * self.factor * slowed


def scenario(slowness: float = 1.0) -> Scenario:
    return Scenario(
        model="net",
        model_sha256="ab" * 32,
        variants=(Variant("S3", MODEL),),
        fleet=FLEET,
        profiles={"camera": scaled_profile(BOARD, 1 / slowness), "gateway": BOARD},
    )


def run(bench: FakeBench, goal: Goal, mode: str = "auto", budget_s: float = 2.0) -> Settled:
    asked = scenario(bench.here.get("camera", 1.0))
    return settle(
        search(asked, goal), goal, bench, mode=mode, budget_s=budget_s,  # type: ignore[arg-type]
        progress=lambda text, done, total: None,
    )  # fmt: skip


def test_every_shard_of_the_settled_plan_was_timed() -> None:
    """A predicted shard must not beat the measured ones by being unmeasured."""
    bench = FakeBench({"camera": 1.0, "gateway": 1.0})
    settled = run(bench, Goal(objective="throughput"))
    assert settled.found.report.chosen is not None
    assert all(stage.time.is_measured for stage in stages_of(settled.found.report.chosen))
    assert "were timed on this machine" in settled.notes[0]


def test_a_cut_that_turns_out_slow_loses() -> None:
    """The prediction chose it; the stopwatch did not."""
    goal = Goal(objective="throughput")
    first = plan(scenario(), goal).chosen
    assert first is not None and len(first.stages) == 2
    (cut,) = first.stages[0].until
    settled = run(FakeBench({"camera": 1.0, "gateway": 1.0}, slow=cut), goal)
    assert settled.found.report.chosen is not None
    assert all(cut not in stage.until for stage in stages_of(settled.found.report.chosen))


def test_a_shard_that_was_disturbed_does_not_cost_the_best_plan() -> None:
    """The whole first look at it fell into another's busy moment; the second one did not."""
    goal, here = Goal(objective="throughput"), {"camera": 1.0, "gateway": 1.0}
    calm = run(FakeBench(here), goal).found.report.chosen
    assert calm is not None and len(calm.stages) == 2
    for stage in calm.stages:
        bench = FakeBench(here, disturbed={ShardName("S3", stage.after, stage.until)})
        chosen = run(bench, goal).found.report.chosen
        assert chosen is not None and str(chosen) == str(calm)
        assert chosen.interval_s == pytest.approx(calm.interval_s)


def test_times_that_nobody_doubts_are_not_taken_again_for_ever() -> None:
    bench = FakeBench({"camera": 1.0, "gateway": 1.0})
    run(bench, Goal(objective="throughput"))
    assert len(bench.again) == len(set(bench.again))


def test_predictions_of_what_was_not_timed_are_scaled_alike() -> None:
    """All shards take twice as long as predicted here: the plan stays, its times double."""
    bench = FakeBench({"camera": 1.0}, factor=2.0)
    settled = run(bench, Goal(objective="throughput"))
    ratios = [one.measured_s / one.predicted_s for one in settled.compared]
    assert ratios == pytest.approx([2.0] * len(ratios))
    assert any("predictions for camera are scaled by 2.00" in note for note in settled.notes)
    assert settled.found.table.scenario.profiles["camera"].ceiling[0].flop_per_s == pytest.approx(
        5e9
    )
    assert settled.found.table.scenario.profiles["gateway"] == BOARD


def test_a_device_that_this_machine_stands_for_is_slower_by_its_factor() -> None:
    """One run serves both devices."""
    bench = FakeBench({"camera": 4.0, "gateway": 1.0})
    settled = run(bench, Goal())
    times = {(one.device, one.shard): one.measured_s for one in settled.compared}
    whole = ShardName("S3", (), ())
    assert times["camera", whole] == pytest.approx(4 * times["gateway", whole])
    assert len(bench.timed) == len(set(bench.timed))


def test_always_times_every_prefix_and_suffix() -> None:
    """The whole table of one cut."""
    bench = FakeBench({"camera": 1.0, "gateway": 1.0})
    run(bench, Goal(), mode="always", budget_s=0.0)
    for index in range(7):
        assert ShardName("S3", (), (f"t{index}",)) in bench.timed
        assert ShardName("S3", (f"t{index}",), ()) in bench.timed


def test_never_and_nowhere_time_nothing() -> None:
    bench = FakeBench({"camera": 1.0})
    assert run(bench, Goal(), mode="never").compared == () and bench.timed == []
    nowhere = FakeBench({})
    assert "every time is predicted" in run(nowhere, Goal()).notes[0]
    with pytest.raises(PlanError, match="no device of this fleet is this machine"):
        run(nowhere, Goal(), mode="always")
