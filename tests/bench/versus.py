"""The comparisons a user would make, measured: ours, other planners, and no planner at all.

On emulated fleets (tests/testbed), each workload of detection by each method: our plan for
throughput (nothing lossy; JPEG frames allowed; with a deadline); RoofSplit's and SIDD's; the whole
model on the stronger device with JPEG frames over our hop, over plain HTTP (``versus_http``) and in
published serving tools (``versus_peers``); on the weak device alone; on both with a camera each;
and for Table VII frames raw to the cloud and a cut in the middle. First as fast as frames are
taken, with AP50 against the labels, of the answers as they came; then from a camera of fixed rate,
and with requests at random.
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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import msgspec
import onnxruntime

from edgekit.errors import DeviceError
from edgekit.spec.base import load
from tests.bench.versus_peers import TOOLS, name_of, why_absent
from tests.bench.versus_plans import (
    CLOUD_EDGE,
    CLOUD_RAW,
    FARM,
    HTTP,
    JPEG,
    OURS,
    OURS_LOSSY,
    OURS_PROMPT,
    WEAK,
    Say,
    ways_of,
)
from tests.bench.versus_runs import LOADS, SATURATION, Length, Run, run_all, tool_methods
from tests.bench.versus_tables import (
    OWN,
    ap_change_pp,
    beaten,
    gain_over_best_percent,
    gains_percent,
    markdown,
    plot_ages,
    plot_bars,
    write_csv,
)
from tests.bench.versus_world import CLOUD, FLEETS, WORKLOADS, fleet_for, why_missing, workload_of
from tests.testbed.testbed import Testbed

PLANNED = (OURS, OURS_LOSSY, OURS_PROMPT, "RoofSplit", "SIDD")
QUICK = (OURS, JPEG, HTTP, WEAK)
PLACES = (
    ("nano-nx", "yard"),
    (CLOUD, "yard"),
    ("nano-nx", "vtest"),
    ("nano-nx", "cells"),
    ("nano-nx", "coco"),
)
"""Fleets and workloads of a full run."""
LOADED = PLACES[:1]
"""Those of them under all loads; the others as fast as frames are taken."""
_READ_S = 1.0


class Teller:
    """Says what is done, how far along it is, and when it will end."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._started_s = total, 0, time.monotonic()
        self._measured, self._last_s = 0, self._started_s

    def done(self) -> None:
        """One more run; one that was only read says nothing about the time that others take."""
        now_s = time.monotonic()
        self._measured += now_s - self._last_s > _READ_S
        self._done, self._last_s = self._done + 1, now_s

    def say(self, text: str) -> None:
        """A line on standard error."""
        elapsed_s = time.monotonic() - self._started_s
        left = ""
        if self._measured:
            left_s = elapsed_s / self._measured * (self._total - self._done)
            left = f", {left_s / 60:.0f} min left"
        print(f"[{self._done}/{self._total}{left}] {text}", file=sys.stderr, flush=True)


def methods_for(fleet: str, *, quick: bool, asked: Sequence[str] | None = None) -> tuple[str, ...]:
    """What is compared on a fleet; ours is always among it, and first."""
    middle = (CLOUD_EDGE, CLOUD_RAW) if fleet == CLOUD else ()
    methods = QUICK if quick else (*PLANNED, *middle, JPEG, *tool_methods(), WEAK, FARM)
    return tuple(one for one in methods if not asked or one == OURS or one in asked)


def loads_for(
    place: tuple[str, str], asked: Sequence[str] | None, *, quick: bool
) -> tuple[str, ...]:
    """Under which loads; saturation is always among them, and first, as it sets the rates."""
    if asked:
        return tuple(load for load in LOADS if load == SATURATION or load in asked)
    return LOADS if place in LOADED and not quick else (SATURATION,)


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


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the yard on one fleet, four methods")
    parser.add_argument("--out", type=Path, default=Path("versus-results"), metavar="DIR")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="frames (OUT/cache)")
    parser.add_argument("--cells", type=Path, metavar="DIR", help="blood cells (OUT/cells)")
    parser.add_argument("--seconds", type=float, help="length of one run, about")
    parser.add_argument("--slower", type=int, default=1, help="on a busy machine: all devices")
    parser.add_argument("--fleet", action="append", choices=FLEETS)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS))
    parser.add_argument("--load", action="append", choices=LOADS)
    parser.add_argument("--method", action="append", help="only these, as the tables name them")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true", help="only tables of what is in --out")
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    arguments.cells = arguments.cells or arguments.out / "cells"
    arguments.cache = arguments.cache or arguments.out / "cache"
    return arguments


def main() -> None:
    """Run what is not yet there, then write tables and plots of all of it."""
    arguments = parsed()
    out, quick = arguments.out, arguments.quick
    out.mkdir(parents=True, exist_ok=True)
    if arguments.report:
        report(runs_in(out), out, arguments.json)
        return
    places = places_of(arguments)
    tools = [name_of(tool) if not why_absent(tool) else why_absent(tool) for tool in TOOLS]
    print(
        f"{platform.machine()}, Python {platform.python_version()}, ONNX Runtime "
        f"{onnxruntime.__version__}; servers: {', '.join(tools)}"
    )
    loads = {place: loads_for(place, arguments.load, quick=quick) for place in places}
    counts = [
        len(loads[one]) * len(methods_for(one[0], quick=quick, asked=arguments.method))
        for one in places
    ]
    teller = Teller(sum(counts))
    runs: list[Run] = []
    for place in places:
        for run in run_place(place, loads[place], arguments, teller.say):
            runs.append(run)
            teller.done()
    report(runs, out, arguments.json)


def run_place(
    place: tuple[str, str], loads: Sequence[str], arguments: argparse.Namespace, say: Say
) -> Iterator[Run]:
    """All methods with one workload on one fleet."""
    fleet_name, workload_name = place
    quick, out = arguments.quick, arguments.out
    workload = workload_of(workload_name, arguments.cache, arguments.cells)
    fleet = fleet_for(fleet_name, workload_name, slower=arguments.slower)
    with TemporaryDirectory(prefix="edgekit-versus-") as home, Testbed(fleet) as bed:
        plans = out / f"plans_{fleet_name}_{workload_name}.json"
        yield from run_all(
            bed,
            ways_of(fleet, workload, Path(home), plans, say=say),
            out,
            methods=methods_for(fleet_name, quick=quick, asked=arguments.method),
            loads=loads,
            length=Length(seconds=arguments.seconds or (5.0 if quick else 7.0)),
            say=say,
        )


def runs_in(out: Path) -> list[Run]:
    """What was measured before, in the order of a full run."""
    found = [load(path, Run) for path in out.glob("*.json") if not path.name.startswith("plans_")]
    places = [*PLACES, *sorted({(run.fleet, run.workload) for run in found} - set(PLACES))]

    def position(run: Run) -> tuple[int, int, int, str]:
        methods = methods_for(run.fleet, quick=False)
        known = methods.index(run.method) if run.method in methods else len(methods)
        place = places.index((run.fleet, run.workload))
        return place, LOADS.index(run.load), known, run.method

    return sorted(found, key=position)


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
        "beaten_at": len(beaten(runs)),
        "gain_over_best_percent": _mean(gain_over_best_percent(runs, OWN).values()),
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


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return round(fmean(found), 2) if found else 0.0


if __name__ == "__main__":
    try:
        main()
    except DeviceError as error:
        raise SystemExit(f"error: {error}") from None
