"""The search finds what brute force finds, and better hardware never makes the answer worse."""

import itertools
import math
import random
from dataclasses import replace

import msgspec
import pytest

from edgekit.errors import PlanError
from edgekit.planner.cost_table import CostTable
from edgekit.planner.ports import Ports
from edgekit.planner.pricing import Bests, objective_value, price_farm, violations
from edgekit.planner.scenario import Scenario
from edgekit.planner.search import best_pipeline, plan, plan_with
from edgekit.planner.what_if import scaled_profile
from edgekit.spec.base import parse_json, to_json
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.planning import Candidate, Goal, PlanReport
from tests.planner.brute_force import (
    Priced,
    best_value,
    every_pipeline,
    random_profile,
    random_scenario,
)

SEEDS = 210
OBJECTIVES = ("latency", "throughput", "balanced", "energy")


def drawn_goals(seed: int, found: list[Priced], base: Goal) -> list[Goal]:
    """Goals of every form, their limits taken from one of the pipelines."""
    rng = random.Random(seed)
    fits = [one for one in found if one.drop_pp <= base.max_accuracy_drop_pp]
    forms: list[dict[str, object]] = [{"objective": name} for name in OBJECTIVES]
    if fits:
        one = rng.choice(fits)
        max_latency_s, min_fps = one.latency_s * 1.001, 0.999 / one.interval_s
        forms += [
            {"objective": "latency", "min_fps": min_fps},
            {"objective": "throughput", "max_latency_s": max_latency_s},
            {"objective": "balanced", "max_latency_s": max_latency_s, "min_fps": min_fps},
            {"objective": "energy", "max_latency_s": max_latency_s},
            {"objective": "latency", "lambda1_s_per_pp": 0.02},
            {"objective": "throughput", "lambda1_s_per_pp": 0.02},
        ]
    forms = rng.sample(forms, 4)
    return [msgspec.structs.replace(base, **form) for form in forms]


def mismatches(seed: int) -> list[str]:
    """Goals for which the search and brute force disagree."""
    rng, scenario = random.Random(seed), random_scenario(seed)
    base = Goal(
        arrival_fps=rng.choice([None, None, 5.0]),
        max_accuracy_drop_pp=rng.choice([0.0, 0.5, 1.5]),
    )
    found = [one for one in every_pipeline(scenario, base) if math.isfinite(one.latency_s)]
    fits = [one for one in found if one.drop_pp <= base.max_accuracy_drop_pp + 1e-12]
    bests = (
        min((one.latency_s for one in fits), default=1.0),
        min((one.interval_s for one in fits), default=1.0),
    )
    table, wrong = CostTable(scenario), []
    for goal in drawn_goals(seed, found, base):
        expected = best_value(found, goal, bests)
        chosen = best_pipeline(table, goal, Bests(*bests))
        value = objective_value(goal, chosen, Bests(*bests)) if chosen else math.inf
        if value != expected and not abs(value - expected) <= 1e-9 * expected:
            wrong.append(f"{seed}: {goal}: {value} instead of {expected}")
    return wrong


@pytest.mark.parametrize("first", range(0, SEEDS, 30))
def test_the_best_pipeline_is_that_of_brute_force(first: int) -> None:
    """All cuts x orders x strategies x precisions x codecs, priced by definition: none better."""
    wrong = [text for seed in range(first, first + 30) for text in mismatches(seed)]
    assert not wrong


def value_of(report: PlanReport) -> float:
    """Of the objectives that are in seconds."""
    return math.inf if report.chosen is None else objective_value(report.goal, report.chosen)


def with_links(scenario: Scenario, links: tuple[Link, ...]) -> Scenario:
    return replace(scenario, fleet=msgspec.structs.replace(scenario.fleet, link=links))


@pytest.mark.parametrize("objective", ["latency", "throughput"])
@pytest.mark.parametrize("seed", range(20))
def test_more_bandwidth_never_makes_the_optimum_slower(objective: str, seed: int) -> None:
    """Farms included."""
    scenario = random_scenario(seed, lossy=False)
    links = tuple(
        msgspec.structs.replace(link, bandwidth="20 Gbit/s", bandwidth_back="")
        for link in scenario.fleet.link
    )
    goal = Goal(objective=objective)  # type: ignore[arg-type]
    before, after = plan(scenario, goal), plan(with_links(scenario, links), goal)
    assert value_of(after) <= value_of(before) * (1 + 1e-9)


@pytest.mark.parametrize("objective", ["latency", "throughput"])
@pytest.mark.parametrize("seed", range(20))
def test_a_faster_device_never_hurts(objective: str, seed: int) -> None:
    """Shards and coding take half the time on it."""
    scenario = random_scenario(seed, lossy=False)
    name = random.Random(seed).choice(list(scenario.profiles))
    devices = tuple(
        msgspec.structs.replace(one, relative_speed=2 * one.relative_speed)
        if one.name == name
        else one
        for one in scenario.devices
    )
    faster = replace(
        scenario,
        fleet=msgspec.structs.replace(scenario.fleet, device=devices),
        profiles={**scenario.profiles, name: scaled_profile(scenario.profiles[name], 2.0)},
    )
    goal = Goal(objective=objective)  # type: ignore[arg-type]
    assert value_of(plan(faster, goal)) <= value_of(plan(scenario, goal)) * (1 + 1e-9)


@pytest.mark.parametrize("objective", ["latency", "throughput"])
@pytest.mark.parametrize("seed", range(20))
def test_adding_a_device_never_hurts(objective: str, seed: int) -> None:
    """It can stay idle."""
    scenario = random_scenario(seed, lossy=False)
    fleet = scenario.fleet
    link = Link(source=fleet.device[0].name, target="new", bandwidth="1 Gbit/s")
    links = (*fleet.link, link) if fleet.link else ()  # without any, all are taken to be joined
    wider = replace(
        scenario,
        fleet=msgspec.structs.replace(
            fleet, device=(*fleet.device, Device(name="new")), link=links,
            source=fleet.source_name,
        ),
        profiles={**scenario.profiles, "new": next(iter(scenario.profiles.values()))},
    )  # fmt: skip
    goal = Goal(objective=objective)  # type: ignore[arg-type]
    assert value_of(plan(wider, goal)) <= value_of(plan(scenario, goal)) * (1 + 1e-9)


def renamed(scenario: Scenario, names: dict[str, str]) -> Scenario:
    fleet = scenario.fleet
    return replace(
        scenario,
        fleet=msgspec.structs.replace(
            fleet,
            device=tuple(msgspec.structs.replace(d, name=names[d.name]) for d in fleet.device),
            link=tuple(
                msgspec.structs.replace(one, source=names[one.source], target=names[one.target])
                for one in fleet.link
            ),
            source=names[fleet.source_name],
            sink=names[fleet.sink] if fleet.sink else "",
        ),
        profiles={names[name]: one for name, one in scenario.profiles.items()},
    )


@pytest.mark.parametrize("seed", range(12))
def test_other_names_change_nothing_but_the_names(seed: int) -> None:
    """Ties are broken by figures and the order of the fleet file."""
    scenario = random_scenario(seed)
    count = len(scenario.devices)
    names = {f"d{index}": f"x{count - index}" for index in range(count)}
    goal = Goal(objective="throughput", max_accuracy_drop_pp=0.5)
    before, after = plan(scenario, goal), plan(renamed(scenario, names), goal)
    assert (before.chosen is None) == (after.chosen is None)
    if before.chosen and after.chosen:
        assert [names[name] for name in before.chosen.devices] == list(after.chosen.devices)
        assert before.chosen.latency == after.chosen.latency
        assert [one.latency for one in before.pareto] == [one.latency for one in after.pareto]


@pytest.mark.parametrize("seed", range(6))
def test_two_runs_give_the_same_report(seed: int) -> None:
    """Only the time that it took differs; and a report survives being saved."""
    goal = Goal(objective="balanced", max_accuracy_drop_pp=0.5)
    one, other = plan(random_scenario(seed), goal), plan(random_scenario(seed), goal)
    plain = msgspec.structs.replace(one, seconds=0.0)
    assert plain == msgspec.structs.replace(other, seconds=0.0)
    assert parse_json(to_json(plain), PlanReport, origin="test") == plain


def can_be_built(table: CostTable, goal: Goal, one: Candidate) -> bool:
    source = table.scenario.fleet.source_name
    return goal.farms or not one.members or one.shared_by(source) is not None


@pytest.mark.parametrize("seed", range(15))
def test_the_chosen_plan_keeps_the_limits_and_nothing_listed_beats_it(seed: int) -> None:
    """Among everything the report shows."""
    table = CostTable(random_scenario(seed))
    goals = (Goal(), Goal(objective="throughput"), Goal(objective="balanced"))
    for goal in (*goals, *(msgspec.structs.replace(one, farms=True) for one in goals)):
        report = plan_with(table, goal)
        if report.chosen is None:
            continue
        bests = Bests(report.best_latency_s, report.best_interval_s)
        least = objective_value(goal, report.chosen, bests)
        assert not violations(table, goal, report.chosen)
        for one in (*report.pareto, *report.alternatives, *report.neighbours):
            if not violations(table, goal, one) and can_be_built(table, goal, one):
                assert least <= objective_value(goal, one, bests) * (1 + 1e-9)
        assert report.chosen in report.alternatives


def test_a_farm_is_priced_again_as_it_was() -> None:
    """Members keep what they were priced at; their shares add up to all frames."""
    for seed in range(30):
        table = CostTable(random_scenario(seed, lossy=False))
        report = plan_with(table, Goal(objective="throughput", farms=True))
        if report.chosen and report.chosen.members:
            farm = price_farm(table, report.goal, report.chosen.members)
            assert farm.interval_s == pytest.approx(report.chosen.interval_s)
            assert sum(farm.shares) == pytest.approx(1.0)
            return
    pytest.fail("no farm was the best anywhere")


def test_a_farm_that_no_agent_runs_is_shown_and_not_chosen() -> None:
    """What it would bring is said, and what keeps it from being chosen."""
    seen = 0
    for seed in range(60):
        table = CostTable(random_scenario(seed, lossy=False))
        goal = Goal(objective="throughput")
        free = plan_with(table, msgspec.structs.replace(goal, farms=True))
        if free.chosen is None or can_be_built(table, goal, free.chosen):
            continue
        report = plan_with(table, goal)
        assert report.chosen is None or can_be_built(table, goal, report.chosen)
        assert all(can_be_built(table, goal, one) for one in report.pareto)
        reasons = [one.reason for one in report.refusals if "times the throughput" in one.reason]
        assert reasons, seed
        assert "--farms" in reasons[0]
        seen += 1
    assert seen


def test_the_source_may_answer_some_frames_itself_and_send_the_others_on() -> None:
    """The one farm that agents run is chosen where it is best."""
    for seed in range(60):
        table = CostTable(random_scenario(seed, lossy=False))
        chosen = plan_with(table, Goal(objective="throughput")).chosen
        if chosen is None or not chosen.members:
            continue
        source = table.scenario.fleet.source_name
        parts = chosen.shared_by(source)
        assert parts is not None
        own, others = parts
        assert own.devices == (source,) and source not in others.devices
        return
    pytest.fail("it was the best nowhere")


def test_the_source_never_runs_a_later_shard_of_frames_that_it_sent() -> None:
    """A device has one place in a pipeline."""
    for seed in range(40):
        scenario = random_scenario(seed)
        source = scenario.fleet.source_name
        for objective in ("latency", "throughput"):
            report = plan(scenario, Goal(objective=objective, max_accuracy_drop_pp=5.0))
            for one in (*report.alternatives, *report.pareto):
                for part in one.members or (one,):
                    sends = any(hop.carries == "frame" for hop in part.hops)
                    assert not (sends and source in part.devices)


def test_energy_without_a_meter_is_refused() -> None:
    """Watts are never derived from work."""
    scenario = random_scenario(1, lossy=False)
    profiles = {
        name: msgspec.structs.replace(one, energy=None) for name, one in scenario.profiles.items()
    }
    with pytest.raises(PlanError, match="meter"):
        plan(replace(scenario, profiles=profiles), Goal(objective="energy"))


def alike(count: int) -> Scenario:
    """A camera, and ``count`` devices that differ in their names only."""
    scenario = random_scenario(0, lossy=False)
    one, other = (random_profile(random.Random(seed), f"p{seed}", False) for seed in (1, 2))
    names = [f"d{index}" for index in range(count + 1)]
    links = tuple(
        Link(source=a, target=b, bandwidth="300 Mbit/s", rtt="1 ms")
        for a, b in itertools.combinations(names, 2)
    )
    fleet = Fleet(name="star", device=tuple(Device(name=name) for name in names), link=links)
    profiles = {name: other if index else one for index, name in enumerate(names)}
    return replace(scenario, fleet=fleet, profiles=profiles)


def test_devices_that_differ_in_name_only_are_one_kind_and_none_is_lost() -> None:
    """As brute force over all of them finds."""
    scenario = alike(3)
    table = CostTable(scenario)
    assert Ports(table, Goal()).members == [["d0"], ["d1", "d2", "d3"]]
    found = list(every_pipeline(scenario, Goal()))
    for goal in (Goal(), Goal(objective="throughput")):
        chosen = best_pipeline(table, goal)
        assert chosen is not None
        expected = best_value(found, goal, (1.0, 1.0))
        assert objective_value(goal, chosen) == pytest.approx(expected, rel=1e-9)


def test_many_alike_devices_are_no_harder_than_a_few() -> None:
    """Sixteen of one kind are sixteen sets, not 65536; together they are faster than four."""
    many, few = (plan(alike(count), Goal(objective="throughput")) for count in (16, 4))
    assert value_of(many) <= value_of(few) * (1 + 1e-9)


def test_a_question_that_is_too_large_is_refused_rather_than_left_to_hang() -> None:
    """Twenty devices, each of its own kind."""
    scenario = alike(20)
    devices = tuple(
        msgspec.structs.replace(one, relative_speed=1.0 + index)
        for index, one in enumerate(scenario.devices)
    )
    fleet = msgspec.structs.replace(scenario.fleet, device=devices)
    with pytest.raises(PlanError, match="21 devices of 21 kinds"):
        plan(replace(scenario, fleet=fleet), Goal(), max_cuts=200)
