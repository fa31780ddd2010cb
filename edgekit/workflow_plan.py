"""The spine of planning, one readable line per step: model, devices, frames, plan, finalists.

In:  a model, a fleet, a goal.  Out: a PlanAnswer: the report, and what it was made from.
The best shards are really split, loaded and timed where a device is this machine, and the plan is
made again with those times before it is final.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.plan_inputs import variants_of
from edgekit.builder.plan_integers import IntegerVariant, integer_variants
from edgekit.errors import ConfigError
from edgekit.planner.accuracy import accuracy_notes, measured_frames
from edgekit.planner.cost_table import CostTable
from edgekit.planner.flips import find_flips
from edgekit.planner.policies import compare
from edgekit.planner.scenario import Scenario, Variant
from edgekit.profiler.fleet_profiles import FleetProfiles, fleet_profiles
from edgekit.profiler.frame_cost import (
    FrameCosts,
    assumed_costs,
    costs_of_image,
    costs_of_video,
)
from edgekit.spec.accuracy import AccuracyReport, Counting
from edgekit.spec.fleet import Fleet
from edgekit.spec.planning import RAW_FP32, AccuracyTable, Goal, PlanReport
from edgekit.spec.profile import DeviceProfile
from edgekit.trial.bench import Bench
from edgekit.trial.limits import keep_limits
from edgekit.trial.settle import Comparison, Measure, search, settle

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What was asked."""

    model: Path
    fleet: Fleet
    folder: Path
    """Where the fleet file is; profiles may lie beside it."""
    goal: Goal
    input_shapes: dict[str, tuple[int, ...]] | None = None
    source_size: tuple[int, int] | None = None
    """Width and height of the camera's frames [px]; the model's input if None."""
    image: Path | None = None
    video: str | None = None
    accuracy: AccuracyReport | None = None
    """As ``edgekit accuracy`` measured it: then int8 and lossy codecs may be chosen."""
    counting: Counting = "at-worst"
    measure: Measure = "auto"
    budget_s: float = 20.0
    """For timing finalists."""
    with_flips: bool = False
    with_policies: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAnswer:
    """The report, what it was made from, and the finalists' predictions beside their times."""

    report: PlanReport
    scenario: Scenario
    """With what was timed, and with speeds that were corrected by it."""
    profiles: Mapping[str, DeviceProfile]
    """As they came, by device."""
    loaded: LoadedModel
    compared: tuple[Comparison, ...]


def make_plan(request: PlanRequest, *, progress: Progress) -> PlanAnswer:
    """Answer ``request``. A report without a chosen plan says which limit stands in the way.

    Raises: ConfigError, ModelError, PlanError or DeviceError.
    """
    progress("load the model", 0, 0)
    loaded = load_model(request.model, input_shapes=request.input_shapes)
    progress("fold it under each strategy", 0, 0)
    variants = variants_of(loaded)
    integers = _integers(request, loaded, progress)
    devices = fleet_profiles(request.fleet, request.folder, say=lambda text: progress(text, 0, 0))
    progress("measure frame codecs", 0, 0)
    frames = frame_costs(request, loaded)
    progress("search", 0, 0)
    variants += tuple(one.variant for one in integers)
    scenario = _scenario(request, loaded, variants, devices, frames)
    found = search(scenario, request.goal)
    bench = Bench(loaded, devices.here, integers)
    settled = settle(
        found,
        request.goal,
        bench,
        mode=request.measure,
        budget_s=request.budget_s,
        progress=progress,
    )
    kept = keep_limits(settled.found, request.goal, bench, progress=progress)
    table, report = kept.found.table, kept.found.report
    notes = (*devices.notes, frames.note, *settled.notes, *kept.notes, *report.notes)
    notes += unmeasured_codecs(report, request.accuracy)
    if request.accuracy is not None:
        notes += accuracy_notes(request.accuracy, report, table.scenario, request.counting)
    report = msgspec.structs.replace(
        report,
        notes=tuple(dict.fromkeys(notes)),
        refusals=(*kept.refusals, *report.refusals),
    )
    report = _with_comparisons(request, table, _finite(report), progress)
    return PlanAnswer(
        report=report,
        scenario=table.scenario,
        profiles=devices.profiles,
        loaded=loaded,
        compared=settled.compared,
    )


def unmeasured_codecs(report: PlanReport, known: AccuracyReport | None) -> tuple[str, ...]:
    """That a lossy way to send frames is taken for harmless, where nobody measured its cost."""
    if report.chosen is None or known is not None:
        return ()
    parts = report.chosen.members or (report.chosen,)
    sent = {hop.codec for one in parts for hop in one.hops if hop.carries == "frame"}
    lossy = sorted(codec for codec in sent if codec.partition("-")[0] in ("jpeg", "webp"))
    return tuple(
        f"what {codec} frames cost in accuracy was not measured, and is taken for nothing: "
        "`edgekit accuracy` measures it (small objects suffer first)"
        for codec in lossy
    )


def _scenario(
    request: PlanRequest,
    loaded: LoadedModel,
    variants: tuple[Variant, ...],
    devices: FleetProfiles,
    frames: FrameCosts,
) -> Scenario:
    known, counting = request.accuracy, request.counting
    return Scenario(
        model=loaded.name,
        model_sha256=loaded.source_sha256,
        variants=variants,
        fleet=_with_speeds(request.fleet, devices.coding_speed),
        profiles=devices.profiles,
        frames=measured_frames(known, frames.costs, counting) if known else frames.costs,
        codecs=known.codecs(counting) if known else (RAW_FP32,),
        accuracy=known.table(counting) if known else AccuracyTable(),
    )


def _integers(
    request: PlanRequest, loaded: LoadedModel, progress: Progress
) -> tuple[IntegerVariant, ...]:
    """The model in int8, if it is known what that loses.

    Raises: ConfigError if the accuracy was measured of another model.
    """
    known = request.accuracy
    if known is None:
        return ()
    if known.model_sha256 != loaded.source_sha256:
        raise ConfigError(
            f"--accuracy was measured of {known.model} (sha256 {known.model_sha256[:12]}), and "
            f"this is {loaded.name} ({loaded.source_sha256[:12]})",
            hint="measure this model with `edgekit accuracy`",
        )
    progress("quantize it", 0, 0)
    measured = {one.strategy for one in known.shard if one.precision == "int8"}
    chosen = [one for one in known.in_float if one.strategy in measured]
    return integer_variants(loaded, chosen, known.target)


def _finite(report: PlanReport) -> PlanReport:
    """``report`` without infinite figures, which JSON cannot hold."""
    return msgspec.structs.replace(
        report,
        neighbours=tuple(one for one in report.neighbours if math.isfinite(one.latency.time_s)),
        best_latency_s=report.best_latency_s if math.isfinite(report.best_latency_s) else 0.0,
        best_interval_s=report.best_interval_s if math.isfinite(report.best_interval_s) else 0.0,
    )


def _with_speeds(fleet: Fleet, speeds: Mapping[str, float]) -> Fleet:
    """``fleet`` with speeds relative to this machine, on which frames were coded for their cost."""
    devices = tuple(
        msgspec.structs.replace(one, relative_speed=speeds[one.name]) if one.name in speeds else one
        for one in fleet.device
    )
    return msgspec.structs.replace(fleet, device=devices)


def _with_comparisons(
    request: PlanRequest, table: CostTable, report: PlanReport, progress: Progress
) -> PlanReport:
    """``report`` with what was asked for besides the plan."""
    if request.with_policies:
        progress("ask the other planners", 0, 0)
        policies = compare(table, request.goal)
        report = msgspec.structs.replace(report, policies=policies)
    if request.with_flips:
        progress("look for what would change the decision", 0, 0)
        flips = find_flips(table, request.goal, report)
        report = msgspec.structs.replace(report, flips=flips)
    return report


def frame_costs(request: PlanRequest, loaded: LoadedModel) -> FrameCosts:
    """What sending a frame costs: from the image or video given, else assumed for its size.

    Raises: ConfigError if both are given, or neither can tell.
    """
    if request.image is not None and request.video is not None:
        raise ConfigError("--image and --video are both given", hint="give one of them")
    if request.image is not None:
        return costs_of_image(request.image)
    if request.video is not None:
        return costs_of_video(request.video)
    if request.source_size is not None:
        return assumed_costs(*request.source_size)
    for spec in loaded.inputs:
        if len(spec.shape) == 4 and spec.shape[1] in (1, 3):
            return assumed_costs(spec.shape[3], spec.shape[2])
    return FrameCosts(costs=(), note="the model takes no picture: its input itself would be sent")
