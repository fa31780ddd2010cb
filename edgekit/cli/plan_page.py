"""The plan page: what ``dashboard.plan_report`` shows, gathered from a PlanAnswer."""

import io

import msgspec

from edgekit.cli.plan_show import asked
from edgekit.dashboard.plan_report import PlanPage, Plot, TimedShard, to_html
from edgekit.dashboard.plan_strip import StripShard
from edgekit.planner.cuts import partition, resolve_cut
from edgekit.planner.dag import Dag
from edgekit.planner.explain import explain
from edgekit.planner.kernel_groups import inner_names
from edgekit.planner.wording import cut_name, describe, other_refusals, why_not
from edgekit.profiler.roofline import choose_ceiling, dots_of, model_precision
from edgekit.profiler.roofline_plot import draw_roofline
from edgekit.spec.fleet import Device
from edgekit.spec.plan import Cut
from edgekit.spec.planning import Candidate, PlanReport, StagePlan
from edgekit.spec.workload import OpCost, Workload
from edgekit.trial.bench import ShardName
from edgekit.trial.settle import stages_of
from edgekit.workflow_plan import PlanAnswer


def page_of(answer: PlanAnswer) -> str:
    """The page of ``answer`` as HTML."""
    report = answer.report
    members = (report.chosen.members or (report.chosen,)) if report.chosen else ()
    page = PlanPage(
        describe=lambda one: describe(one).replace("->", "→"),
        why_not=lambda one: why_not(one, report),
        asked=asked(report),
        sentences=_sentences(report),
        strips=[_strip(answer, member) for member in members],
        plots=[_plot(answer, device) for device in answer.scenario.devices if device.can_run],
        timed=[
            TimedShard(
                device=one.device,
                words=_shard_words(one.shard),
                predicted_s=one.predicted_s,
                low_s=one.low_s,
                high_s=one.high_s,
                measured_s=one.measured_s,
            )
            for one in answer.compared
        ],
    )
    return to_html(msgspec.structs.replace(report, refusals=other_refusals(report)), page)


def _sentences(report: PlanReport) -> list[str]:
    """The explanation without what has its own place on the page."""
    rest = msgspec.structs.replace(
        report, flips=(), refusals=(), notes=(), alternatives=(), neighbours=()
    )
    return [text.replace("->", "→") for text in explain(rest)]


def _strip(answer: PlanAnswer, member: Candidate) -> list[StripShard]:
    shards = []
    for stage in member.stages:
        workload, ops = _ops(answer, stage)
        shards.append(
            StripShard(
                device=stage.device,
                ops=tuple(ops),
                cut=cut_name(stage.until) if stage.until else "",
                cut_bytes=sum(workload.tensor[name].nbytes for name in stage.until),
            )
        )
    return shards


def _ops(answer: PlanAnswer, stage: StagePlan) -> tuple[Workload, list[OpCost]]:
    """The operators of a stage, in the workload of its strategy."""
    workload = next(
        one.workload for one in answer.scenario.variants if one.strategy == stage.strategy
    )
    cuts: list[Cut] = [
        resolve_cut(workload, names) for names in (stage.after, stage.until) if names
    ]
    chosen = partition(workload, cuts)[int(bool(stage.after))]
    return workload, [workload.ops[position] for position in chosen]


def _plot(answer: PlanAnswer, device: Device) -> Plot:
    """The roofline of a device, with its shard under it; with the whole model if it is idle."""
    profile = answer.profiles[device.name]
    chosen = answer.report.chosen
    stages = [one for one in (stages_of(chosen) if chosen else ()) if one.device == device.name]
    workload, what = answer.scenario.reference, "the whole model, though it runs none of it"
    inner = inner_names(Dag(workload))
    if stages:
        whole, ops = _ops(answer, stages[0])
        inner = inner_names(Dag(whole))
        workload = Workload(
            model=whole.model, model_sha256=whole.model_sha256, ops=tuple(ops),
            tensors=whole.tensors, inputs=whole.inputs, outputs=whole.outputs,
        )  # fmt: skip
        what = f"its {len(ops)} operators"
    provider = device.provider if profile.roof("fp32", device.provider) else None
    ceiling = choose_ceiling(
        profile, precision=None, provider=provider, preferred=model_precision(workload)
    )
    figure = draw_roofline(profile, ceiling, dots_of(workload, profile, ceiling, inner=inner))
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg")
    return Plot(svg=drawn.getvalue(), caption=f"{device.name}: {what}")


def _shard_words(shard: ShardName) -> str:
    begin = cut_name(shard.after) if shard.after else "the input"
    end = cut_name(shard.until) if shard.until else "the answers"
    return f"{begin} to {end}, {shard.strategy}"
