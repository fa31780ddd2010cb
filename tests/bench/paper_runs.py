"""One experiment of the paper: plan as a method would, build, run through the agents, measure.

In:  a bed (``tests.testbed``), a fleet, a trained network, a method.  Out: a Run, saved as JSON:
what was planned and what came of it.  A Run that lies there already is not done again.
Methods: "ours", confined to one pipeline; the other planners of ``planner.policies``, which know
one cut, raw activations and the model folded whole; ours with one idea taken away
(``planner.ablations``).
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgekit.builder.build import build_bundle
from edgekit.builder.planned import recipe_of
from edgekit.bundle.bundle import Bundle
from edgekit.errors import EdgeKitError
from edgekit.planner.ablations import ablate
from edgekit.spec.base import Spec, load, save
from edgekit.spec.fleet import Fleet
from edgekit.spec.messages import Quantiles
from edgekit.spec.planning import Candidate, Goal, PlanReport
from edgekit.workflow_plan import PlanAnswer, PlanRequest, make_plan
from tests.bench.paper_world import Pictures, as_file_name, card_of, model_of
from tests.testbed.agents import run_stream
from tests.testbed.plain import Bed

OURS = "ours"
GOAL = Goal(objective="throughput")
LOADS = ("saturation", "poisson")
_LEAST_FRAMES, _MOST_FRAMES = 120, 10_000
_POISSON_SHARE = 0.7
"""Of the throughput of ours, at which requests arrive for everybody."""
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

    @property
    def key(self) -> dict[str, str]:
        """What tells it from all others."""
        names = ("fleet", "dataset", "network", "method", "load", "round")
        return {name: str(getattr(self, name)) for name in names}


@dataclass
class Case:
    """A network on a fleet, with what every method would do there."""

    fleet: Fleet
    dataset: str
    network: str
    answer: PlanAnswer
    plans: Mapping[str, Candidate | None]
    notes: Mapping[str, str]
    bundles: dict[str, Bundle | str] = field(default_factory=dict)
    """By plan, as text: the bundle, or why there is none."""


def case_of(fleet: Fleet, dataset: str, network: str, pictures: Pictures, *, say: Say) -> Case:
    """Plan by every method."""
    say(f"{fleet.name}, {dataset}, {network}: plan")
    request = PlanRequest(
        model=model_of(dataset, network),
        fleet=fleet,
        folder=Path(),
        goal=GOAL,
        image=next(iter(sorted(pictures.folder.glob("*.png")))),
        with_policies=True,
    )
    answer = make_plan(request, progress=lambda text, done, total: None)
    results = (*answer.report.policies, *ablate(answer.scenario, GOAL))
    return Case(
        fleet=fleet,
        dataset=dataset,
        network=network,
        answer=answer,
        plans={OURS: _buildable(answer.report)} | {one.policy: one.candidate for one in results},
        notes={one.policy: one.note for one in results},
    )


def _buildable(report: PlanReport) -> Candidate | None:
    """The best that agents can run: they do not deal frames out, nor film and run a later shard."""
    found = [
        one
        for one in (report.chosen, *report.alternatives)
        if one
        and not one.members
        and not {hop.source for hop in one.hops if hop.carries == "frame"} & set(one.devices)
    ]
    return min(found, key=lambda one: one.interval_s, default=None)


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


def bundle_of(case: Case, candidate: Candidate, home: Path) -> Bundle | str:
    """The bundle of a plan, built once; or why it cannot be built."""
    text = described(candidate)
    if text not in case.bundles:
        report: PlanReport = msgspec.structs.replace(case.answer.report, chosen=candidate)
        try:
            recipe = recipe_of(report, case.fleet)
            case.bundles[text] = build_bundle(
                model_of(case.dataset, case.network),
                fleet=recipe.fleet,
                rule=recipe.rule,
                fusion=recipe.fusion,
                forwarding=recipe.forwarding,
                card=card_of(case.dataset, case.network),
                model_sha256=recipe.model_sha256,
                out=home / f"bundle-{len(case.bundles)}",
            ).bundle
        except EdgeKitError as error:
            case.bundles[text] = error.what
    return case.bundles[text]


def frames_for(fps: float, seconds: float) -> int:
    """How many frames fill about ``seconds``."""
    return int(min(max(fps * seconds, _LEAST_FRAMES), _MOST_FRAMES))


def run_case(
    bed: Bed,
    case: Case,
    pictures: Pictures,
    out: Path,
    *,
    methods: tuple[str, ...],
    rounds: int,
    seconds: float,
    say: Say,
) -> Iterator[Run]:
    """Every method under every load, in turns; those under ``out`` already are read.

    Requests arrive at the same rate for every method: a share of what ours was measured to carry.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-paper-") as home:
        own_fps = 0.0
        for number in range(rounds):
            for load_name in LOADS:
                for method in methods:
                    run = _blank(case, method, load_name, number)
                    path = out / f"{as_file_name(run.key)}.json"
                    if path.exists():
                        run = load(path, Run)
                    else:
                        say(" ".join(run.key.values()))
                        rate = _POISSON_SHARE * own_fps if load_name == "poisson" else 0.0
                        run = _measured(bed, case, run, pictures, Path(home), seconds, rate)
                        save(run, path)
                    if (method, load_name) == (OURS, "saturation"):
                        own_fps = run.fps or run.predicted_fps
                    yield run


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


def _measured(
    bed: Bed,
    case: Case,
    run: Run,
    pictures: Pictures,
    home: Path,
    seconds: float,
    arrival_fps: float,
) -> Run:
    candidate = case.plans.get(run.method)
    if candidate is None:
        return run
    bundle = bundle_of(case, candidate, home)
    if isinstance(bundle, str):
        return msgspec.structs.replace(run, problem=bundle)
    rate = arrival_fps or run.predicted_fps
    options = f"mode=every&arrivals=poisson&fps={arrival_fps:.3f}" if arrival_fps else "mode=every"
    try:
        done = run_stream(bed, bundle, pictures.source(frames_for(rate, seconds), options))
    except EdgeKitError as error:
        return msgspec.structs.replace(run, problem=error.what)
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
