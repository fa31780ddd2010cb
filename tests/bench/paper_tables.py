"""Runs of the paper's experiments as tables and plots.

In:  Runs.  Out: Markdown, CSV, PNG, and the figures of the RESULT line.  Pure but for writing.
A cell is the median over rounds, with the least and the largest where there are several. The gain
of ours is its throughput over that of the best other planner on the same fleet and network.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from tests.bench.paper_runs import OURS, Run

ABLATION = "w/o "
Place = tuple[str, str, str]
"""Fleet, data set, network."""


def place_of(run: Run) -> Place:
    """Where a run belongs in a table."""
    return run.fleet, run.dataset, run.network


def measured(runs: Iterable[Run], load: str) -> dict[Place, dict[str, list[Run]]]:
    """Runs with figures, by place and method."""
    found: dict[Place, dict[str, list[Run]]] = {}
    for run in runs:
        if run.load == load and run.fps > 0:
            found.setdefault(place_of(run), {}).setdefault(run.method, []).append(run)
    return found


def fps_of(runs: Sequence[Run]) -> float:
    """Median over rounds."""
    return median(run.fps for run in runs)


def gains_percent(runs: Sequence[Run]) -> dict[Place, float]:
    """Throughput of ours over the best other planner's, where both were measured."""
    found = {}
    for place, by_method in measured(runs, "saturation").items():
        others = [
            fps_of(rows)
            for method, rows in by_method.items()
            if method != OURS and not method.startswith(ABLATION)
        ]
        if OURS in by_method and others:
            found[place] = 100 * (fps_of(by_method[OURS]) / max(others) - 1)
    return found


def accuracy_change_pp(runs: Sequence[Run]) -> float:
    """Accuracy of ours less that of the whole model in fp32 on one device, mean over places."""
    changes = []
    for by_method in measured(runs, "saturation").values():
        if OURS in by_method and "edge-only" in by_method:
            ours, whole = by_method[OURS][0], by_method["edge-only"][0]
            if ours.frames == whole.frames:
                changes.append(ours.accuracy_percent - whole.accuracy_percent)
    return fmean(changes) if changes else 0.0


def markdown(runs: Sequence[Run]) -> str:
    """One table per fleet: methods down, networks across."""
    lines = []
    saturated, random = measured(runs, "saturation"), measured(runs, "poisson")
    for fleet in dict.fromkeys(run.fleet for run in runs):
        places = [place for place in dict.fromkeys(map(place_of, runs)) if place[0] == fleet]
        methods = list(dict.fromkeys(run.method for run in runs if run.fleet == fleet))
        lines += [f"## {fleet}", "", "Throughput [1/s] | mean age at random arrivals [ms] | "
                  "accuracy [%]", ""]  # fmt: skip
        lines.append("| method | " + " | ".join(f"{data} {net}" for _, data, net in places) + " |")
        lines.append("| --- |" + " --- |" * len(places))
        for method in methods:
            cells = [
                _cell(saturated.get(place, {}).get(method), random.get(place, {}).get(method))
                for place in places
            ]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
        lines += [
            f"- {data} {net}: ours is {plan}"
            for (_, data, net), plan in _plans(runs, fleet).items()
        ]
        lines.append("")
    problems = dict.fromkeys(f"- {run.method}: {run.problem}" for run in runs if run.problem)
    if problems:
        lines += ["## Not measured", "", *problems, ""]
    return "\n".join(lines)


def write_csv(runs: Sequence[Run], path: Path) -> None:
    """Every run in a row."""
    names = [name for name in Run.__struct_fields__ if name != "age_ms"]
    with path.open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow([*names, "p50_ms", "p95_ms", "p99_ms"])
        for run in runs:
            ages = (run.age_ms.p50, run.age_ms.p95, run.age_ms.p99)
            rows.writerow([*(getattr(run, name) for name in names), *ages])


def plot_throughput(runs: Sequence[Run], path: Path) -> None:
    """Fig. 5 and 7 in one: bars of throughput, a panel for each fleet, whiskers over rounds."""
    table = measured(runs, "saturation")
    fleets = list(dict.fromkeys(place[0] for place in table))
    figure, panels = plt.subplots(
        max(1, len(fleets)), 1, figsize=(11, 3.2 * max(1, len(fleets))), squeeze=False
    )
    for panel, fleet in zip(panels[:, 0], fleets, strict=False):
        places = [place for place in table if place[0] == fleet]
        methods = list(dict.fromkeys(name for place in places for name in table[place]))
        width = 0.8 / max(1, len(methods))
        for number, method in enumerate(methods):
            rows = [table[place].get(method, []) for place in places]
            heights = [fps_of(one) if one else 0.0 for one in rows]
            low = [
                high - min((run.fps for run in one), default=high)
                for one, high in zip(rows, heights, strict=True)
            ]
            top = [
                max((run.fps for run in one), default=high) - high
                for one, high in zip(rows, heights, strict=True)
            ]
            panel.bar(
                [index + number * width for index in range(len(places))],
                heights, width, yerr=[low, top], label=method, capsize=1.5,
                edgecolor="black" if method == OURS else "none", linewidth=1.0,
            )  # fmt: skip
        panel.set_xticks(
            [index + 0.4 - width / 2 for index in range(len(places))],
            [f"{data}\n{net}" for _, data, net in places],
        )
        panel.set_ylabel("answers per second")
        panel.set_title(fleet, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0, 0].legend(fontsize=7, ncol=4, frameon=False, loc="upper left")
    panels[0, 0].margins(y=0.35)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_ages(runs: Sequence[Run], path: Path) -> None:
    """Response time at random arrivals: predicted order beside measured, one dot a method."""
    table = measured(runs, "poisson")
    figure, panel = plt.subplots(figsize=(7, 5))
    methods = list(dict.fromkeys(name for by_method in table.values() for name in by_method))
    for method in methods:
        rows = [run for by_method in table.values() for run in by_method.get(method, [])]
        panel.scatter(
            [run.predicted_latency_ms for run in rows],
            [run.mean_age_ms for run in rows],
            label=method, s=30 if method == OURS else 16,
        )  # fmt: skip
    panel.set(xscale="log", yscale="log")
    panel.set_xlabel("predicted latency without waiting [ms]")
    panel.set_ylabel("measured mean age of answers, requests at random [ms]")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _plans(runs: Iterable[Run], fleet: str) -> Mapping[Place, str]:
    return {place_of(run): run.plan for run in runs if run.fleet == fleet and run.method == OURS}


def _cell(saturated: Sequence[Run] | None, random: Sequence[Run] | None) -> str:
    if not saturated:
        return "-"
    text = f"{fps_of(saturated):.1f}"
    if len(saturated) > 1:
        text += f" ({min(r.fps for r in saturated):.1f} to {max(r.fps for r in saturated):.1f})"
    age = f"{median(run.mean_age_ms for run in random):.0f}" if random else "-"
    return f"{text} | {age} | {saturated[0].accuracy_percent:.2f}".replace(" | ", " / ")
