"""Regret as a table and as plots.

In:  Cases.  Out: Markdown, and a PNG: what the planner predicts of every combination beside what
its parts were timed at, and the plans that were run beside what came of them.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter

from tests.bench.regret_case import Case
from tests.bench.regret_runs import counted

_COLUMNS = 3


def markdown(cases: Sequence[Case]) -> str:
    """One row a case."""
    lines = [
        "| fleet | network | choice [1/s] | best [1/s] | regret [%] | noise [%] | rank | regret by "
        "bounds [%] | combinations | run | best plan |",
        "| --- | --- |" + " --- |" * 9,
    ]
    for case in cases:
        best = "the choice" if case.winner == case.chosen else case.winner
        ran = len({one.plan for one in case.run})
        lines.append(
            f"| {case.fleet} | {case.dataset} {case.network} | {case.chosen_fps:.1f} | "
            f"{max(case.winner_fps, case.chosen_fps):.1f} | {case.regret_percent:.2f} | "
            f"{case.noise_percent:.2f} | {case.rank} | {case.bound_regret_percent:.2f} | "
            f"{len(case.row)} | {ran} | {best} |"
        )
    return "\n".join(lines)


def plot(cases: Sequence[Case], path: Path) -> None:
    """A panel for each case: predicted interval across, intervals from parts and from runs up."""
    rows = -(-len(cases) // _COLUMNS)
    columns = min(_COLUMNS, len(cases))
    figure, panels = plt.subplots(rows, columns, figsize=(4.6 * columns, 4.1 * rows), squeeze=False)
    for panel in panels.flat[len(cases) :]:
        panel.axis("off")
    for panel, case in zip(panels.flat, cases, strict=False):
        _panel(panel, case)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncol=len(labels), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 0.96 if rows > 1 else 0.9))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _panel(panel: Axes, case: Case) -> None:
    known = [row for row in case.row if row.predicted_s is not None]
    predicted_ms = {str(row.plan): 1e3 * (row.predicted_s or 0.0) for row in known}
    across = [predicted_ms[str(row.plan)] for row in known]
    up = [1e3 * row.estimate_s for row in known]
    panel.scatter(across, up, s=5, color="0.65", label="from its parts, timed", rasterized=True)
    runs = [one for one in counted(case.run) if one.plan in predicted_ms]
    panel.scatter(
        [predicted_ms[one.plan] for one in runs],
        [1e3 / one.fps for one in runs],
        s=12, color="tab:blue", alpha=0.6, label="run through agents",
    )  # fmt: skip
    for plan, fps, colour, marker, label in (
        (case.winner, case.winner_fps, "tab:green", "D", "fastest when run"),
        (case.chosen, case.chosen_fps, "tab:red", "x", "the planner's choice"),
    ):
        if plan in predicted_ms and fps > 0:
            panel.scatter(
                [predicted_ms[plan]], [1e3 / fps], s=55, marker=marker, color=colour, label=label,
                zorder=3,
            )  # fmt: skip
    ends = (min(*across, *up), max(*across, *up))
    panel.plot(ends, ends, color="0.3", linewidth=0.8, label="as predicted")
    panel.set(xscale="log", yscale="log")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.7)))
    panel.set_xlabel("predicted interval [ms]")
    panel.set_ylabel("measured interval [ms]")
    panel.set_title(f"{case.place}: regret {case.regret_percent:.1f} %", loc="left", fontsize=9)
    panel.spines[["top", "right"]].set_visible(False)
