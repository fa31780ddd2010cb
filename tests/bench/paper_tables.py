"""Runs of the paper's experiments as tables, and the figures of the RESULT line.

In:  Runs, Accuracies.  Out: Markdown, CSV, numbers.  Pure but for writing.
A cell is the median over rounds, with the least and the largest where there are several. The gain
of ours is its throughput over that of the best other planner on the same fleet and network.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median

from tests.bench.paper_accuracy import WHOLE, Accuracy
from tests.bench.paper_case import ABLATIONS, OURS, SPLIT
from tests.bench.paper_runs import RANDOM, SATURATION, STEADY, Run

Place = tuple[str, str, str]
"""Fleet, data set, network."""
PAPER_FPS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "sidd": {
        "repvgg": (32.13, 28.10), "rep-resnet": (25.81, 20.77), "rep-googlenet": (22.15, 15.93)
    },
    "roofsplit": {
        "repvgg": (36.93, 33.18), "rep-resnet": (34.26, 29.84), "rep-googlenet": (24.89, 20.91)
    },
    OURS: {"repvgg": (43.17, 37.89), "rep-resnet": (35.82, 32.15), "rep-googlenet": (29.83, 25.96)},
    "w/o roofline": {"repvgg": (41.72, 35.72)},
    "w/o dynamic structure": {"repvgg": (39.55, 33.15)},
    "w/o multi-objective": {"repvgg": (37.24, 32.06)},
}  # fmt: skip
"""Images per second of arXiv 2411.00838, Table IV, MNIST and CIFAR-100, Nano and Xavier NX."""
_COLUMN = {"mnist": 0, "cifar10": 1}
TABLE_IV = "nano-nx"


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


def is_rival(method: str) -> bool:
    """Whether it is another planner: not ours, nor ours with something taken away, nor a cut that
    nobody chose."""
    return method != OURS and method not in ABLATIONS and not method.startswith(SPLIT)


def gains_percent(runs: Sequence[Run]) -> dict[Place, float]:
    """Throughput of ours over the best other planner's, where both were measured."""
    found = {}
    for place, by_method in measured(runs, SATURATION).items():
        others = [fps_of(rows) for method, rows in by_method.items() if is_rival(method)]
        if OURS in by_method and others:
            found[place] = 100 * (fps_of(by_method[OURS]) / max(others) - 1)
    return found


def mean_gains_percent(runs: Sequence[Run]) -> dict[Place, float]:
    """Throughput of ours over that of the other planners, as the paper counts: mean over them."""
    found = {}
    for place, by_method in measured(runs, SATURATION).items():
        others = [fps_of(rows) for method, rows in by_method.items() if is_rival(method)]
        if OURS in by_method and others:
            own = fps_of(by_method[OURS])
            found[place] = fmean(100 * (own / other - 1) for other in others)
    return found


def gain_of(gains: Mapping[Place, float], dataset: str) -> float:
    """Mean over fleets and networks [%]; 0 where nothing was measured."""
    return fmean([gain for place, gain in gains.items() if place[1] == dataset] or [0.0])


def accuracy_changes_pp(found: Iterable[Accuracy]) -> dict[str, float]:
    """Accuracy of ours less that of the whole model, by data set and network: the worst plan's."""
    by_net: dict[str, list[Accuracy]] = {}
    for one in found:
        if one.frames:
            by_net.setdefault(f"{one.dataset} {one.network}", []).append(one)
    changes = {}
    for name, rows in by_net.items():
        whole = [one for one in rows if any(what.endswith(WHOLE) for what in one.methods)]
        ours = [one for one in rows if any(what.endswith(f" {OURS}") for what in one.methods)]
        if whole and ours:
            least = min(one.accuracy_percent for one in ours)
            changes[name] = least - whole[0].accuracy_percent
    return changes


def markdown(runs: Sequence[Run], accuracy: Sequence[Accuracy]) -> str:
    """A table for each fleet, the ratios of Table IV, accuracy on the whole split, and problems."""
    lines = []
    for fleet in dict.fromkeys(run.fleet for run in runs):
        lines += _fleet_table([run for run in runs if run.fleet == fleet], fleet)
    lines += _ratio_table(runs)
    if accuracy:
        lines += ["## Accuracy on the whole test split, as the agents answered", ""]
        lines += [
            "| network | how | planned by | frames | accuracy [%] |",
            "| --- |" + " --- |" * 4,
        ]
        lines += [
            f"| {one.dataset} {one.network} | {one.how} | {', '.join(one.methods)} | {one.frames} "
            f"| {one.problem or f'{one.accuracy_percent:.2f}'} |"
            for one in accuracy
        ]
        lines.append("")
    problems = dict.fromkeys(
        f"- {run.fleet} {run.dataset} {run.network}, {run.method}: {run.problem}"
        for run in runs
        if run.problem
    )
    if problems:
        lines += ["## Not measured", "", *problems, ""]
    return "\n".join(lines)


def _fleet_table(runs: Sequence[Run], fleet: str) -> list[str]:
    tables = [measured(runs, load) for load in (SATURATION, RANDOM, STEADY)]
    places = list(dict.fromkeys(map(place_of, runs)))
    lines = [
        f"## {fleet}",
        "",
        "Throughput when saturated [1/s] / mean age of answers, requests at random [ms] / the "
        "same, requests evenly [ms]; = : planned the same as",
        "",
    ]
    lines.append("| method | " + " | ".join(f"{data} {net}" for _, data, net in places) + " |")
    lines.append("| --- |" + " --- |" * len(places))
    for method in dict.fromkeys(run.method for run in runs):
        cells = [_cell(*(table.get(place, {}).get(method) for table in tables)) for place in places]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    plans = {place_of(run): run.plan for run in runs if run.method == OURS}
    lines += [
        "",
        *(f"- {data} {net}: ours is {plan}" for (_, data, net), plan in plans.items()),
        "",
    ]
    return lines


def _ratio_table(runs: Sequence[Run]) -> list[str]:
    """Ours over each rival and ablation of Table IV, beside the paper's own ratio."""
    lines = []
    for place, by_method in measured(runs, SATURATION).items():
        fleet, dataset, network = place
        if fleet != TABLE_IV or OURS not in by_method:
            continue
        for method, rows in by_method.items():
            known = PAPER_FPS.get(method, {}).get(network)
            if method == OURS or known is None:
                continue
            column = _COLUMN[dataset]
            theirs = PAPER_FPS[OURS][network][column] / known[column]
            own = fps_of(by_method[OURS]) / fps_of(rows)
            lines.append(f"| {dataset} {network} | {method} | {own:.2f} | {theirs:.2f} |")
    if not lines:
        return []
    return [
        "## Table IV: throughput of ours over the others, and what the paper reports",
        "",
        "The paper has CIFAR-100 where this is CIFAR-10.",
        "",
        "| network | over | here | paper |",
        "| --- | --- | --- | --- |",
        *lines,
        "",
    ]


def write_csv(runs: Sequence[Run], path: Path) -> None:
    """Every run in a row."""
    names = [name for name in Run.__struct_fields__ if name != "age_ms"]
    with path.open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow([*names, "p50_ms", "p95_ms", "p99_ms"])
        for run in runs:
            ages = (run.age_ms.p50, run.age_ms.p95, run.age_ms.p99)
            rows.writerow([*(getattr(run, name) for name in names), *ages])


def _cell(
    saturated: Sequence[Run] | None, random: Sequence[Run] | None, steady: Sequence[Run] | None
) -> str:
    if not saturated:
        return "-"
    text = f"{fps_of(saturated):.1f}"
    if len(saturated) > 1:
        text += f" ({min(r.fps for r in saturated):.1f} to {max(r.fps for r in saturated):.1f})"
    ages = [f"{median(r.mean_age_ms for r in rows):.0f}" for rows in (random, steady) if rows]
    twin = saturated[0].same_as
    return " / ".join([text, *ages]) + (f" = {twin}" if twin else "")
