"""What the paper's benchmark makes of its runs: gains, ratios, ways to compute."""

import csv
from pathlib import Path

import pytest

from edgekit.spec.fleet import Device, Fleet
from tests.bench.paper_accuracy import Accuracy, how
from tests.bench.paper_runs import Run, frames_for
from tests.bench.paper_tables import (
    accuracy_changes_pp,
    gain_of,
    gains_percent,
    markdown,
    mean_gains_percent,
    write_csv,
)
from tests.bench.paper_world import as_file_name, slowed
from tests.plan_values import candidate, hop, stage


def run(
    method: str, fps: float, *, load: str = "saturation", number: int = 0, **more: object
) -> Run:
    return Run(
        fleet="nano-nx", dataset="mnist", network="repvgg", method=method, load=load, round=number,
        plan=f"plan of {method}", family="pipeline", predicted_fps=fps, predicted_latency_ms=20.0,
        frames=100, fps=fps, mean_age_ms=33.0, accuracy_percent=99.0, **more,
    )  # fmt: skip


RUNS = [
    run("ours", 60.0), run("ours", 64.0, number=1), run("ours", 62.0, number=2),
    run("edge-only", 50.0), run("sidd", 31.0), run("w/o roofline", 61.0), run("split at 5 %", 90.0),
]  # fmt: skip
PLACE = ("nano-nx", "mnist", "repvgg")


def test_the_gain_is_over_the_best_other_planner_and_by_the_median_round() -> None:
    """Not over ablations of our own, and not over cuts that nobody chose."""
    assert gains_percent(RUNS) == {PLACE: pytest.approx(100 * (62 / 50 - 1))}
    assert mean_gains_percent(RUNS)[PLACE] == pytest.approx(100 * ((62 / 50 + 62 / 31) / 2 - 1))
    assert gain_of(gains_percent(RUNS), "mnist") == pytest.approx(24.0)
    assert gain_of(gains_percent(RUNS), "cifar10") == 0.0


def test_a_run_without_figures_counts_for_nothing_and_is_listed() -> None:
    """A plan that could not be built has no throughput, not one of zero."""
    broken = run("mpms", 0.0, problem="no link")
    assert gains_percent([*RUNS, broken]) == gains_percent(RUNS)
    assert "mpms: no link" in markdown([*RUNS, broken], [])


def test_the_table_shows_the_spread_of_rounds_and_the_paper_s_ratio() -> None:
    """Table IV has 43.17 over 32.13 for RepVGG over SIDD."""
    text = markdown(RUNS, [])
    assert "62.0 (60.0 to 64.0)" in text
    assert "| mnist repvgg | sidd | 2.00 | 1.34 |" in text


def test_accuracy_changes_by_the_worst_plan_of_ours() -> None:
    """A fleet on which ours lost something is not averaged away."""

    def one(percent: float, *methods: str) -> Accuracy:
        return Accuracy(dataset="mnist", network="repvgg", how=str(percent), methods=methods,
                        frames=10, accuracy_percent=percent)  # fmt: skip

    rows = [one(99.0, "a edge-only"), one(99.1, "a ours"), one(98.5, "b ours"), one(90.0, "a sidd")]
    assert accuracy_changes_pp(rows) == {"mnist repvgg": pytest.approx(-0.5)}


def test_plans_of_two_fleets_that_compute_the_same_are_one() -> None:
    """Whatever their devices are called."""
    plans = [
        candidate(
            "pipeline",
            [stage(near, 10, until=("t",)), stage(far, 10, after=("t",))],
            [hop(near, far, 1)],
        )
        for near, far in (("nano", "nx"), ("tx1", "nx"))
    ]
    assert how(plans[0]) == how(plans[1])
    assert "until t" in how(plans[0])


def test_every_run_is_a_row(tmp_path: Path) -> None:
    """With quantiles of age in columns of their own."""
    write_csv(RUNS, tmp_path / "runs.csv")
    rows = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert len(rows) == len(RUNS)
    assert {"fps", "p95_ms", "same_as"} <= set(rows[0])


def test_boards_are_slowed_until_the_strongest_takes_20_ms_and_the_weakest_at_most_100() -> None:
    """So that what agents do besides does not decide; ratios stay."""

    def fleet(ratio: float) -> Fleet:
        devices = (Device(name="a", relative_speed=1.0), Device(name="b", relative_speed=ratio))
        return Fleet(name="f", device=devices)

    near = slowed(fleet(4.0), 1e-3)
    assert [1e-3 * near.slowdown(one) for one in near.device] == pytest.approx([80e-3, 20e-3])
    far = slowed(fleet(100.0), 1e-3)
    assert [1e-3 * far.slowdown(one) for one in far.device] == pytest.approx([100e-3, 1e-3])
    already = slowed(fleet(4.0), 1.0)
    assert [already.slowdown(one) for one in already.device] == pytest.approx([4.0, 1.0])


def test_names_of_files_can_be_read_and_runs_are_neither_empty_nor_endless() -> None:
    """Slashes and blanks would make folders."""
    assert as_file_name({"a": "nano-nx", "b": "w/o roofline"}) == "nano-nx-w-o-roofline"
    assert frames_for(0.1, 4.0) == 120
    assert frames_for(1e9, 4.0) == 10_000
