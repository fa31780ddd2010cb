"""The paper's experiments, measured: planners side by side through real agents on emulated fleets.

For each fleet of arXiv 2411.00838 (compute ratios and links as it states them, emulated: see
tests/testbed) and each trained network, every planner's decision is built and run: agents in
namespaces, a Mosquitto broker, pictures of the test split, first as fast as they are taken
(throughput), then at random arrivals of one rate for all (age of answers). What was measured once
is kept under --out and not measured again, so a run that was stopped goes on.

    python tests/bench/paper.py [--quick] [--out DIR] [--json FILE]
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[2]))

import msgspec
import onnxruntime

from edgekit.errors import DeviceError
from edgekit.planner.ablations import WITHOUT_OBJECTIVES, WITHOUT_ROOFLINE, WITHOUT_STRUCTURE
from edgekit.planner.policies import POLICIES
from tests.bench.paper_runs import OURS, Run, case_of, run_case
from tests.bench.paper_tables import (
    accuracy_change_pp,
    gains_percent,
    markdown,
    plot_ages,
    plot_throughput,
    write_csv,
)
from tests.bench.paper_world import DATASETS, FLEETS, NETWORKS, fleet_of, pictures_of
from tests.testbed.testbed import Testbed
from tests.world import DATA

METHODS = (OURS, *POLICIES, WITHOUT_ROOFLINE, WITHOUT_STRUCTURE, WITHOUT_OBJECTIVES)
QUICK_METHODS = (OURS, "edge-only", "roofsplit", "sidd")


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one fleet, two networks, few methods")
    parser.add_argument("--out", type=Path, default=Path("paper-results"), metavar="DIR")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="decoded pictures (OUT/cache)")
    parser.add_argument("--rounds", type=int, help="times that everything is measured")
    parser.add_argument("--seconds", type=float, help="length of one run, about")
    parser.add_argument("--fleet", action="append", choices=FLEETS)
    parser.add_argument("--network", action="append", choices=NETWORKS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit("needs ../shared/data")
    quick = arguments.quick
    fleets = arguments.fleet or (FLEETS[:1] if quick else FLEETS)
    networks = arguments.network or (NETWORKS[:1] if quick else NETWORKS)
    methods = QUICK_METHODS if quick else METHODS
    rounds = arguments.rounds or (1 if quick else 3)
    seconds = arguments.seconds or (4.0 if quick else 10.0)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(
        f"{platform.machine()}, Python {platform.python_version()}, ONNX Runtime "
        f"{onnxruntime.__version__}; {len(fleets)} fleets, {len(DATASETS) * len(networks)} "
        f"networks, {len(methods)} methods, {rounds} rounds of {seconds:g} s"
    )
    teller = Teller(len(fleets) * len(DATASETS) * len(networks) * len(methods) * rounds * 2)
    runs: list[Run] = []
    cache = arguments.cache or arguments.out / "cache"
    pictures = {name: pictures_of(name, cache) for name in DATASETS}
    for name in fleets:
        fleet = fleet_of(name)
        with Testbed(fleet) as bed:
            for dataset in DATASETS:
                for network in networks:
                    case = case_of(fleet, dataset, network, pictures[dataset], say=teller.say)
                    for run in run_case(
                        bed, case, pictures[dataset], arguments.out, methods=methods,
                        rounds=rounds, seconds=seconds, say=teller.say,
                    ):  # fmt: skip
                        runs.append(run)
                        teller.done()
    report(runs, arguments.out, arguments.json)


def report(runs: Sequence[Run], out: Path, as_json: Path | None) -> None:
    """Tables, plots and the last line."""
    text = markdown(runs)
    (out / "tables.md").write_text(text + "\n")
    write_csv(runs, out / "runs.csv")
    plot_throughput(runs, out / "throughput.png")
    plot_ages(runs, out / "ages.png")
    print(text)
    gains = gains_percent(runs)
    for place, gain in gains.items():
        print(f"{' '.join(place)}: ours {gain:+.1f} % over the best other planner")
    result = {
        f"gain_{dataset}_percent": round(
            fmean([gain for place, gain in gains.items() if place[1] == dataset] or [0.0]), 2
        )
        for dataset in DATASETS
    }
    result["accuracy_change_pp"] = round(accuracy_change_pp(runs), 2)
    if as_json:
        as_json.write_text(
            json.dumps({"runs": msgspec.to_builtins(list(runs)), **result}, indent=2) + "\n"
        )
    print("RESULT " + " ".join(f"{key}={value}" for key, value in result.items()))


if __name__ == "__main__":
    try:
        main()
    except DeviceError as error:
        raise SystemExit(f"error: {error}") from None
