"""Which plan of a report is run, and that a line of the tables says what runs."""

from pathlib import Path

import msgspec
import pytest

from edgekit.spec.base import save
from edgekit.spec.card import ModelCard, OutputCard
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.planning import Candidate, Goal, PlanReport
from tests.bench.versus import LOADED, PLACES, loads_for, methods_for, runs_in
from tests.bench.versus_plans import (
    CLOUD_EDGE,
    CLOUD_RAW,
    FARM,
    HTTP,
    JPEG,
    OURS,
    STRONG,
    WEAK,
    Planned,
    Ways,
    described,
    only,
)
from tests.bench.versus_runs import CAMERA, LOADS, SATURATION, Run
from tests.bench.versus_world import CLOUD, Workload
from tests.plan_values import alone, candidate, hop, pipeline, stage

FLEET = Fleet(
    name="two",
    device=(Device(name="camera"), Device(name="gateway", relative_speed=3.0)),
    link=(Link(source="camera", target="gateway"),),
    host_speed=12.0,
)


def frames() -> Candidate:
    films = hop("camera", "gateway", 3, carries="frame", codec="jpeg-90")
    return candidate("frames", [stage("gateway", 8)], [films])


def report_of(chosen: Candidate, *alternatives: Candidate) -> PlanReport:
    return PlanReport(
        model="m", model_sha256="0", fleet="two", goal=Goal(objective="throughput"), chosen=chosen,
        alternatives=alternatives,
    )  # fmt: skip


def ways() -> Ways:
    workload = Workload(
        name="yard", detector="", model=Path("m.pt"), folder=Path("frames"), truth=(),
        card=ModelCard(name="m", labels=("a",), output=OutputCard(decoder="ultralytics")),
        labels=("a",),
    )  # fmt: skip
    planned = Planned(
        report=report_of(pipeline()),
        candidates={OURS: pipeline()},
        notes={},
        deadline_ms=1.0,
        emulated="",
    )
    return Ways(fleet=FLEET, workload=workload, home=Path("home"), planned=planned)


def test_a_plan_in_one_line_says_devices_cuts_and_codecs() -> None:
    assert described(pipeline(), "camera") == "camera [until conv5] -> gateway by fp32"
    assert described(frames(), "camera") == "camera films -> gateway by jpeg-90"
    assert described(alone(), "camera") == "camera"
    shared = msgspec.structs.replace(alone(), stages=(), family="farm", members=(alone(), frames()))
    text = "camera answers some itself | camera films -> gateway by jpeg-90"
    assert described(shared, "camera") == text


def test_every_method_says_what_it_runs() -> None:
    methods = (OURS, JPEG, CLOUD_RAW, WEAK, STRONG, FARM, CLOUD_EDGE, HTTP)
    texts = [ways().text(method) for method in methods]
    assert len(set(texts)) == len(texts)
    assert all("gateway" in text or text == "camera" for text in texts)


def test_a_part_of_a_fleet_keeps_its_links_only() -> None:
    both, strong = only(FLEET, ("camera", "gateway")), only(FLEET, ("gateway",))
    assert both.link == FLEET.link
    assert [one.name for one in strong.device] == ["gateway"]
    assert strong.link == ()


@pytest.mark.parametrize("place", PLACES)
def test_a_full_run_always_measures_how_fast_ours_is(place: tuple[str, str]) -> None:
    """The other loads come at shares of that rate."""
    assert loads_for(place, None, quick=False)[0] == SATURATION
    assert loads_for(place, [CAMERA], quick=False) == (SATURATION, CAMERA)
    assert loads_for(place, None, quick=True) == (SATURATION,)
    assert methods_for(place[0], quick=False)[0] == OURS
    assert (loads_for(place, None, quick=False) == LOADS) == (place in LOADED)


def test_cloud_methods_are_compared_on_the_clouds_fleet() -> None:
    assert {CLOUD_RAW, CLOUD_EDGE} <= set(methods_for(CLOUD, quick=False))
    assert not {CLOUD_RAW, CLOUD_EDGE} & set(methods_for("nano-nx", quick=False))
    assert methods_for("nano-nx", quick=True) == (OURS, JPEG, HTTP, WEAK)
    assert methods_for("nano-nx", quick=False, asked=[WEAK]) == (OURS, WEAK)


def test_a_report_has_all_runs_of_a_folder_in_the_order_of_a_full_run(tmp_path: Path) -> None:
    runs = [
        Run(fleet=fleet, workload="yard", method=method, load=load, emulated="")
        for fleet in ("tx2-nx", "nano-nx")
        for load in (CAMERA, SATURATION)
        for method in (HTTP, OURS)
    ]
    for run in runs:
        save(run, tmp_path / run.file_name)
    save(ways().planned, tmp_path / "plans_nano-nx_yard.json")
    found = [(run.fleet, run.load, run.method) for run in runs_in(tmp_path)]
    assert found[:3] == [
        ("nano-nx", SATURATION, OURS),
        ("nano-nx", SATURATION, HTTP),
        ("nano-nx", CAMERA, OURS),
    ]
    assert len(found) == len(runs)
