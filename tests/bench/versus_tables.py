"""Runs of the comparisons as tables, plots, and the figures of the RESULT line.

In:  Runs.  Out: Markdown, CSV, PNG.  Pure but for writing.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from tests.bench.versus_plans import (
    CLOUD_EDGE,
    CLOUD_RAW,
    FARM,
    HTTP,
    JPEG,
    OURS,
    OURS_LOSSY,
    OURS_PROMPT,
)
from tests.bench.versus_runs import CAMERA, POISSON, SATURATION, Run
from tests.bench.versus_world import CLOUD

Place = tuple[str, str]
"""Fleet, workload."""
_LOAD_TITLES = {
    SATURATION: "as fast as frames are taken",
    CAMERA: "camera at a fixed rate, the newest frame wins",
    POISSON: "requests at random, all of them wait",
}
TABLE7 = ("SIDD", "RoofSplit", OURS, OURS_LOSSY, OURS_PROMPT, CLOUD_EDGE, CLOUD_RAW, JPEG, HTTP)
PAPER7: Mapping[str, tuple[float, float, float]] = {
    "SIDD": (84.27, 90.19, 17.41),
    "RoofSplit": (71.93, 84.06, 21.34),
    OURS: (79.26, 86.12, 27.98),
    CLOUD_EDGE: (80.49, 87.07, 12.38),
    CLOUD_RAW: (82.15, 88.69, 12.20),
}
"""Table VII of arXiv 2411.00838: AP of helmets and persons [%], pictures per second."""
OWN = (OURS, OURS_LOSSY, OURS_PROMPT)
_DASH = "-"
_NOISE_PERCENT = 3.0


def place_of(run: Run) -> Place:
    """Where a run belongs."""
    return run.fleet, run.workload


def by_place(runs: Sequence[Run], load: str) -> dict[Place, dict[str, Run]]:
    """Runs of one load by place and method, those without figures too."""
    found: dict[Place, dict[str, Run]] = {}
    for run in runs:
        if run.load == load:
            found.setdefault(place_of(run), {})[run.method] = run
    return found


def gains_percent(runs: Sequence[Run], other: str) -> dict[Place, float]:
    """Saturated throughput of ours over that of another method, where both were measured."""
    found = {}
    for place, methods in by_place(runs, SATURATION).items():
        ours, theirs = methods.get(OURS), methods.get(other)
        if ours and theirs and ours.fps > 0 and theirs.fps > 0:
            found[place] = 100 * (ours.fps / theirs.fps - 1)
    return found


def gain_over_best_percent(
    runs: Sequence[Run], ours: Sequence[str] = (OURS,)
) -> dict[Place, float]:
    """Saturated throughput of ours (the best of these) over that of the best other method that has
    one camera, as ours has.
    """
    found = {}
    for place, methods in by_place(runs, SATURATION).items():
        own = [methods[name].fps for name in ours if name in methods]
        others = [run.fps for method, run in methods.items() if method not in (*OWN, FARM)]
        if max(own, default=0.0) > 0 and max(others, default=0.0) > 0:
            found[place] = 100 * (max(own) / max(others) - 1)
    return found


def beaten(runs: Sequence[Run]) -> list[Place]:
    """Where a method without our planner was faster than the best of our plans, beyond noise."""
    gains = gain_over_best_percent(runs, OWN)
    return [place for place, gain in gains.items() if gain < -_NOISE_PERCENT]


def ap_change_pp(runs: Sequence[Run], other: str) -> dict[Place, float]:
    """Mean AP50 over labels of ours less that of another method [percentage points]."""
    found = {}
    for place, methods in by_place(runs, SATURATION).items():
        ours, theirs = methods.get(OURS), methods.get(other)
        if ours and theirs and ours.ap50 and theirs.ap50:
            found[place] = mean_ap(ours) - mean_ap(theirs)
    return found


def mean_ap(run: Run) -> float:
    """Over labels [%]."""
    return sum(run.ap50.values()) / max(1, len(run.ap50))


def markdown(runs: Sequence[Run]) -> str:
    """A table for each fleet and workload, its loads below each other; then Table VII."""
    lines: list[str] = []
    for place in dict.fromkeys(map(place_of, runs)):
        here = [run for run in runs if place_of(run) == place]
        lines += [f"## {place[0]}, {place[1]}", "", f"Emulated: {here[0].emulated}.", ""]
        for load, title in _LOAD_TITLES.items():
            rows = [run for run in here if run.load == load]
            if rows:
                lines += [*_table(rows, title), ""]
        plans = dict.fromkeys(f"- {run.method}: {run.plan}" for run in here)
        lines += ["What ran:", "", *plans, ""]
        notes = dict.fromkeys(f"- {run.method}: {run.note}" for run in here if run.note)
        lines += [*notes, ""] if notes else []
    if seven := table7(runs):
        lines += [*seven, ""]
    problems = dict.fromkeys(
        f"- {run.fleet}, {run.workload}, {run.method}: {run.problem}" for run in runs if run.problem
    )
    if problems:
        lines += ["## Not measured", "", *problems, ""]
    return "\n".join(lines)


def _table(rows: Sequence[Run], title: str) -> list[str]:
    offered = max((run.offered_fps for run in rows), default=0.0)
    labels = list(dict.fromkeys(label for run in rows for label in run.ap50))
    heads = ["method", "answers/s", "p50 ms", "p95 ms", "p99 ms", "kB/frame", "frames lost"]
    heads += [f"AP50 {label}" for label in labels]
    lines = [f"**{title}**" + (f", {offered:.1f} offered" if offered else ""), ""]
    lines += ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    lines += ["| " + " | ".join(_cells(run, labels)) + " |" for run in rows]
    return lines


def _cells(run: Run, labels: Sequence[str]) -> list[str]:
    if run.problem or not run.fps:
        return [run.method, *[_DASH] * (6 + len(labels))]
    ages = [f"{value:.0f}" for value in (run.age_ms.p50, run.age_ms.p95, run.age_ms.p99)]
    precisions = [f"{run.ap50[label]:.1f}" if label in run.ap50 else _DASH for label in labels]
    return [
        run.method, f"{run.fps:.2f}", *ages, f"{run.bytes_per_frame / 1e3:.0f}", lost_text(run),
        *precisions,
    ]  # fmt: skip


def lost_text(run: Run) -> str:
    """Such as "12 of 100 (superseded)"."""
    count = sum(run.lost.values())
    if not count:
        return "0"
    return f"{count} of {run.captured} ({', '.join(sorted(run.lost))})"


def table7(runs: Sequence[Run]) -> list[str]:
    """The layout of the paper's Table VII, its own figures beside ours; empty without its fleet."""
    methods = by_place(runs, SATURATION).get((CLOUD, "yard"), {})
    rows = [methods[name] for name in TABLE7 if name in methods and methods[name].fps > 0]
    if not rows:
        return []
    lines = [
        "## Table VII: detection, TX2 and cloud", "",
        f"Emulated: {rows[0].emulated}; the paper's RTX 4090 is 124 times a TX2, which this "
        "machine cannot be, so what runs mostly there would be faster still. Its columns: another "
        "data set (photographs of helmets), another detector of this structure.", "",
        "| method | helmet AP50 | person AP50 | img/s | paper: helmet | person | img/s |",
        "| --- |" + " ---: |" * 6,
    ]  # fmt: skip
    for run in rows:
        paper = PAPER7.get(run.method)
        theirs = [f"{value:.2f}" for value in paper] if paper else [_DASH] * 3
        own = [f"{run.ap50[key]:.2f}" if key in run.ap50 else _DASH for key in ("helmet", "person")]
        lines.append("| " + " | ".join([run.method, *own, f"{run.fps:.2f}", *theirs]) + " |")
    return lines


def write_csv(runs: Sequence[Run], path: Path) -> None:
    """Every run in a row."""
    plain = (
        "fleet", "workload", "method", "load", "emulated", "plan", "offered_fps", "captured",
        "answered", "fps", "mean_age_ms", "bytes_per_frame", "note", "problem",
    )  # fmt: skip
    with path.open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow([*plain, "p50_ms", "p95_ms", "p99_ms", "lost", "ap50"])
        for run in runs:
            ages = (run.age_ms.p50, run.age_ms.p95, run.age_ms.p99)
            precisions = " ".join(f"{label}={value}" for label, value in run.ap50.items())
            rows.writerow([
                *(getattr(run, name) for name in plain), *ages, sum(run.lost.values()), precisions,
            ])  # fmt: skip


def plot_bars(runs: Sequence[Run], path: Path) -> None:
    """Saturated throughput, a panel for each place, AP written beside the bar."""
    table = by_place(runs, SATURATION)
    places = [place for place in table if any(run.fps for run in table[place].values())]
    if not places:
        return
    columns = min(2, len(places))
    rows = -(-len(places) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(6.5 * columns, 3.6 * rows), squeeze=False)
    for panel in panels.flat[len(places) :]:
        panel.axis("off")
    for panel, place in zip(panels.flat, places, strict=False):
        shown = [run for run in table[place].values() if run.fps]
        names = [run.method for run in shown][::-1]
        values = [run.fps for run in shown][::-1]
        colours = ["#1b6ca8" if name.startswith(OURS) else "#b8c4cc" for name in names]
        bars = panel.barh(names, values, color=colours)
        for bar, run in zip(bars, shown[::-1], strict=True):
            ap = f", AP {mean_ap(run):.1f}" if run.ap50 else ""
            panel.text(
                bar.get_width(), bar.get_y() + bar.get_height() / 2, f" {run.fps:.1f}{ap}",
                va="center", fontsize=8,
            )  # fmt: skip
        panel.set_title(f"{place[0]}, {place[1]}", loc="left")
        panel.set_xlabel("answers per second")
        panel.margins(x=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_ages(runs: Sequence[Run], path: Path) -> None:
    """Age of answers at random requests and at a camera, p50 to p99, on a logarithmic axis."""
    kept = [run for run in runs if run.load != SATURATION and run.fps]
    places = list(dict.fromkeys(map(place_of, kept)))
    if not places:
        return
    loads = [load for load in (CAMERA, POISSON) if any(run.load == load for run in kept)]
    most = max(len({run.method for run in kept if place_of(run) == place}) for place in places)
    size = (6 * len(loads), (1.2 + 0.25 * most) * len(places))
    figure, panels = plt.subplots(len(places), len(loads), figsize=size, squeeze=False)
    for row, place in zip(panels, places, strict=True):
        for panel, load in zip(row, loads, strict=True):
            shown = [run for run in kept if place_of(run) == place and run.load == load][::-1]
            for index, run in enumerate(shown):
                colour = "#1b6ca8" if run.method.startswith(OURS) else "#7d8b94"
                panel.plot([run.age_ms.p50, run.age_ms.p99], [index, index], color=colour, lw=3)
                panel.plot([run.age_ms.p50], [index], "o", color=colour)
                if run.lost:
                    share = 100 * sum(run.lost.values()) / max(1, run.captured)
                    panel.text(
                        run.age_ms.p99, index, f"  {share:.0f} % lost", va="center", fontsize=8
                    )
            panel.set_yticks(range(len(shown)), [run.method for run in shown])
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter(ScalarFormatter())
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.set_title(f"{place[0]}, {place[1]}: {load}", loc="left", fontsize=9)
            panel.set_xlabel("age of answers, p50 to p99 [ms]")
            panel.margins(x=0.2, y=0.15)
            panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
