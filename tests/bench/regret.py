"""Planner regret: the chosen plan beside the best of all plans, measured.

Which plan is best of all cuts, strategies and devices? Every shard that a plan could hold is timed
once for real in the runtime, pinned to a processor, and slowed down as the emulated device is. A
pipeline is never faster than its slowest part, nor are two devices that share frames faster than
their rates together, so that bounds every combination from below. Those within a tenth of the best
(with what a frame costs besides, taken from a few runs) are built and run through the agents on the
emulated fleet as fast as they go; the rest cannot win. The winner of the first half of the rounds
is compared with the planner's choice on fresh rounds. All of it is in fp32: nothing may be lost.
What was measured is kept under --out, and not measured again; every combination is in its JSON.

    python tests/bench/regret.py [--quick] [--out DIR] [--fleet NAME] [--network DATASET-NAME]

Needs root for namespaces. --split-only: the first device is refused the whole model, so that cuts
compete (else two devices that share frames mostly win).
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[2]))

import msgspec

from edgekit.builder.load import load_model
from edgekit.builder.plan_inputs import variants_of
from edgekit.errors import DeviceError
from edgekit.runtime.ort import runtime_name
from edgekit.spec.base import load, save
from edgekit.spec.fleet import Fleet
from edgekit.workflow_plan import PlanAnswer, PlanRequest, make_plan
from tests.bench.paper_world import Pictures, as_file_name, fleet_for, model_of, pictures_of
from tests.bench.regret_case import GOAL, Case, Scope, case_of
from tests.bench.regret_plot import markdown, plot
from tests.bench.regret_runs import Runner
from tests.bench.regret_shards import Effort, shards_of
from tests.testbed.testbed import Testbed
from tests.world import DATA

FLEETS = ("nano-nx", "tx1-nx", "tx2-nx")
NETWORKS = ("cifar10-repvgg", "cifar10-rep-resnet", "mnist-rep-googlenet")
_SHOWN_EVERY_S = 5.0


class Teller:
    """Progress, with the time that is left by the cases that are done."""

    def __init__(self, total: int, write: Callable[[str], None]) -> None:
        self._total, self._done, self._started_s = total, 0, time.monotonic()
        self._write = write
        self._measured, self._said_s = 0, 0.0

    def done(self, *, is_fresh: bool) -> None:
        """One more case."""
        self._done += 1
        self._measured += is_fresh

    def say(self, text: str) -> None:
        """A line."""
        left = ""
        if self._measured:
            each_s = (time.monotonic() - self._started_s) / self._measured
            left = f", {each_s * (self._total - self._done) / 60:.0f} min left"
        self._write(f"[{self._done}/{self._total}{left}] {text}")

    def tell(self, what: str, done: int, total: int) -> None:
        """Something with many steps, said now and then."""
        if time.monotonic() - self._said_s > _SHOWN_EVERY_S:
            self._said_s = time.monotonic()
            self.say(f"{what} {done}/{total}" if total else what)


def main() -> None:
    """Measure what is not yet there, then report all of it."""
    arguments = _arguments()
    if not DATA.is_dir():
        raise SystemExit("needs ../shared/data")
    print(f"{platform.machine()}, Python {platform.python_version()}, {runtime_name()}")
    cases = run_regret(
        arguments.out,
        quick=arguments.quick,
        cache=arguments.cache,
        fleets=arguments.fleet or (),
        networks=arguments.network or (),
        rounds=arguments.rounds,
        most=arguments.most,
        seconds=arguments.seconds,
        split_only=arguments.split_only,
    )
    print((arguments.out / "regret.md").read_text())
    result = figures(cases)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print("RESULT " + " ".join(f"{key}={value}" for key, value in result.items()))


def run_regret(
    out: Path,
    *,
    quick: bool = False,
    cache: Path | None = None,
    fleets: Sequence[str] = (),
    networks: Sequence[str] = (),
    rounds: int | None = None,
    most: int | None = None,
    seconds: float | None = None,
    split_only: bool = False,
    write: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> list[Case]:
    """Every case of ``networks`` on ``fleets`` (all of them if empty; one with ``quick``).

    ``split_only``: the first device may not run the whole model, so that it is cut, or frames are
    forwarded. What lies under ``out`` is not measured again; a table and a plot are written there.
    Raises: DeviceError where no fleet can be emulated.
    """
    fleets = fleets or (FLEETS[-1:] if quick else FLEETS)
    networks = networks or (NETWORKS[:1] if quick else NETWORKS)
    scope = Scope(rounds=rounds or (1 if quick else 2), most=most or (2 if quick else 6))
    effort = Effort(passes=1, turns=2, is_thorough=False) if quick else Effort()
    out.mkdir(parents=True, exist_ok=True)
    teller = Teller(len(fleets) * len(networks), write)
    cases = []
    for name in networks:
        dataset, _, network = name.partition("-")
        pictures = pictures_of(dataset, cache or out / "cache")
        for fleet_name in fleets:
            kind = "split" if split_only else "case"
            key = {"what": kind, "fleet": fleet_name, "network": name}
            path = out / f"{as_file_name(key)}.json"
            is_fresh = not path.exists()
            if is_fresh:
                teller.say(f"{fleet_name} {name}")
                shards = shards_of(dataset, network, out, effort, tell=teller.tell)
                fleet = fleet_for(fleet_name, model_of(dataset, network), out)
                fleet = without_whole(fleet, dataset, network) if split_only else fleet
                answer = plan_of(fleet, dataset, network, pictures)
                with Testbed(fleet) as bed, tempfile.TemporaryDirectory() as home:
                    run = Runner(
                        bed, dataset, network, pictures, Path(home),
                        seconds or (1.5 if quick else 3.0),
                    )  # fmt: skip
                    case = case_of(
                        fleet, dataset, network, answer=answer, shards=shards, run=run,
                        scope=scope, say=teller.say,
                    )  # fmt: skip
                save(case, path)
            cases.append(load(path, Case))
            teller.done(is_fresh=is_fresh)
            teller.say(f"{cases[-1].place}: regret {cases[-1].regret_percent:.2f} %")
            (out / "regret.md").write_text(markdown(cases) + "\n")
            plot(cases, out / "regret.png")
    return cases


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one fleet, one network, few runs")
    parser.add_argument("--out", type=Path, default=Path("regret-results"), metavar="DIR")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="decoded pictures (OUT/cache)")
    parser.add_argument("--rounds", type=int, help="of every finalist; as many pairs follow twice")
    parser.add_argument("--most", type=int, help="plans that are built and run for a case")
    parser.add_argument("--seconds", type=float, help="length of one run, about")
    parser.add_argument("--fleet", action="append", choices=FLEETS)
    parser.add_argument("--network", action="append", choices=NETWORKS)
    parser.add_argument(
        "--split-only", action="store_true", help="the first device may not run the whole model"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def without_whole(fleet: Fleet, dataset: str, network: str) -> Fleet:
    """``fleet`` with a first device that is refused just the whole model, however it is folded."""
    variants = variants_of(load_model(model_of(dataset, network)))
    macs = min(one.workload.work_flop for one in variants) // 2
    first, *others = fleet.device
    limited = msgspec.structs.replace(first, max_macs=macs - 1)
    return msgspec.structs.replace(fleet, device=(limited, *others))


def plan_of(fleet: Fleet, dataset: str, network: str, pictures: Pictures) -> PlanAnswer:
    """What the planner says, finalists timed on this machine as usual."""
    request = PlanRequest(
        model=model_of(dataset, network),
        fleet=fleet,
        folder=Path(),
        goal=GOAL,
        image=next(iter(sorted(pictures.folder.glob("*.png")))),
    )
    return make_plan(request, progress=lambda text, done, total: None)


def figures(cases: Sequence[Case]) -> dict[str, float]:
    """Those of the last line."""
    regrets = [case.regret_percent for case in cases]
    return {
        "regret_percent_mean": round(fmean(regrets), 2),
        "regret_percent_max": round(max(regrets), 2),
        "cases": len(cases),
        "combinations": sum(len(case.row) for case in cases),
    }


if __name__ == "__main__":
    try:
        main()
    except DeviceError as error:
        raise SystemExit(f"error: {error}") from None
