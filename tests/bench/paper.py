"""The paper's experiments, measured: planners side by side through real agents on emulated fleets.

For each fleet of arXiv 2411.00838 (compute ratios and links as it states them, emulated: see
tests/testbed) and each trained network, every planner's decision is built and run: agents in
namespaces, a Mosquitto broker, pictures of the test split; as fast as they are taken (throughput),
at random arrivals of one rate for all, and evenly at that rate (age of answers). Besides: cuts
spread over the model (Fig. 8), accuracy on the whole test split, and the regret of our planner
(tests/bench/regret.py). What was measured once is kept under --out and not measured again, so a
run that was stopped goes on.

    edgekit bench paper [--quick] [--out DIR] [--json FILE]

Needs root for namespaces; Table VII (detectors) is tests/bench/versus.py.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[2]))

import msgspec
import onnxruntime

from edgekit.errors import EdgeKitError
from tests.bench.paper_accuracy import Accuracy, accuracies
from tests.bench.paper_case import METHODS, OURS, Case, case_of
from tests.bench.paper_plots import plot_all
from tests.bench.paper_runs import RANDOM, SATURATION, STEADY, Effort, Run, run_case
from tests.bench.paper_tables import (
    TABLE_IV,
    accuracy_changes_pp,
    gain_of,
    gains_percent,
    markdown,
    mean_gains_percent,
    write_csv,
)
from tests.bench.paper_world import (
    DATASETS,
    FLEETS,
    NETWORKS,
    fleet_for,
    fleet_of,
    model_of,
    pictures_of,
)
from tests.bench.regret import run_regret
from tests.testbed.testbed import Testbed
from tests.world import DATA

QUICK_METHODS = (OURS, "edge-only", "roofsplit", "sidd")
_SPLITS_OF = "repvgg"
"""The network of Fig. 8."""


class Teller:
    """Says what is done, how far along it is, and when it will end."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._started_s = total, 0, time.monotonic()

    def done(self) -> None:
        """One more run."""
        self._done += 1

    def say(self, text: str) -> None:
        """A line on standard error."""
        elapsed_s = time.monotonic() - self._started_s
        left = ""
        if self._done:
            left_s = elapsed_s / self._done * (self._total - self._done)
            left = f", {left_s / 60:.0f} min left"
        print(f"[{self._done}/{self._total}{left}] {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Run what is not yet there, then write tables and plots of all of it."""
    arguments = _arguments()
    if not DATA.is_dir():
        raise SystemExit("needs ../shared/data")
    if os.geteuid():
        raise SystemExit("needs root: the links between devices are made in network namespaces")
    quick, out = arguments.quick, arguments.out
    fleets = arguments.fleet or (FLEETS[:1] if quick else FLEETS)
    networks = arguments.network or (NETWORKS[:1] if quick else NETWORKS)
    effort = Effort(
        methods=QUICK_METHODS if quick else METHODS,
        loads=(SATURATION,),
        rounds=arguments.rounds or (1 if quick else 3),
        seconds=arguments.seconds or (3.0 if quick else 6.0),
    )
    out.mkdir(parents=True, exist_ok=True)
    print(
        f"{platform.machine()}, Python {platform.python_version()}, ONNX Runtime "
        f"{onnxruntime.__version__}; {len(fleets)} fleets, {len(DATASETS) * len(networks)} "
        f"networks, {len(effort.methods)} methods, {effort.rounds} rounds of {effort.seconds:g} s"
    )
    cases_ahead = len(fleets) * len(DATASETS) * len(networks)
    teller = Teller(cases_ahead * len(effort.methods) * effort.rounds)
    cache = arguments.cache or out / "cache"
    pictures = {name: pictures_of(name, cache) for name in DATASETS}
    runs: dict[tuple[str, ...], Run] = {}
    cases: list[Case] = []
    for name in fleets:
        with Testbed(fleet_of(name)) as bed:
            for dataset in DATASETS:
                for network in networks:
                    fleet = fleet_for(name, model_of(dataset, network), out)
                    bed.fleet = fleet  # the same links; compute as slow as this network needs
                    case = case_of(fleet, dataset, network, pictures[dataset], out, say=teller.say)
                    cases.append(case)
                    for part in efforts(effort, case, quick=quick):
                        for run in run_case(
                            bed, case, pictures[dataset], out, effort=part, say=teller.say
                        ):
                            runs[tuple(run.key.values())] = run
                            if part is effort:
                                teller.done()
    accuracy = [] if quick else whole_split(cases, cache, out, teller)
    regrets = run_regret(out / "regret", quick=quick, cache=cache)
    regret_percent = fmean(one.regret_percent for one in regrets)
    print((out / "regret/regret.md").read_text())
    report(list(runs.values()), cases, accuracy, regret_percent, out, arguments.json)


def efforts(effort: Effort, case: Case, *, quick: bool) -> list[Effort]:
    """What is measured of one case: throughput in every round; on the fleet of Table IV also ages
    at random and at steady requests, and the split points of one network."""
    parts = [effort]
    if case.fleet.name == TABLE_IV:
        aged = (SATURATION, RANDOM) if quick else (SATURATION, RANDOM, STEADY)
        parts.append(msgspec.structs.replace(effort, loads=aged, rounds=1))
        if case.network == _SPLITS_OF and not quick:
            parts.append(msgspec.structs.replace(effort, methods=tuple(case.shares), rounds=1))
    return parts


def whole_split(cases: Sequence[Case], cache: Path, out: Path, teller: "Teller") -> list[Accuracy]:
    """Accuracy of the whole model, and of ours on every fleet, on all test pictures."""
    found: list[Accuracy] = []
    for dataset, network in dict.fromkeys((one.dataset, one.network) for one in cases):
        same = [one for one in cases if (one.dataset, one.network) == (dataset, network)]
        found += accuracies(same, pictures_of(dataset, cache), out, say=teller.say)
    return found


def report(
    runs: Sequence[Run],
    cases: Sequence[Case],
    accuracy: Sequence[Accuracy],
    regret_percent: float,
    out: Path,
    as_json: Path | None,
) -> None:
    """Tables, plots and the last line."""
    text = markdown(runs, accuracy)
    (out / "tables.md").write_text(text + "\n")
    write_csv(runs, out / "runs.csv")
    print(text)
    for path in plot_all(runs, cases, out):
        print(f"plot: {path}")
    gains, means = gains_percent(runs), mean_gains_percent(runs)
    for place, gain in gains.items():
        print(
            f"{' '.join(place)}: ours {gain:+.1f} % over the best other planner, "
            f"{means[place]:+.1f} % over their mean"
        )
    changes = accuracy_changes_pp(accuracy)
    result: dict[str, float] = {
        f"gain_{dataset}_percent": round(gain_of(gains, dataset), 2) for dataset in DATASETS
    }
    result["regret_percent"] = round(regret_percent, 2)
    result["accuracy_change_pp"] = round(fmean(changes.values()), 3) if changes else 0.0
    if as_json:
        whole = {"runs": list(runs), "accuracy": list(accuracy), **result}
        as_json.write_text(json.dumps(msgspec.to_builtins(whole), indent=2) + "\n")
    print("RESULT " + " ".join(f"{key}={value}" for key, value in result.items()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one fleet, two networks, few methods")
    parser.add_argument("--out", type=Path, default=Path("paper-results"), metavar="DIR")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="decoded pictures (OUT/cache)")
    parser.add_argument("--rounds", type=int, help="times that everything is measured")
    parser.add_argument("--seconds", type=float, help="length of one run, about")
    parser.add_argument("--fleet", action="append", choices=FLEETS)
    parser.add_argument("--network", action="append", choices=NETWORKS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except EdgeKitError as error:
        raise SystemExit(f"error: {error}") from None
