"""One experiment of the paper: plan as a method would, build, run through the agents, measure.

In:  a bed (``tests.testbed``), a Case.  Out: Runs, each saved as JSON: what was planned and what
came of it. A Run that lies there is not done again; methods that planned the same share one.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit.builder.build import build_bundle
from edgekit.builder.planned import recipe_of
from edgekit.bundle.bundle import Bundle
from edgekit.errors import EdgeKitError
from edgekit.spec.base import Spec, load, save
from edgekit.spec.messages import Quantiles
from edgekit.spec.planning import Candidate, PlanReport
from tests.bench.paper_case import OURS, Case
from tests.bench.paper_world import Pictures, as_file_name, card_of, model_of
from tests.testbed.agents import StreamRun, run_stream
from tests.testbed.plain import Bed

SATURATION, RANDOM, STEADY = "saturation", "poisson", "fixed"
_LEAST_FRAMES, _MOST_FRAMES = 120, 10_000
_SHARE = 0.7
"""Of the throughput of ours, at which requests arrive for everybody, at random or evenly."""
Say = Callable[[str], None]


class Run(Spec, frozen=True, kw_only=True):
    """What one method came to on one fleet with one network."""

    fleet: str
    dataset: str
    network: str
    method: str
    load: str
    round: int
    plan: str
    """Such as "nano [until relu_3] -> nx", with strategies and codecs."""
    family: str
    predicted_fps: float
    predicted_latency_ms: float
    frames: int = 0
    fps: float = 0.0
    age_ms: Quantiles = Quantiles()
    mean_age_ms: float = 0.0
    accuracy_percent: float = 0.0
    link_bytes: int = 0
    """Per frame, on all links."""
    problem: str = ""
    """Why there are no measurements."""
    same_as: str = ""
    """The method that planned the same, and was measured."""

    @property
    def key(self) -> dict[str, str]:
        """What tells it from all others."""
        names = ("fleet", "dataset", "network", "method", "load", "round")
        return {name: str(getattr(self, name)) for name in names}


def described(candidate: Candidate) -> str:
    """A plan in one line, all that matters said."""
    if candidate.members:
        return " | ".join(described(member) for member in candidate.members)
    stages = [
        f"{one.device}({one.strategy} {one.precision}"
        + (f", until {','.join(one.until)})" if one.until else ")")
        for one in candidate.stages
    ]
    hops = [one.codec for one in candidate.hops if one.carries != "answers"]
    return " -> ".join(stages) + (f" by {', '.join(hops)}" if hops else "")


class Workshop:
    """Builds the bundle of each plan of a case once."""

    def __init__(self, case: Case, home: Path) -> None:
        self._case, self._home = case, home
        self._built: dict[str, Bundle | str] = {}

    def bundle(self, candidate: Candidate) -> Bundle | str:
        """The bundle, or why there is none."""
        text, case = described(candidate), self._case
        if text not in self._built:
            report: PlanReport = msgspec.structs.replace(case.report, chosen=candidate)
            try:
                recipe = recipe_of(report, case.fleet)
                self._built[text] = build_bundle(
                    model_of(case.dataset, case.network),
                    fleet=recipe.fleet,
                    rule=recipe.rule,
                    fusion=recipe.fusion,
                    forwarding=recipe.forwarding,
                    card=card_of(case.dataset, case.network),
                    model_sha256=recipe.model_sha256,
                    out=self._home / f"bundle-{len(self._built)}",
                ).bundle
            except EdgeKitError as error:
                self._built[text] = error.what
        return self._built[text]


class Effort(Spec, frozen=True, kw_only=True):
    """How much is measured."""

    methods: tuple[str, ...]
    loads: tuple[str, ...]
    rounds: int
    seconds: float
    """Of one run, about."""


def run_case(
    bed: Bed, case: Case, pictures: Pictures, out: Path, *, effort: Effort, say: Say
) -> Iterator[Run]:
    """Every method under every load, in turns; those under ``out`` already are read.

    Requests arrive at the same rate for every method: a share of what ours was measured to carry.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-paper-") as home:
        site = _Site(bed, case, pictures, Workshop(case, Path(home)), effort.seconds)
        own_fps = 0.0
        for number in range(effort.rounds):
            for load_name in effort.loads:
                measured: dict[str, Run] = {}
                rate = 0.0 if load_name == SATURATION else _SHARE * own_fps
                for method in effort.methods:
                    run = _blank(case, method, load_name, number)
                    path = out / f"{as_file_name(run.key)}.json"
                    if path.exists():
                        run = load(path, Run)
                    elif twin := measured.get(run.plan):
                        run = _alike(run, twin)
                        save(run, path)
                    else:
                        say(" ".join(run.key.values()))
                        run = site.measured(run, rate)
                        save(run, path)
                    if not run.problem:
                        measured.setdefault(run.plan, run)
                    if (method, load_name) == (OURS, SATURATION):
                        own_fps = run.fps or run.predicted_fps
                    yield run


@dataclass(frozen=True)
class _Site:
    """Where the runs of one case take place."""

    bed: Bed
    case: Case
    pictures: Pictures
    workshop: Workshop
    seconds: float

    def measured(self, run: Run, arrival_fps: float) -> Run:
        """``run`` with its figures, or with the problem that it met."""
        candidate = self.case.plans.get(run.method)
        if candidate is None:
            return run
        bundle = self.workshop.bundle(candidate)
        if isinstance(bundle, str):
            return msgspec.structs.replace(run, problem=bundle)
        count = frames_for(arrival_fps or run.predicted_fps, self.seconds)
        options = "mode=every"
        if arrival_fps:
            options += f"&fps={arrival_fps:.3f}"
        options += {RANDOM: "&arrivals=poisson", STEADY: "&pace=1"}.get(run.load, "")
        try:
            done = run_stream(self.bed, bundle, self.pictures.source(count, options))
        except EdgeKitError as error:
            return msgspec.structs.replace(run, problem=error.what)
        return with_figures(run, done, self.pictures)


def with_figures(run: Run, done: StreamRun, pictures: Pictures) -> Run:
    """``run`` with what was measured."""
    hops = [sum(hop.bytes for hop in one.hops) for one in done.reports]
    return msgspec.structs.replace(
        run,
        frames=len(done.reports),
        fps=done.fps,
        age_ms=done.age_ms,
        mean_age_ms=done.mean_age_ms,
        accuracy_percent=pictures.accuracy_percent(done.reports),
        link_bytes=max(hops, default=0),
    )


def frames_for(fps: float, seconds: float) -> int:
    """How many frames fill about ``seconds``."""
    return int(min(max(fps * seconds, _LEAST_FRAMES), _MOST_FRAMES))


def _alike(run: Run, twin: Run) -> Run:
    """``run`` with the figures of another method that planned the same."""
    names = ("frames", "fps", "age_ms", "mean_age_ms", "accuracy_percent", "link_bytes")
    figures: Mapping[str, object] = {name: getattr(twin, name) for name in names}
    return msgspec.structs.replace(run, same_as=twin.method, **figures)


def _blank(case: Case, method: str, load_name: str, number: int) -> Run:
    candidate = case.plans.get(method)
    known = candidate is not None
    return Run(
        fleet=case.fleet.name,
        dataset=case.dataset,
        network=case.network,
        method=method,
        load=load_name,
        round=number,
        plan=described(candidate) if candidate else "",
        family=candidate.family if candidate else "",
        predicted_fps=candidate.throughput_fps if candidate else 0.0,
        predicted_latency_ms=1e3 * candidate.latency.time_s if candidate else 0.0,
        problem="" if known else case.notes.get(method, "no plan"),
    )
