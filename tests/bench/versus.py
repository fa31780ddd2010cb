"""The comparisons a user would make, measured: ours, other planners, and no planner at all.

On emulated fleets (tests/testbed), each workload of detection by each method: our plan for
throughput, and with a deadline; RoofSplit's and SIDD's; the whole model on the stronger device with
JPEG frames over our hop, over plain HTTP (``versus_http``) and in published serving tools
(``versus_peers``); on the weak device alone; on both with a camera each; and for Table VII frames
raw to the cloud and a cut in the middle. First as fast as frames are taken, with AP50 against the
labels, of the answers as they came; then from a camera of fixed rate, and with requests at random.
What was measured is kept under --out and not measured again.

Emulated is compute, as a ratio, and links; coding pictures, preprocessing and boxes take on every
device what they take here, for every method. How slow devices are is chosen for each workload, and
stands in the tables.

    python tests/bench/versus.py [--quick] [--out DIR] [--json FILE]
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

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import msgspec
import onnxruntime

from edgekit.errors import DeviceError
from tests.bench.versus_peers import TOOLS, name_of, why_absent
from tests.bench.versus_plans import (
    CLOUD_EDGE,
    CLOUD_RAW,
    FARM,
    HTTP,
    JPEG,
    OURS,
    OURS_PROMPT,
    WEAK,
    ways_of,
)
from tests.bench.versus_runs import LOADS, SATURATION, Length, Run, run_all, tool_methods
from tests.bench.versus_tables import (
    ap_change_pp,
    gain_over_best_percent,
    gains_percent,
    markdown,
    plot_ages,
    plot_bars,
    write_csv,
)
from tests.bench.versus_world import CLOUD, FLEETS, WORKLOADS, fleet_for, why_missing, workload_of
from tests.testbed.testbed import Testbed

PLANNED = (OURS, OURS_PROMPT, "RoofSplit", "SIDD")
QUICK = (OURS, JPEG, HTTP, WEAK)
PLACES = (
    ("nano-nx", "yard"),
    ("nano-nx", "vtest"),
    ("nano-nx", "coco"),
    ("nano-nx", "cells"),
    ("tx2-nx", "yard"),
    ("tx2-nx", "vtest"),
    (CLOUD, "yard"),
)
"""Fleets and workloads of a full run."""


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


def methods_for(fleet: str, *, quick: bool) -> tuple[str, ...]:
    """What is compared on a fleet."""
    if quick:
        return QUICK
    middle = (CLOUD_EDGE, CLOUD_RAW) if fleet == CLOUD else ()
    return (*PLANNED, *middle, JPEG, *tool_methods(), WEAK, FARM)


def places_of(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Fleets and workloads that were asked for and can be run; says why others cannot."""
    places = list(PLACES[:1] if arguments.quick else PLACES)
    if arguments.fleet or arguments.workload:
        fleets = arguments.fleet or list(dict.fromkeys(fleet for fleet, _ in PLACES))
        workloads = arguments.workload or list(WORKLOADS)
        places = [(fleet, workload) for fleet in fleets for workload in workloads]
    kept = []
    for fleet, workload in places:
        if reason := why_missing(workload, arguments.cells):
            print(f"left out: {workload} on {fleet}: {reason}", file=sys.stderr)
        else:
            kept.append((fleet, workload))
    return kept


def main() -> None:
    """Run what is not yet there, then write tables and plots of all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the yard on one fleet, four methods")
    parser.add_argument("--out", type=Path, default=Path("versus-results"), metavar="DIR")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="frames (OUT/cache)")
    parser.add_argument("--cells", type=Path, metavar="DIR", help="blood cells (OUT/cells)")
    parser.add_argument("--seconds", type=float, help="length of one run, about")
    parser.add_argument("--fleet", action="append", choices=FLEETS)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS))
    parser.add_argument("--load", action="append", choices=LOADS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    out, quick = arguments.out.resolve(), arguments.quick
    out.mkdir(parents=True, exist_ok=True)
    arguments.cells = arguments.cells or out / "cells"
    cache = arguments.cache or out / "cache"
    loads = tuple(arguments.load or (LOADS[:1] if quick else LOADS))
    if SATURATION not in loads:
        loads = (SATURATION, *loads)
    length = Length(seconds=arguments.seconds or (5.0 if quick else 10.0))
    places = places_of(arguments)
    tools = [name_of(tool) if not why_absent(tool) else why_absent(tool) for tool in TOOLS]
    print(
        f"{platform.machine()}, Python {platform.python_version()}, ONNX Runtime "
        f"{onnxruntime.__version__}; servers: {', '.join(tools)}"
    )
    teller = Teller(sum(len(loads) * len(methods_for(one, quick=quick)) for one, _ in places))
    runs: list[Run] = []
    for name, workload_name in places:
        workload = workload_of(workload_name, cache, arguments.cells)
        fleet = fleet_for(name, workload_name)
        plans = out / f"plans_{name}_{workload_name}.json"
        ways = ways_of(
            fleet, workload, out / f"built_{name}_{workload_name}", plans, say=teller.say
        )
        with Testbed(fleet) as bed:
            methods = methods_for(name, quick=quick)
            for run in run_all(
                bed, ways, out, methods=methods, loads=loads, length=length, say=teller.say
            ):
                runs.append(run)
                teller.done()
    report(runs, out, arguments.json)


def report(runs: Sequence[Run], out: Path, as_json: Path | None) -> None:
    """Tables, plots and the last line."""
    text = markdown(runs)
    (out / "versus.md").write_text(text + "\n")
    write_csv(runs, out / "versus.csv")
    plot_bars(runs, out / "versus-throughput.png")
    plot_ages(runs, out / "versus-ages.png")
    print(text)
    result = {
        "places": len({(run.fleet, run.workload) for run in runs}),
        "gain_over_best_percent": _mean(gain_over_best_percent(runs).values()),
        "gain_over_jpeg_percent": _mean(gains_percent(runs, JPEG).values()),
        "gain_over_http_percent": _mean(gains_percent(runs, HTTP).values()),
        "gain_over_weak_percent": _mean(gains_percent(runs, WEAK).values()),
        "ap_change_pp": _mean(ap_change_pp(runs, WEAK).values()),
    }
    if as_json:
        as_json.write_text(
            json.dumps({"runs": msgspec.to_builtins(list(runs)), **result}, indent=2) + "\n"
        )
    print("RESULT " + " ".join(f"{key}={value}" for key, value in result.items()))


def _mean(values: "Sequence[float] | object") -> float:
    found = list(values)  # type: ignore[call-overload]
    return round(fmean(found), 2) if found else 0.0


if __name__ == "__main__":
    try:
        main()
    except DeviceError as error:
        raise SystemExit(f"error: {error}") from None
