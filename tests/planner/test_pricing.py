"""What a plan costs, by hand: busy processors and links, waiting, shares, limits, the trade-off."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from edgekit.errors import PlanError
from edgekit.planner.accuracy import drops_pp
from edgekit.planner.cost_table import CostTable
from edgekit.planner.dp_labels import undominated
from edgekit.planner.families import single_devices
from edgekit.planner.pareto import criteria, pareto_front
from edgekit.planner.pricing import (
    Bests,
    Step,
    objective_value,
    price_farm,
    price_pipeline,
    violations,
)
from edgekit.planner.scenario import Scenario, Variant
from edgekit.planner.search import plan
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.planning import (
    AccuracyDrop,
    AccuracyTable,
    Candidate,
    CodecCost,
    FrameCost,
    Goal,
    Interval,
)
from edgekit.spec.profile import Ceiling, DeviceProfile, Energy
from tests.graphs import workload

CHAIN = workload(
    [("Gelu", [f"t{i - 1}" if i else "image"], [f"t{i}"]) for i in range(4)],
    outputs=["t3"],
    elements={f"t{i}": 2500 for i in range(4)} | {"image": 25000},
)
UINT8 = CodecCost(
    name="uint8", bytes_per_element=1.0, encode_bytes_per_s=1e6, decode_bytes_per_s=1e7
)
RAW = CodecCost(
    name="fp32", bytes_per_element=4.0, encode_bytes_per_s=math.inf, decode_bytes_per_s=math.inf
)
JPEG = FrameCost(codec="jpeg-90", nbytes=2000, encode_s=0.004, decode_s=0.002)


def profile(watts: float = 0.0, *, memory: str = "1 GB") -> DeviceProfile:
    energy = Energy(meter="m", idle_w=1.0, busy_w=watts) if watts else None
    ceilings = tuple(Ceiling(precision=one, compute="1 Gflop/s") for one in ("fp32", "int8"))  # type: ignore[arg-type]
    return DeviceProfile(
        name="board", source="measured", reference="made up", processor="p", memory=memory,
        runtime="made up", memory_bandwidth="1 GB/s", ceiling=ceilings, energy=energy,
    )  # fmt: skip


def scenario(*names: str, **fields: object) -> Scenario:
    """Shards are timed: 10 ms per operator on every device. Links carry 1 MB/s, 2 ms there."""
    cuts = ["t0", "t1", "t2"]
    begins, ends = ["", *cuts], [*cuts, ""]
    measured = {
        (name, "S3", "fp32", begins[a], ends[b]): 0.010 * (b + 1 - a)
        for name in names
        for a in range(4)
        for b in range(a, 4)
    }
    links = tuple(
        Link(source=one, target=other, bandwidth="1 MB/s", rtt="4 ms")
        for index, one in enumerate(names)
        for other in names[index + 1 :]
    )
    fleet = Fleet(name="f", device=tuple(Device(name=name) for name in names), link=links)
    given: dict[str, object] = {
        "profiles": {name: profile() for name in names}, "fleet": fleet, "frames": (JPEG,),
        "measured": measured,
    }  # fmt: skip
    given |= fields
    return Scenario(model="m", model_sha256="0" * 64, variants=(Variant("S3", CHAIN),), **given)  # type: ignore[arg-type]


def two_stages(asked: Scenario, goal: Goal | None = None, codec: str | None = None) -> Candidate:
    steps = [Step("a", 1, codec=codec), Step("b", None)]
    return price_pipeline(CostTable(asked), goal or Goal(), steps)


def test_latency_adds_up_and_the_interval_is_that_of_the_slowest() -> None:
    """Two operators here, 10 kB at 1 MB/s, half a round trip, two operators there."""
    found = two_stages(scenario("a", "b"))
    assert found.latency.time_s == pytest.approx(0.020 + 0.010 + 0.002 + 0.020)
    assert found.interval_s == pytest.approx(0.020)
    assert found.link_bytes == 10_000
    assert found.latency.is_measured
    assert (found.family, str(found)) == ("pipeline", "a [until t1] -> b")


def test_coding_keeps_the_processors_busy_and_not_the_link() -> None:
    """10 kB at 1 MB/s to encode, at 10 MB/s to decode, and 2.5 kB to send."""
    found = two_stages(scenario("a", "b", codecs=(RAW, UINT8)), codec="uint8")
    assert found.interval_s == pytest.approx(0.020 + 0.010)
    assert found.hops[0].transfer_s == pytest.approx(0.0025)
    assert found.latency.time_s == pytest.approx(0.040 + 0.010 + 0.0025 + 0.002 + 0.001)


def test_a_device_of_speed_two_codes_in_half_the_time() -> None:
    """Coding is scaled by relative speed; shards are what the profile says."""
    asked = scenario("a", "b", codecs=(UINT8,))
    devices = (Device(name="a", relative_speed=2.0), Device(name="b"))
    asked = replace(asked, fleet=msgspec.structs.replace(asked.fleet, device=devices))
    assert two_stages(asked).hops[0].encode_s == pytest.approx(0.005)


def test_frames_are_encoded_by_the_source_even_if_it_runs_a_later_shard() -> None:
    """Its processor has both to do."""
    table = CostTable(scenario("a", "b"))
    found = price_pipeline(table, Goal(), [Step("b", 0), Step("a", None)])
    assert [hop.carries for hop in found.hops] == ["frame", "activations"]
    assert found.interval_s == pytest.approx(0.030 + 0.004)


def test_answers_travel_to_where_they_are_wanted() -> None:
    """2048 bytes back to the camera."""
    asked = scenario("a", "b")
    asked = replace(asked, fleet=msgspec.structs.replace(asked.fleet, sink="a"))
    found = price_pipeline(CostTable(asked), Goal(), [Step("b", None)])
    assert [hop.carries for hop in found.hops] == ["frame", "answers"]
    assert found.hops[1].transfer_s == pytest.approx(2048 / 1e6)


def test_frames_that_come_at_random_wait() -> None:
    """M/D/1: at half load, half of one service time on average."""
    asked = scenario("a", "b", measured={("a", "S3", "fp32", "", ""): 0.040})
    found = price_pipeline(CostTable(asked), Goal(arrival_fps=12.5), [Step("a", None)])
    assert found.latency.time_s == pytest.approx(0.040 + 0.5 * 0.040 / (2 * 0.5))
    overloaded = price_pipeline(CostTable(asked), Goal(arrival_fps=25.0), [Step("a", None)])
    assert math.isinf(overloaded.latency.time_s)


def test_what_cannot_keep_up_is_not_in_the_report() -> None:
    """Endless waiting is no plan; the report can still be saved."""
    report = plan(scenario("a", "b"), Goal(arrival_fps=1000.0))
    assert report.chosen is None and not report.alternatives and not report.pareto
    (bound,) = report.binding
    assert (bound.limit, bound.asked) == ("arrival_fps", 1000.0)
    assert bound.best == pytest.approx(
        plan(scenario("a", "b"), Goal(objective="throughput")).chosen.throughput_fps  # type: ignore[union-attr]
    )


def test_energy_is_the_meters_watts_for_as_long_as_processors_work() -> None:
    """Unknown as soon as one of them has no meter."""
    known = scenario("a", "b", profiles={"a": profile(2.0), "b": profile(10.0)})
    assert two_stages(known).energy_j == pytest.approx(0.020 * 2 + 0.020 * 10)
    half = scenario("a", "b", profiles={"a": profile(2.0), "b": profile()})
    assert two_stages(half).energy_j is None


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([], "without a device"),
        ([Step("a", 0), Step("a", None)], "visited twice"),
        ([Step("c", None)], "'c' cannot run"),
        ([Step("a", 7), Step("b", None)], "no cut 7"),
        ([Step("a", 2), Step("b", 1), Step("c", None)], "do not lie below"),
        ([Step("a", 1)], "end at the model's end"),
        ([Step("a", None, strategy="S3+S1")], "no way to run"),
        ([Step("a", 0, codec="zip"), Step("b", None)], "no codec 'zip'"),
    ],
)
def test_steps_that_make_no_plan_are_refused(steps: list[Step], words: str) -> None:
    """One sentence each, and what to do."""
    with pytest.raises(PlanError, match=words):
        price_pipeline(CostTable(scenario("a", "b")), Goal(), steps)


def test_a_missing_link_is_named() -> None:
    """Devices that nothing joins cannot follow each other."""
    asked = scenario("a", "b", "c")
    links = tuple(one for one in asked.fleet.link if {one.source, one.target} != {"a", "c"})
    asked = replace(asked, fleet=msgspec.structs.replace(asked.fleet, link=links))
    with pytest.raises(PlanError, match="no link joins a and c"):
        price_pipeline(CostTable(asked), Goal(), [Step("a", 0), Step("c", None)])
    _, refused = single_devices(CostTable(asked), Goal(), criteria)
    assert [(one.candidate, one.reason) for one in refused] == [
        ("frames to c", "no link joins a and c")
    ]


def test_a_fleet_without_links_is_taken_to_be_joined_and_says_so() -> None:
    """1 Gbit/s and 1 ms."""
    asked = scenario("a", "b")
    asked = replace(asked, fleet=msgspec.structs.replace(asked.fleet, link=()))
    assert two_stages(asked).hops[0].delay_s == 0.5e-3
    assert any("names no link" in note for note in plan(asked, Goal()).notes)


def test_a_farm_deals_frames_out_by_rates() -> None:
    """a takes 40 ms; b takes 40 ms too, frames come there in 2 ms; a encodes for b."""
    table = CostTable(scenario("a", "b"))
    members = [price_pipeline(table, Goal(), [Step(name, None)]) for name in ("a", "b")]
    farm = price_farm(table, Goal(), members)
    # What b gets, a has to encode: x_a * 40 ms + x_b * 4 ms <= 1.
    rate_b = 1 / 0.042
    rate_a = (1 - rate_b * 0.004) / 0.040
    assert farm.throughput_fps == pytest.approx(rate_a + rate_b)
    assert farm.shares == pytest.approx((rate_a / (rate_a + rate_b), rate_b / (rate_a + rate_b)))
    assert farm.family == "farm"
    with pytest.raises(PlanError, match="own devices"):
        price_farm(table, Goal(), [members[0], members[0]])


def test_limits_that_are_broken_are_listed_with_what_would_be_needed() -> None:
    """Of the goal, and of each device."""
    asked = scenario("a", "b")
    devices = (Device(name="a", max_ms=15.0, memory="1 kB"), Device(name="b", max_macs=10))
    asked = replace(asked, fleet=msgspec.structs.replace(asked.fleet, device=devices))
    goal = Goal(max_latency_s=0.01, min_fps=1000)
    found = {one.limit: one for one in violations(CostTable(asked), goal, two_stages(asked))}
    assert set(found) == {"max_latency_s", "min_fps", "a.memory", "a.max_ms", "b.max_macs"}
    assert found["min_fps"].best == pytest.approx(50.0)
    assert found["a.max_ms"].best == pytest.approx(20.0)
    assert found["b.max_macs"].best == 100


def test_an_infeasible_goal_says_which_limit_binds_and_by_how_much() -> None:
    """40 ms is the best there is; 10 ms were asked for."""
    report = plan(scenario("a"), Goal(max_latency_s=0.010))
    assert report.chosen is None
    (bound,) = report.binding
    assert (bound.limit, bound.asked, bound.unit) == ("max_latency_s", 0.010, "s")
    assert bound.best == pytest.approx(0.040)


def test_each_of_two_limits_that_bind_together_is_shown_alone() -> None:
    """Dropping either of them is not enough."""
    report = plan(scenario("a"), Goal(max_latency_s=0.010, min_fps=1000))
    assert {one.limit for one in report.binding} == {"max_latency_s", "min_fps"}


def test_a_device_limit_that_binds_is_named() -> None:
    """One device with a limit that no shard keeps."""
    asked = scenario("a")
    device = Device(name="a", max_ms=5.0)
    asked = replace(asked, fleet=msgspec.structs.replace(asked.fleet, device=(device,)))
    (bound,) = plan(asked, Goal()).binding
    assert (bound.limit, bound.asked) == ("a.max_ms", 5.0)
    assert bound.best == pytest.approx(40.0)


def test_an_accuracy_limit_that_binds_tells_how_much_would_have_to_be_lost() -> None:
    """Only JPEG reaches the only device that can run."""
    asked = scenario("a", "b", frames=(msgspec.structs.replace(JPEG, accuracy_drop_pp=0.7),))
    devices = (Device(name="a", can_run=False), Device(name="b"))
    asked = replace(asked, fleet=msgspec.structs.replace(asked.fleet, device=devices))
    report = plan(asked, Goal(max_accuracy_drop_pp=0.2))
    (bound,) = report.binding
    assert (bound.limit, bound.best) == ("max_accuracy_drop_pp", pytest.approx(0.7))
    assert plan(asked, Goal(max_accuracy_drop_pp=0.7)).chosen is not None


def test_a_device_that_cannot_run_still_owns_the_camera() -> None:
    """Frames leave it."""
    asked = scenario("a", "b")
    devices = (Device(name="a", can_run=False), Device(name="b"))
    report = plan(
        replace(asked, fleet=msgspec.structs.replace(asked.fleet, device=devices)), Goal()
    )
    assert report.chosen is not None and report.chosen.devices == ("b",)
    assert report.chosen.family == "frames"


def test_balanced_needs_to_know_what_it_is_relative_to() -> None:
    """1.0 would be the best in both at once."""
    found = two_stages(scenario("a", "b"))
    with pytest.raises(PlanError, match="relative"):
        objective_value(Goal(objective="balanced"), found)
    best = Bests(found.latency.time_s, found.interval_s)
    assert objective_value(Goal(objective="balanced"), found, best) == pytest.approx(1.0)


def test_a_loss_measured_for_a_shard_counts_in_full_and_one_for_the_model_by_work() -> None:
    """Unknown losses are infinite, and fp32 has none."""
    below = np.triu(np.ones((3, 3), bool), 1)
    table = AccuracyTable(
        drop=(
            AccuracyDrop(strategy="*", precision="int8", drop_pp=2.0),
            AccuracyDrop(strategy="S3", precision="int8", drop_pp=1.0, until="t0"),
        )
    )
    work = np.array([0.0, 25.0, 100.0])
    found = drops_pp(table, "S3", "int8", work, ["t0"], below)
    assert found[0, 2] == 2.0 and found[0, 1] == 1.0 and found[1, 2] == 1.5
    assert drops_pp(table, "S3+Ss", "int8", work, ["t0"], below)[0, 1] == 0.5
    assert np.isinf(drops_pp(table, "S3", "fp16", work, ["t0"], below)).all()
    assert not drops_pp(table, "S3", "fp32", work, ["t0"], below).any()


def test_a_shard_that_holds_a_measured_one_is_taken_to_lose_no_less() -> None:
    """Else the planner would cut just beside whatever was measured."""
    table = AccuracyTable(
        drop=(
            AccuracyDrop(strategy="*", precision="int8", drop_pp=1.0),
            AccuracyDrop(strategy="*", precision="int8", drop_pp=0.8, until="t0"),
        )
    )
    below = np.triu(np.ones((4, 4), bool), 1)
    found = drops_pp(table, "S3", "int8", np.array([0.0, 1, 2, 100.0]), ["t0", "t1"], below)
    assert found[0, 1] == found[0, 2] == 0.8 and found[0, 3] == 1.0
    assert found[1, 2] == pytest.approx(0.01)


def candidate(latency_s: float, interval_s: float, nbytes: int = 0) -> Candidate:
    time = Interval(time_s=latency_s, low_s=latency_s, high_s=latency_s)
    return Candidate(family="whole", latency=time, interval_s=interval_s, link_bytes=nbytes)


def test_the_front_holds_what_nothing_beats_in_everything() -> None:
    """Equal ones appear once."""
    best, other, light = candidate(1, 3), candidate(2, 1), candidate(2, 3, -1)
    worse = candidate(2, 3)
    assert pareto_front([worse, other, light, best, best]) == (best, other, light)


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_undominated_labels_are_those_that_pairwise_comparison_keeps(columns: int) -> None:
    """Ties included: of equal rows the first stays."""
    rng = np.random.default_rng(columns)
    for _ in range(30):
        group, sums = rng.integers(0, 3, 40), rng.integers(0, 5, (40, columns)).astype(float)
        kept = undominated(group, sums)
        expected = {
            (int(group[i]), tuple(sums[i]))
            for i in range(40)
            if not any(
                group[j] == group[i] and (sums[j] <= sums[i]).all() and (sums[j] < sums[i]).any()
                for j in range(40)
            )
        }
        assert {(int(group[i]), tuple(sums[i])) for i in kept} == expected
        assert len(kept) == len(expected)
