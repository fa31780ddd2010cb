"""Plots of the paper's experiments: Fig. 5 (methods), Fig. 7 (devices), Fig. 8 (split points).

In:  Runs, Cases.  Out: PNG files.  Whiskers reach from the least to the largest round.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.bench.paper_case import ABLATIONS, OURS, SPLIT, Case
from tests.bench.paper_runs import RANDOM, SATURATION, Run
from tests.bench.paper_tables import Place, fps_of, measured

_OURS_COLOR, _ABLATION_COLOR = "#c0392b", "#e8a29b"
_OTHERS = plt.get_cmap("Blues")


def plot_all(runs: Sequence[Run], cases: Sequence[Case], out: Path) -> list[Path]:
    """All of them. Returns: the files."""
    bars = [run for run in runs if not run.method.startswith(SPLIT)]
    made = []
    for fleet in dict.fromkeys(run.fleet for run in bars):
        own = [run for run in bars if run.fleet == fleet]
        made += [out / f"methods-{fleet}.png"]
        _methods(own, fleet, made[-1])
    made += [out / "devices.png", out / "ages.png"]
    _devices(bars, made[-2])
    _ages(bars, made[-1])
    if any(run.method.startswith(SPLIT) for run in runs):
        made += [out / "split-points.png"]
        _splits(runs, cases, made[-1])
    return made


def _methods(runs: Sequence[Run], fleet: str, path: Path) -> None:
    """Fig. 5: throughput, and response time at random requests, by method, on one fleet."""
    figure, panels = plt.subplots(2, 1, figsize=(11, 7.5))
    table = measured(runs, SATURATION)
    _bars(panels[0], table, lambda run: run.fps)
    panels[0].set_ylabel("answers per second, saturated")
    panels[0].set_title(f"{fleet}: planners through the same agents", loc="left")
    _bars(panels[1], measured(runs, RANDOM), lambda run: run.mean_age_ms)
    panels[1].set_ylabel("mean age of answers [ms],\nrequests at random")
    panels[1].set_yscale("log")
    panels[0].legend(fontsize=8, ncol=1, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(figure, path)


def _bars(panel: Axes, table: Mapping[Place, Mapping[str, Sequence[Run]]], figure_of) -> None:  # type: ignore[no-untyped-def]
    places = list(table)
    methods = list(dict.fromkeys(name for place in places for name in table[place]))
    others = [name for name in methods if name != OURS and name not in ABLATIONS]
    width = 0.84 / max(1, len(methods))
    for number, method in enumerate(methods):
        rows = [[figure_of(run) for run in table[place].get(method, [])] for place in places]
        heights = [median(one) if one else 0.0 for one in rows]
        low = [high - min(one, default=high) for one, high in zip(rows, heights, strict=True)]
        top = [max(one, default=high) - high for one, high in zip(rows, heights, strict=True)]
        panel.bar(
            [index + number * width for index in range(len(places))],
            heights, width * 0.92, yerr=[low, top], label=method, capsize=1.5, ecolor="#444444",
            color=_color(method, others),
        )  # fmt: skip
    panel.set_xticks(
        [index + 0.42 - width / 2 for index in range(len(places))],
        [f"{data}\n{net}" for _, data, net in places],
    )
    panel.spines[["top", "right"]].set_visible(False)


def _color(method: str, others: Sequence[str]) -> object:
    if method == OURS:
        return _OURS_COLOR
    if method in ABLATIONS:
        return _ABLATION_COLOR
    return _OTHERS(0.3 + 0.65 * others.index(method) / max(1, len(others) - 1))


def _devices(runs: Sequence[Run], path: Path) -> None:
    """Fig. 7: ours over the best other planner, by fleet."""
    table = measured(runs, SATURATION)
    fleets = list(dict.fromkeys(place[0] for place in table))
    nets = list(dict.fromkeys(place[1:] for place in table))
    figure, panel = plt.subplots(figsize=(9, 4))
    for number, net in enumerate(nets):
        points = []
        for fleet in fleets:
            by_method = table.get((fleet, *net), {})
            others = [
                fps_of(rows)
                for name, rows in by_method.items()
                if name != OURS and name not in ABLATIONS
            ]
            if OURS in by_method and others:
                points.append((fleets.index(fleet), fps_of(by_method[OURS]) / max(others)))
        offset = 0.08 * (number - (len(nets) - 1) / 2)
        panel.plot(
            [at + offset for at, _ in points], [ratio for _, ratio in points], "o", ms=6,
            label=" ".join(net),
        )  # fmt: skip
    panel.axhline(1.0, color="#888888", lw=0.8)
    panel.set_xticks(range(len(fleets)), fleets)
    panel.set_ylabel("throughput of ours over\nthat of the best other planner")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(figure, path)


def _ages(runs: Sequence[Run], path: Path) -> None:
    """Latency without waiting, as predicted, beside the age at random requests, as measured."""
    table = measured(runs, RANDOM)
    figure, panel = plt.subplots(figsize=(7.5, 5))
    methods = list(dict.fromkeys(name for by_method in table.values() for name in by_method))
    others = [name for name in methods if name != OURS and name not in ABLATIONS]
    for method in methods:
        rows = [run for by_method in table.values() for run in by_method.get(method, [])]
        panel.scatter(
            [run.predicted_latency_ms for run in rows],
            [run.mean_age_ms for run in rows],
            label=method, s=34 if method == OURS else 16, zorder=3 if method == OURS else 2,
            color=[_color(method, others)], marker="x" if method in ABLATIONS else "o",
        )  # fmt: skip
    panel.axline((10, 10), (100, 100), color="#bbbbbb", lw=0.8, zorder=1)
    panel.set(xscale="log", yscale="log")
    panel.set_xlabel("predicted latency of one frame alone [ms]")
    panel.set_ylabel("measured mean age of answers, requests at random [ms]")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(figure, path)


def _splits(runs: Sequence[Run], cases: Sequence[Case], path: Path) -> None:
    """Fig. 8: throughput over the share of the work that the first device does."""
    shares = {(c.fleet.name, c.dataset, c.network): c.shares for c in cases}
    table = measured(runs, SATURATION)
    places = [p for p in table if any(name.startswith(SPLIT) for name in table[p])]
    figure, panels = plt.subplots(
        1, len(places), figsize=(3.6 * len(places) + 1, 3.8), squeeze=False
    )
    for panel, place in zip(panels[0], places, strict=True):
        by_method = {name: rows for name, rows in table[place].items() if name in shares[place]}
        ordered = sorted(by_method, key=lambda name: shares[place][name])
        x = [100 * shares[place][name] for name in ordered]
        panel.plot(x, [fps_of(by_method[name]) for name in ordered], "o-", color="#2c6fbb",
                   label="measured")  # fmt: skip
        panel.plot(x, [by_method[name][0].predicted_fps for name in ordered], "x--", lw=0.9,
                   color="#888888", label="predicted")  # fmt: skip
        if OURS in table[place]:
            panel.axhline(fps_of(table[place][OURS]), color=_OURS_COLOR, lw=1.0, label=OURS)
        panel.set_title(" ".join(place[1:]), fontsize=10, loc="left")
        panel.set_xlabel(f"share of the work on the {place[0].split('-')[0]} [%]")
        panel.set_ylim(bottom=0)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("answers per second")
    panels[0][-1].legend(fontsize=8, frameon=False)
    _save(figure, path)


def _save(figure: "plt.Figure", path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
