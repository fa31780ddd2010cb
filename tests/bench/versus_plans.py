"""What every method would do with a workload on a fleet, in the words of a build.

In:  a fleet, a workload.  Out: a Ways: methods with bundles, or why there is none.
Ours three times, always for throughput: with nothing lossy; with JPEG or WebP frames allowed; and
so with a deadline of 1.25 times the least latency. Beside it the planners of ``planner.policies``
that the paper names, and what a user does without a planner: frames as JPEG (or raw, "cloud") to
the stronger device, the whole model on either, a cut in the middle ("cloud-edge": any cut, where
SIDD takes one tensor).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp

import msgspec
import onnx

from edgekit.builder.build import build_bundle
from edgekit.builder.forwarding import Forwarding
from edgekit.builder.load import load_model
from edgekit.builder.planned import recipe_of
from edgekit.builder.workload import workload_of as operators_of
from edgekit.bundle.bundle import Bundle
from edgekit.planner.cuts import legal_cuts
from edgekit.planner.search import plan
from edgekit.spec.base import Spec, load, save
from edgekit.spec.codec import CodecRequest, parse_request
from edgekit.spec.fleet import Fleet
from edgekit.spec.planning import Candidate, Goal, PlanReport
from edgekit.workflow_plan import PlanRequest, make_plan
from tests.bench.versus_world import Workload, emulated

OURS, OURS_LOSSY, OURS_PROMPT = "ours", "ours, JPEG allowed", "ours with a deadline"
JPEG, CLOUD_RAW, CLOUD_EDGE = "jpeg over our hop", "cloud", "cloud-edge"
WEAK, STRONG = "whole on the weak", "whole on the strong"
FARM = "farm of two"
HTTP = "jpeg over plain http"
TOOL = "jpeg over "
"""And the name of a serving tool."""
POLICY = {"roofsplit": "RoofSplit", "sidd": "SIDD"}
_LOSSLESS = ("raw", "png")
DEADLINE = 1.25
"""Of the least latency of any plan: what a frame may take where ours has a deadline."""
Say = Callable[[str], None]


class Planned(Spec, frozen=True, kw_only=True):
    """What planners chose."""

    report: PlanReport
    """Of ours, for throughput; with its speeds all others are priced."""
    candidates: dict[str, Candidate]
    notes: dict[str, str]
    """Why a method has no plan."""
    deadline_ms: float
    """Of ours with a deadline."""
    emulated: str
    """How slow devices were taken to be."""


@dataclass(kw_only=True)
class Ways:
    """Everything that can be run for one workload on one fleet."""

    fleet: Fleet
    workload: Workload
    home: Path
    planned: Planned
    bundles: dict[str, Bundle] = field(default_factory=dict)

    @property
    def weak(self) -> str:
        """The device with the camera."""
        return self.fleet.device[0].name

    @property
    def strong(self) -> str:
        """The other one."""
        return self.fleet.device[1].name

    def bundle(self, method: str) -> Bundle:
        """Built once. Raises: EdgeKitError if it cannot be."""
        text = self.text(method)
        if text not in self.bundles:
            folder = Path(mkdtemp(prefix="bundle-", dir=self.home))
            self.bundles[text] = self._build(method, folder / "bundle")
        return self.bundles[text]

    def text(self, method: str) -> str:
        """The plan in one line; methods with equal lines do the same."""
        if method in self.planned.candidates:
            return described(self.planned.candidates[method], self.fleet.source_name)
        strong, weak = self.strong, self.weak
        return {
            JPEG: f"{weak} films -> {strong} by jpeg-90",
            CLOUD_RAW: f"{weak} films -> {strong} by raw",
            WEAK: weak,
            STRONG: strong,
            FARM: f"{weak} | {strong}, each with a camera",
            CLOUD_EDGE: f"{weak} -> {strong}, middle of the work",
        }.get(method, f"{weak} films -> {strong}, {method}")

    def model_file(self) -> Path:
        """The whole model as one file, folded as EdgeKit folds it: for whoever chooses nothing."""
        path = self.home / "whole.onnx"
        if not path.exists():
            whole = self.bundle(STRONG)
            path.write_bytes((whole.folder / whole.plan.placements[0].shard).read_bytes())
            onnx.checker.check_model(str(path))
        return path

    def _build(self, method: str, out: Path) -> Bundle:
        if method in self.planned.candidates:
            return self._as_planned(method, out)
        forwarding, rule = None, ("none",)
        devices = {WEAK: (self.weak,), CLOUD_EDGE: (self.weak, self.strong)}.get(
            method, (self.strong,)
        )
        if method in (JPEG, CLOUD_RAW):
            codec = parse_request("jpeg-90") if method == JPEG else CodecRequest()
            forwarding = Forwarding(device=self.weak, codec=codec)
        if method == CLOUD_EDGE:
            rule = (middle_cut(self.model_file()),)
        return build_bundle(
            self.workload.model if method == STRONG else self.model_file(),
            fleet=only(self.fleet, devices),
            rule=rule,
            forwarding=forwarding,
            card=self.workload.card,
            out=out,
        ).bundle

    def _as_planned(self, method: str, out: Path) -> Bundle:
        report: PlanReport = msgspec.structs.replace(
            self.planned.report, chosen=self.planned.candidates[method]
        )
        recipe = recipe_of(report, self.fleet)
        return build_bundle(
            self.workload.model,
            fleet=recipe.fleet,
            rule=recipe.rule,
            fusion=recipe.fusion,
            forwarding=recipe.forwarding,
            card=self.workload.card,
            model_sha256=recipe.model_sha256,
            out=out,
        ).bundle


def ways_of(fleet: Fleet, workload: Workload, home: Path, plans: Path, *, say: Say) -> Ways:
    """Plan by every method that plans, or read what was planned before from the file ``plans``."""
    planned = load(plans, Planned) if plans.exists() else None
    if planned is None or planned.emulated != emulated(fleet):
        planned = _planned(fleet, workload, say)
        save(planned, plans)
    home.mkdir(parents=True, exist_ok=True)
    return Ways(fleet=fleet, workload=workload, home=home, planned=planned)


def _planned(fleet: Fleet, workload: Workload, say: Say) -> Planned:
    say(f"{fleet.name}, {workload.name}: plan")
    request = PlanRequest(
        model=workload.model,
        fleet=fleet,
        folder=Path(),
        goal=Goal(objective="throughput"),
        image=workload.picture,
        with_policies=True,
    )
    answer = make_plan(request, progress=lambda text, done, total: None)
    exact = tuple(one for one in answer.scenario.frames if one.codec in _LOSSLESS)
    lossless = plan(replace(answer.scenario, frames=exact), Goal(objective="throughput"))
    deadline_s = DEADLINE * answer.report.best_latency_s
    hurried = plan(answer.scenario, Goal(objective="throughput", max_latency_s=deadline_s))
    found = {
        OURS: lossless.chosen,
        OURS_LOSSY: answer.report.chosen,
        OURS_PROMPT: hurried.chosen,
    }
    policies = {POLICY[one.policy]: one for one in answer.report.policies if one.policy in POLICY}
    found |= {name: one.candidate for name, one in policies.items()}
    return Planned(
        report=answer.report,
        candidates={name: one for name, one in found.items() if one is not None},
        notes={
            name: policies[name].note if name in policies else "no plan keeps the deadline"
            for name, one in found.items()
            if one is None
        },
        deadline_ms=round(1e3 * deadline_s, 1),
        emulated=emulated(fleet),
    )


def described(candidate: Candidate, source: str) -> str:
    """A plan in one line: devices, strategies where not all is folded, cuts, codecs."""
    if shared := candidate.shared_by(source):
        own, sent = shared
        return f"{described(own, source)} answers some itself | {described(sent, source)}"
    stages = [
        f"{one.runner}{'' if one.strategy == 'S3' else f' {one.strategy}'}"
        + (f" [until {','.join(one.until)}]" if one.until else "")
        for one in candidate.stages
    ]
    films = [f"{hop.source} films" for hop in candidate.hops if hop.carries == "frame"]
    codecs = [hop.codec for hop in candidate.hops if hop.carries != "answers"]
    text = " -> ".join([*films, *stages])
    return f"{text} by {', '.join(codecs)}" if codecs else text


def only(fleet: Fleet, names: tuple[str, ...]) -> Fleet:
    """Those devices of the fleet, in their order, and the links between them."""
    return msgspec.structs.replace(
        fleet,
        device=tuple(one for one in fleet.device if one.name in names),
        link=tuple(one for one in fleet.link if {one.source, one.target} <= set(names)),
        source="",
        sink="",
        host_speed=0.0,
    )


def middle_cut(model: Path) -> str:
    """The cut of any kind nearest to half of the work; of equals, the thinnest."""
    workload = operators_of(load_model(model))
    half = 0.5 * workload.work_flop
    best = min(
        legal_cuts(workload).cuts, key=lambda cut: (abs(cut.work_flop_before - half), cut.nbytes)
    )
    return ",".join(best.names)
