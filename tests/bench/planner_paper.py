"""The fleets and networks of arXiv 2411.00838, planned from datasheets: our ratios beside its own.

Only ratios are compared: datasheet roofs are not what a runtime attains, and the paper states
neither its frames nor its precision. Here: fp32 under the GPU's ceilings on every board, frames of
the input's size, activations raw, JPEG at this machine's speed. "ours" may do everything (whole
frames, farms, cuts), "cut" is confined to one cut from the first device to the second, as the paper
is; throughput is 1 / (slowest stage or hop), and 1 / latency where frames go one by one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import msgspec

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from edgekit.planner.ablations import (
    WITHOUT_OBJECTIVES,
    WITHOUT_ROOFLINE,
    WITHOUT_STRUCTURE,
    ablate,
    equal_work,
    without_structure,
)
from edgekit.planner.cost_table import CostTable
from edgekit.planner.policies import POLICIES, compare
from edgekit.planner.pricing import Step, objective_value, price_pipeline
from edgekit.planner.scenario import Scenario
from edgekit.planner.search import plan
from edgekit.planner.two_devices import pair_of, reference_curve, single_cuts, split_steps
from edgekit.spec.planning import Candidate, Goal, PlanReport, PolicyResult
from tests.bench.planner_worlds import Zoo, paper_fleet, scenario_of, variants_at

NETWORKS = {"RepVGG": "repvgg-a0", "Rep-ResNet": "rep-resnet-50", "Rep-GoogLeNet": "rep-googlenet"}
FLEETS = ("nano-nx", "tx1-nx", "tx2-nx")
PAPER_FPS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "sidd": {
        "RepVGG": (32.13, 28.10, 13.77),
        "Rep-ResNet": (25.81, 20.77, 10.86),
        "Rep-GoogLeNet": (22.15, 15.93, 8.22),
    },
    "roofsplit": {
        "RepVGG": (36.93, 33.18, 16.43),
        "Rep-ResNet": (34.26, 29.84, 15.37),
        "Rep-GoogLeNet": (24.89, 20.91, 11.88),
    },
    "paper": {
        "RepVGG": (43.17, 37.89, 22.64),
        "Rep-ResNet": (35.82, 32.15, 20.58),
        "Rep-GoogLeNet": (29.83, 25.96, 17.93),
    },
    "w/o roofline": {"RepVGG": (41.72, 35.72, 19.36)},
    "w/o dynamic structure": {"RepVGG": (39.55, 33.15, 18.53)},
    "w/o multi-objective": {"RepVGG": (37.24, 32.06, 16.04)},
}
"""Its Table IV, Nano + Xavier NX: MNIST, CIFAR-100, ImageNet."""
PAPER_DETECTOR_FPS = {"sidd": 17.41, "roofsplit": 21.34, "paper": 27.98, "jpeg-to-server": 12.20}
"""Its Table VII, TX2 + RTX 4090; "cloud" there, whose coding it does not state, is ours as JPEG."""
DATA_ORDER = ("MNIST", "CIFAR-100", "ImageNet")
GOAL = Goal(objective="throughput", farms=True)


@dataclass(frozen=True)
class Row:
    """One network on one fleet."""

    fleet: str
    network: str
    data: str
    report: PlanReport
    policies: Mapping[str, Candidate | None]
    results: tuple[PolicyResult, ...]
    ablations: Mapping[str, Candidate | None]
    """Of everything that may be done."""
    cut: Candidate
    """The model cut over both devices, in the order that frames come, for throughput."""
    quick_cut: Candidate
    """The same for latency."""
    cut_ablations: Mapping[str, Candidate | None]
    paper: Mapping[str, float] = field(default_factory=dict)

    def paper_ratio(self, policy: str) -> float | None:
        """Throughput of the paper's method over that of a policy or ablation, as it states it."""
        own = self.paper.get("paper")
        return own / self.paper[policy] if own and policy in self.paper else None


def times_as_fast(one: Candidate | None, other: Candidate | None) -> float | None:
    """Ratio of throughputs, frames following each other."""
    return one.throughput_fps / other.throughput_fps if one and other else None


def times_as_soon(one: Candidate | None, other: Candidate | None) -> float | None:
    """Ratio of latencies: of throughputs, if a frame waits for the answer to the one before."""
    return other.latency.time_s / one.latency.time_s if one and other else None


def best_cut(table: CostTable, goal: Goal) -> Candidate:
    """Over every cut between the two devices; strategies and codec as they are cheapest."""
    near, far = pair_of(table)
    last = Step(device=far, until=None)
    priced = [
        price_pipeline(table, goal, [Step(device=near, until=index), last])
        for index in range(len(table.cuts))
    ]
    return min(priced, key=lambda one: objective_value(goal, one))


def paper_scenarios(zoo: Zoo, *, quick: bool) -> list[tuple[Row, Scenario]]:
    """Every network on every fleet that the paper has, planned."""
    found = []
    for fleet in FLEETS:
        for network, name in NETWORKS.items():
            for index, data in enumerate(DATA_ORDER):
                if quick and data != "ImageNet":
                    continue
                scenario = scenario_of(
                    network, variants_at(zoo.path(name, data)), paper_fleet(fleet)
                )
                stated = {
                    method: fps[network][index]
                    for method, fps in PAPER_FPS.items()
                    if network in fps and fleet == "nano-nx"
                }
                found.append((_row(scenario, fleet, network, data, stated), scenario))
    variants = variants_at(zoo.path("table6-v8-detector"))
    scenario = scenario_of("Table VI", variants, paper_fleet("tx2-rtx4090"))
    row = _row(scenario, "tx2-rtx4090", "Table VI", "640x416", PAPER_DETECTOR_FPS)
    return [*found, (row, scenario)]


def _row(
    scenario: Scenario, fleet: str, network: str, data: str, stated: Mapping[str, float]
) -> Row:
    table = CostTable(scenario)
    results = compare(table, GOAL)
    quick_cut = best_cut(table, Goal(objective="latency"))
    return Row(
        fleet=fleet,
        network=network,
        data=data,
        report=plan(scenario, GOAL),
        policies={one.policy: one.candidate for one in results},
        results=results,
        ablations={one.policy: one.candidate for one in ablate(scenario, GOAL)},
        cut=best_cut(table, GOAL),
        quick_cut=quick_cut,
        cut_ablations={
            WITHOUT_ROOFLINE: equal_work(table, GOAL),
            WITHOUT_STRUCTURE: best_cut(CostTable(without_structure(scenario)), GOAL),
            WITHOUT_OBJECTIVES: quick_cut,
        },
        paper=stated,
    )


def print_ratios(rows: Sequence[Row]) -> None:
    """Throughput of ours over each baseline."""
    print(
        "\n(3) The paper's fleets: images/s of our plan, and how many times that of each baseline\n"
        f"{'fleet':12} {'network':14} {'data':10} {'ours':>8} {'family':14}"
        + "".join(f"{name.removesuffix('-algorithms-1-3'):>15}" for name in POLICIES)
    )
    for row in rows:
        chosen = row.report.chosen
        cells = "".join(_cell(times_as_fast(chosen, row.policies[name]), 15) for name in POLICIES)
        fps = chosen.throughput_fps if chosen else 0.0
        family = chosen.family if chosen else "none"
        print(f"{row.fleet:12} {row.network:14} {row.data:10} {fps:8.1f} {family:14}{cells}")
    names = {"sidd": "sidd", "roofsplit": "roofsplit", "jpeg-to-server": "cloud (JPEG)"}
    print(
        "\n    Ours confined to one cut, first device to second, as the paper does it: images/s,\n"
        "    share of work on the first device (100 %: behind the last pooling), and ratio to\n"
        "    baselines: frames following each other / one by one (the paper's ratio)\n"
        f"{'fleet':12} {'network':14} {'data':10} {'cut':>8} {'on 1st':>8}"
        + "".join(f"{'over ' + name:>22}" for name in names.values())
    )
    for row in rows:
        share = row.cut.stages[0].work_flop / sum(one.work_flop for one in row.cut.stages)
        cells = "".join(
            _pair(
                times_as_fast(row.cut, row.policies[name]),
                times_as_soon(row.quick_cut, row.policies[name]),
                row.paper_ratio(name),
                22,
            )
            for name in names
        )
        print(
            f"{row.fleet:12} {row.network:14} {row.data:10} {row.cut.throughput_fps:8.1f} "
            f"{share:7.0%} {cells}"
        )


def print_ablations(rows: Sequence[Row]) -> None:
    """What each idea is worth, ours and the paper's."""
    print(
        "\n(4) Ablation: throughput of ours over that without one idea: everything that may be\n"
        "    done / one cut (the paper's ratio). Strategies gain nothing here: in fp32 all\n"
        "    compute the same, and on a roofline S3 is never slower.\n"
        f"{'fleet':12} {'network':14} {'data':10}"
        + "".join(f"{name:>24}" for name in rows[0].ablations)
    )
    for row in rows:
        cells = "".join(
            _pair(
                times_as_fast(row.report.chosen, row.ablations[name]),
                times_as_fast(row.cut, row.cut_ablations[name]),
                row.paper_ratio(name),
                24,
            )
            for name in row.ablations
        )
        print(f"{row.fleet:12} {row.network:14} {row.data:10}{cells}")


def _pair(one: float | None, other: float | None, stated: float | None, width: int) -> str:
    return f"{f'{_cell(one, 1)} / {_cell(other, 1)} ({_cell(stated, 1)})':>{width}}"


def _cell(value: float | None, width: int) -> str:
    return f"{value:{width}.2f}" if value is not None else f"{'-':>{width}}"


# -- Fig. 8 ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SplitCurve:
    """Throughput over the split point of one network on one fleet."""

    network: str
    bandwidth: str
    shares: tuple[float, ...]
    """Work on the first device, cuts through feature maps only: behind the last pooling a few
    numbers cross, and the first device has done it all."""
    pipelined_fps: tuple[float, ...]
    """1 / (slowest stage or hop)."""
    one_by_one_fps: tuple[float, ...]
    """1 / latency: the next frame starts when the one before is answered."""

    def best_share(self, values: Sequence[float]) -> float:
        """Where ``values`` are largest."""
        return self.shares[values.index(max(values))]


def split_curve(network: str, scenario: Scenario, bandwidth: str) -> SplitCurve:
    """Every single-tensor cut between the two devices, raw activations, folded whole."""
    (link,) = scenario.fleet.link
    faster = msgspec.structs.replace(link, bandwidth=bandwidth)
    fleet = msgspec.structs.replace(scenario.fleet, link=(faster,))
    table = CostTable(dataclasses.replace(scenario, fleet=fleet))
    pair, points = pair_of(table), []
    for share, cut in zip(reference_curve(table).work, single_cuts(table), strict=True):
        shape = table.cuts[cut].tensors[0].shape
        if len(shape) == 4 and shape[2] * shape[3] > 1:
            one = price_pipeline(table, GOAL, split_steps(table, pair, cut))
            points.append((float(share), one.throughput_fps, 1 / one.latency.time_s))
    shares, pipelined, one_by_one = zip(*points, strict=True)
    return SplitCurve(network, bandwidth, shares, pipelined, one_by_one)


def print_curves(curves: Sequence[SplitCurve], fleet: str) -> None:
    """The best cut in each tenth of the model."""
    print(
        f"\n(5) Fig. 8: images/s over the share of work on the first device ({fleet}, ImageNet),\n"
        "    the best cut in each tenth, frames following each other (paper: rises, then falls,\n"
        "    best near 15 %)\n"
        f"{'network':14} {'link':>10}"
        + "".join(f"{f'{10 * i}-{10 * i + 10} %':>9}" for i in range(10))
        + f"{'best at':>9}{'one by one':>12}"
    )
    for curve in curves:
        tenths: list[list[float]] = [[] for _ in range(10)]
        for share, fps in zip(curve.shares, curve.pipelined_fps, strict=True):
            tenths[min(9, int(10 * share))].append(fps)
        cells = "".join(f"{max(one):9.1f}" if one else f"{'-':>9}" for one in tenths)
        print(
            f"{curve.network:14} {curve.bandwidth:>10}{cells}"
            f"{curve.best_share(curve.pipelined_fps):9.0%}"
            f"{curve.best_share(curve.one_by_one_fps):12.0%}"
        )


def plot_curves(curves: Sequence[SplitCurve], fleet: str, path: Path) -> None:
    """The same as a picture: a row per link, a column per network."""
    links = list(dict.fromkeys(curve.bandwidth for curve in curves))
    networks = list(dict.fromkeys(curve.network for curve in curves))
    size = (4.4 * len(networks), 3.1 * len(links) + 0.6)
    figure, panels = plt.subplots(len(links), len(networks), figsize=size, squeeze=False)
    for curve in curves:
        panel = panels[links.index(curve.bandwidth)][networks.index(curve.network)]
        percent = [100 * share for share in curve.shares]
        panel.plot(percent, curve.pipelined_fps, "o-", ms=3, label="following each other")
        panel.plot(percent, curve.one_by_one_fps, "s-", ms=3, label="one frame at a time")
        panel.axvline(15, color="0.6", ls=":", lw=1)
        panel.set(title=f"{curve.network}, {curve.bandwidth}", xlim=(0, 100))
        panel.set_ylim(0, 1.15 * max(curve.pipelined_fps))
        panel.grid(alpha=0.3)
    for panel in panels[-1]:
        panel.set_xlabel("work on the first device [%]")
    for row in panels:
        row[0].set_ylabel("images / s, predicted")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=2, frameon=False)
    figure.suptitle(f"Throughput over the split point, {fleet} (dotted: the paper's best, 15 %)")
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def as_json(rows: Sequence[Row], curves: Sequence[SplitCurve]) -> dict[str, Any]:
    """Everything that the tables show."""
    return {
        "paper_fleets": [_row_json(row) for row in rows],
        "split_point": [dataclasses.asdict(one) for one in curves],
    }


def _row_json(row: Row) -> dict[str, Any]:
    chosen = row.report.chosen
    return {
        "fleet": row.fleet,
        "network": row.network,
        "data": row.data,
        "plan": str(chosen),
        "fps": chosen.throughput_fps if chosen else None,
        "cut": str(row.cut),
        "cut_fps": row.cut.throughput_fps,
        "ours_over": {name: times_as_fast(chosen, one) for name, one in row.policies.items()},
        "cut_over": {name: times_as_fast(row.cut, one) for name, one in row.policies.items()},
        "ours_over_ablation": {
            name: times_as_fast(chosen, one) for name, one in row.ablations.items()
        },
        "cut_over_ablation": {
            name: times_as_fast(row.cut, one) for name, one in row.cut_ablations.items()
        },
        "paper_over": {name: row.paper_ratio(name) for name in row.paper},
    }
