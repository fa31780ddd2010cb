"""What would change the decision is found where it changes, and said with its unit."""

import re
from dataclasses import replace

import msgspec
import pytest

from edgekit.planner.cost_table import CostTable
from edgekit.planner.flips import find_flips
from edgekit.planner.scenario import Scenario, Variant
from edgekit.planner.search import plan
from edgekit.planner.what_if import scaled_profile
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.planning import Candidate, Goal
from tests.graphs import workload
from tests.plan_values import alone, farm, frames, pipeline, plan_report
from tests.planner.test_what_if import PROFILE
from tests.trial.test_settle import MODEL as CHAIN

MODEL = workload([("Relu", ["image"], ["a"]), ("Tanh", ["a"], ["b"])], outputs=["b"])
FLEET = Fleet(
    name="yard",
    device=(Device(name="camera"), Device(name="gateway")),
    link=(Link(source="camera", target="gateway", bandwidth="100 Mbit/s"),),
)
SCENARIO = Scenario(
    model="net",
    model_sha256="ab" * 32,
    variants=(Variant("S3", MODEL),),
    fleet=FLEET,
    profiles={"camera": PROFILE, "gateway": PROFILE},
)


TABLE = CostTable(SCENARIO)


def by_bandwidth(table: CostTable) -> Candidate:
    """Frames win from 140 Mbit/s on, the camera alone below 30."""
    rate = table.scenario.fleet.link[0].bandwidth_bytes_per_s * 8 / 1e6
    return frames() if rate > 140 else alone() if rate < 30 else pipeline()


def camera_s(table: CostTable) -> float:
    """The whole model on the camera, relative to how long it takes now."""
    whole = [float(one.options["camera"][0].time_s[0, -1]) for one in (table, TABLE)]
    return whole[0] / whole[1]


def value(text: str) -> float:
    found = re.search(r"[\d.]+", text)
    assert found
    return float(found[0])


def test_the_bandwidth_at_which_another_plan_wins_is_found_both_ways() -> None:
    above, below = find_flips(TABLE, Goal(), plan_report(), choose=by_bandwidth)
    assert above.startswith("above") and below.startswith("below")
    assert value(above) == pytest.approx(140, rel=0.04)
    assert value(below) == pytest.approx(30, rel=0.04)
    assert above.endswith("Mbit/s from camera to gateway: gateway, frames as jpeg-90 from camera")
    assert below.endswith("camera alone")


def test_a_faster_device_can_change_the_decision() -> None:
    def choose(table: CostTable) -> Candidate:
        return alone() if camera_s(table) < 1 / 3 else pipeline()

    (flip,) = find_flips(TABLE, Goal(), plan_report(), choose=choose)
    assert flip == "if camera were more than 3 times as fast: camera alone"


def test_a_cut_that_moves_along_is_no_other_decision() -> None:
    assert (
        find_flips(TABLE, Goal(), plan_report(), choose=lambda table: pipeline(cut="conv9")) == ()
    )


def test_members_of_a_farm_in_another_order_are_the_same_farm() -> None:
    """They are sorted by their shares, which change with every speed."""
    turned = msgspec.structs.replace(farm(), members=farm().members[::-1], shares=(0.6, 0.4))
    report = plan_report(chosen=farm())
    assert find_flips(TABLE, Goal(), report, choose=lambda table: turned) == ()


def test_where_nothing_keeps_the_limits_any_more_that_is_said() -> None:
    def choose(table: CostTable) -> Candidate | None:
        rate = table.scenario.fleet.link[0].bandwidth_bytes_per_s
        return pipeline() if rate > 5e6 else None

    (flip,) = find_flips(TABLE, Goal(), plan_report(), choose=choose)
    assert flip.startswith("below 39") and flip.endswith("no plan keeps the limits")


def test_without_a_plan_there_is_nothing_to_change() -> None:
    assert find_flips(TABLE, Goal(), plan_report(chosen=None), choose=by_bandwidth) == ()


def test_a_flip_is_what_planning_anew_would_say() -> None:
    """Against the search itself, on both sides of the value."""
    slow = msgspec.structs.replace(FLEET.link[0], bandwidth="1 Mbit/s")
    profiles = {"camera": scaled_profile(PROFILE, 0.1), "gateway": PROFILE}
    fleet = msgspec.structs.replace(FLEET, link=(slow,))
    variants = (Variant("S3", CHAIN),)
    asked = replace(SCENARIO, fleet=fleet, profiles=profiles, variants=variants)
    report = plan(asked, Goal())
    assert report.chosen is not None
    flips = find_flips(CostTable(asked), Goal(), report)
    above = [flip for flip in flips if flip.startswith("above")]
    assert above
    for flip in above:
        rate = value(flip) * {"k": 1e3, "M": 1e6, "G": 1e9}[flip.split("bit/s")[0][-1]]
        for factor, is_other in ((0.9, False), (1.1, True)):
            link = msgspec.structs.replace(slow, bandwidth=f"{rate * factor} bit/s")
            moved = replace(asked, fleet=msgspec.structs.replace(FLEET, link=(link,)))
            chosen = plan(moved, Goal()).chosen
            assert chosen is not None
            assert (chosen.devices != report.chosen.devices) == is_other
