"""What the tables of the comparisons claim follows from their runs, and from nothing else."""

import csv
from pathlib import Path

import pytest

from edgekit.spec.messages import Quantiles
from tests.bench.versus_plans import FARM, HTTP, JPEG, OURS, OURS_LOSSY, OURS_PROMPT, WEAK
from tests.bench.versus_runs import CAMERA, POISSON, SATURATION, Length, Run, options_of
from tests.bench.versus_tables import (
    OWN,
    ap_change_pp,
    beaten,
    gain_over_best_percent,
    gains_percent,
    lost_text,
    markdown,
    plot_ages,
    plot_bars,
    table7,
    write_csv,
)


def run_of(
    method: str, fps: float, *, load: str = SATURATION, fleet: str = "nano-nx", **more: object
) -> Run:
    values = {"plan": "a -> b", "ap50": {"helmet": 80.0, "person": 90.0}, "captured": 100} | more
    return Run(
        fleet=fleet,
        workload="yard",
        method=method,
        load=load,
        emulated="a = host / 4",
        fps=fps,
        age_ms=Quantiles(p50=10, p95=20, p99=30),
        bytes_per_frame=45_000.0,
        **values,  # type: ignore[arg-type]
    )


def test_the_gain_is_over_the_best_other_method_with_one_camera() -> None:
    """A farm has two cameras, and ours with a deadline is ours: neither is a rival here."""
    runs = [
        run_of(OURS, 12.0),
        run_of(OURS_PROMPT, 50.0),
        run_of(JPEG, 10.0),
        run_of(HTTP, 8.0),
        run_of(FARM, 30.0, plan="a | b, each with a camera"),
    ]
    assert gain_over_best_percent(runs) == {("nano-nx", "yard"): pytest.approx(20.0)}
    assert gains_percent(runs, HTTP) == {("nano-nx", "yard"): pytest.approx(50.0)}


def test_a_plan_of_ours_may_win_where_another_of_ours_loses() -> None:
    runs = [run_of(OURS, 9.0), run_of(OURS_LOSSY, 9.9), run_of(JPEG, 10.0)]
    assert gain_over_best_percent(runs, OWN) == {("nano-nx", "yard"): pytest.approx(-1.0)}
    assert beaten(runs) == []
    assert beaten([run_of(OURS, 9.0), run_of(JPEG, 10.0)]) == [("nano-nx", "yard")]
    assert beaten([run_of(OURS, 9.0), run_of(FARM, 20.0)]) == []


def test_what_was_not_measured_gives_no_gain() -> None:
    runs = [run_of(OURS, 12.0), run_of(HTTP, 0.0, problem="it is not installed")]
    assert gains_percent(runs, HTTP) == {}
    assert gain_over_best_percent(runs) == {}
    assert gains_percent([run_of(OURS, 12.0, load=CAMERA), run_of(HTTP, 1.0)], HTTP) == {}


def test_accuracy_is_compared_as_the_mean_over_classes() -> None:
    runs = [run_of(OURS, 1.0), run_of(WEAK, 1.0, ap50={"helmet": 84.0, "person": 90.0})]
    assert ap_change_pp(runs, WEAK) == {("nano-nx", "yard"): pytest.approx(-2.0)}


def test_lost_frames_are_told_with_their_reasons() -> None:
    assert lost_text(run_of(HTTP, 1.0)) == "0"
    run = run_of(HTTP, 1.0, lost={"timeout": 2, "superseded": 3})
    assert lost_text(run) == "5 of 100 (superseded, timeout)"


def test_a_method_without_figures_says_why_below_the_table() -> None:
    text = markdown([run_of(OURS, 12.0), run_of("jpeg over mosec", 0.0, problem="not installed")])
    assert "| jpeg over mosec | - | - |" in text
    assert "- nano-nx, yard, jpeg over mosec: not installed" in text


def test_table_vii_holds_the_papers_figures_beside_those_of_its_fleet_only() -> None:
    assert table7([run_of(OURS, 12.0)]) == []
    lines = table7([run_of(OURS, 12.0, fleet="tx2-rtx4090")])
    assert lines[-1] == "| ours | 80.00 | 90.00 | 12.00 | 79.26 | 86.12 | 27.98 |"


def test_the_csv_has_a_row_for_each_run(tmp_path: Path) -> None:
    runs = [run_of(OURS, 12.0), run_of(HTTP, 9.0, load=POISSON, lost={"timeout": 4})]
    write_csv(runs, tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["method"] for row in rows] == [OURS, HTTP]
    assert (rows[1]["lost"], rows[1]["p99_ms"]) == ("4", "30")
    assert rows[0]["ap50"] == "helmet=80.0 person=90.0"


def test_plots_are_drawn_from_whatever_there_is(tmp_path: Path) -> None:
    runs = [run_of(OURS, 12.0), run_of(HTTP, 9.0, load=POISSON)]
    plot_bars(runs, tmp_path / "bars.png")
    plot_ages(runs, tmp_path / "ages.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("bars.png", "ages.png"))
    plot_ages(runs[:1], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_no_two_runs_share_a_file() -> None:
    runs = [
        run_of(method, 1.0, load=load)
        for method in (OURS, OURS_PROMPT, JPEG, HTTP, WEAK, FARM, "jpeg over litserve")
        for load in (SATURATION, CAMERA, POISSON)
    ]
    assert len({run.file_name for run in runs}) == len(runs)


def test_a_run_has_frames_enough_for_its_labels_and_ends_in_time() -> None:
    length = Length(seconds=10.0, most_frames=500)
    assert length.frames(3.0, 96) == 96
    assert length.frames(20.0, 96) == 200
    assert length.frames(1000.0, 96) == 500


def test_only_a_camera_drops_what_comes_too_fast() -> None:
    assert options_of(CAMERA, 12.5) == "mode=live&fps=12.500"
    assert options_of(POISSON, 2.0) == "mode=every&arrivals=poisson&fps=2.000"
    assert options_of(SATURATION, 0.0) == "mode=every"
