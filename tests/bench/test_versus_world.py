"""Fleets keep the paper's ratios however slow they are made; AP is that of the answers given."""

from pathlib import Path

import pytest

from edgekit.spec.card import ModelCard, OutputCard
from edgekit.spec.messages import AnswerReport, Detection
from tests.bench.versus_world import (
    CLOUD,
    CLOUD_RATIO,
    FLEETS,
    PASSES_MS,
    Workload,
    emulated,
    fleet_for,
)

TRUTH = (
    (Detection(label="helmet", score=1.0, box=(10, 10, 20, 20)),),
    (Detection(label="helmet", score=1.0, box=(30, 30, 50, 50)),),
)


def workload() -> Workload:
    return Workload(
        name="yard", detector="", model=Path("m.pt"), folder=Path("frames"), truth=TRUTH,
        card=ModelCard(name="m", labels=("helmet",), output=OutputCard(decoder="ultralytics")),
        labels=("helmet",),
    )  # fmt: skip


def answer(frame: int, *found: Detection) -> AnswerReport:
    return AnswerReport(
        stream="s", run="r", frame=frame, detections=found, captured_unix_s=0.0, age_ms=1.0
    )


@pytest.mark.parametrize("name", [name for name in FLEETS if name != CLOUD])
@pytest.mark.parametrize("workload_name", PASSES_MS)
def test_boards_keep_their_ratio_and_the_strong_one_is_a_whole_number_slower(
    name: str, workload_name: str
) -> None:
    fleet = fleet_for(name, workload_name)
    weak, strong = fleet.device
    assert fleet.slowdown(strong) == pytest.approx(round(fleet.slowdown(strong)))
    ratio = fleet.slowdown(weak) / fleet.slowdown(strong)
    assert ratio == pytest.approx(strong.relative_speed / weak.relative_speed)
    assert weak.name in emulated(fleet)


def test_the_cloud_is_this_machine_and_no_faster() -> None:
    fleet = fleet_for(CLOUD, "yard")
    weak, strong = fleet.device
    assert fleet.slowdown(strong) == 1.0
    assert fleet.slowdown(weak) == pytest.approx(CLOUD_RATIO)
    assert fleet.link[0].toward(strong.name) == pytest.approx(107.4e6 / 8)


@pytest.mark.parametrize("name", FLEETS)
def test_on_a_busy_machine_all_devices_are_slower_by_the_same_factor(name: str) -> None:
    usual, slower = fleet_for(name, "yard"), fleet_for(name, "yard", slower=3)
    for one, other in zip(usual.device, slower.device, strict=True):
        assert slower.slowdown(other) == pytest.approx(3 * usual.slowdown(one))


def test_perfect_answers_have_full_precision_and_a_lost_picture_costs() -> None:
    both = [answer(0, *TRUTH[0]), answer(1, *TRUTH[1])]
    assert workload().ap50_percent(both) == {"helmet": pytest.approx(100.0, abs=0.1)}
    one_lost = [answer(1, *TRUTH[1])]
    assert workload().ap50_percent(one_lost)["helmet"] < 60


def test_only_the_first_pass_over_the_pictures_counts() -> None:
    wrong = Detection(label="helmet", score=1.0, box=(90, 90, 99, 99))
    answers = [answer(0, *TRUTH[0]), answer(1, *TRUTH[1]), answer(2, wrong), answer(3, wrong)]
    assert workload().ap50_percent(answers) == workload().ap50_percent(answers[:2])


def test_a_run_that_saw_only_some_pictures_has_no_precision() -> None:
    assert workload().ap50_percent([answer(0, *TRUTH[0])]) == {}
    assert workload().ap50_percent([]) == {}
