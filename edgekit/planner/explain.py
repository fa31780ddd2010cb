"""Say why a plan was chosen, in plain sentences.

In:  a PlanReport.  Out: sentences: what each device does and which roof binds it, where the time
goes, why cutting earlier or later is worse, why each alternative lost, which limit stands in the
way, and what would change the decision (``planner.flips``).  Pure.
"""

from edgekit.planner.wording import (
    OBJECTIVE_NAMES,
    cut_name,
    describe,
    headline,
    other_refusals,
    parts_s,
    slowest_part,
    why_it_lost,
    why_not,
)
from edgekit.spec.planning import (
    QDQ_NAME,
    Binding,
    Candidate,
    HopPlan,
    PlanReport,
    Roof,
    StagePlan,
)
from edgekit.units import format_bytes, format_count, format_duration

_ROOFS: dict[Roof, str] = {
    "compute": "its arithmetic binds",
    "memory": "its memory bandwidth binds",
    "overhead": "starting kernels and sessions binds, not the work",
}
_MOST_REFUSALS = 8


def explain(report: PlanReport) -> list[str]:
    """Sentences in the order in which somebody would ask."""
    if report.chosen is None:
        sentences = _no_plan(report)
    else:
        sentences = [
            *_chosen(report, report.chosen),
            *_neighbours(report, report.chosen),
            *_alternatives(report, report.chosen),
        ]
    sentences += [f"It would change {flip}." for flip in report.flips]
    refused = other_refusals(report)
    sentences += [f"Refused: {one.candidate}: {one.reason}." for one in refused[:_MOST_REFUSALS]]
    if len(refused) > _MOST_REFUSALS:
        sentences.append(f"{len(refused) - _MOST_REFUSALS} more were refused.")
    return sentences + [f"Note: {note}." for note in report.notes]


def say_binding(one: Binding) -> str:
    """Such as "camera.memory: asked 64 MB, the best plan needs 81 MB"."""
    return (
        f"{one.limit}: asked {_amount(one.asked, one.unit)}, the best plan without this limit "
        f"comes to {_amount(one.best, one.unit)}"
    )


def _amount(value: float, unit: str) -> str:
    if unit == "s":
        return format_duration(value)
    if unit in ("B", "bytes"):
        return format_bytes(value)
    return f"{format_count(value)} {unit}".rstrip() if value >= 1e4 else f"{value:.4g} {unit}"


def _no_plan(report: PlanReport) -> list[str]:
    sentences = ["No plan keeps all the limits."]
    sentences += [f"{say_binding(one)}." for one in report.binding]
    return sentences


def _chosen(report: PlanReport, chosen: Candidate) -> list[str]:
    goal = OBJECTIVE_NAMES[report.goal.objective]
    sentences = [f"For {goal}: {describe(chosen)}. {headline(chosen)}."]
    members = chosen.members or (chosen,)
    for member in members:
        sentences += [_stage(stage) for stage in member.stages]
        sentences += [_hop(hop) for hop in member.hops if hop.nbytes]
        if len(member.stages) + len(member.hops) > 1:
            sentences.append(
                f"Answers come no faster than the slowest part allows: {slowest_part(member)}."
            )
    if chosen.members:
        sentences.append(
            "Frames are dealt out in these shares so that no member waits for another."
        )
    return sentences


def _stage(stage: StagePlan) -> str:
    time = stage.time
    source = "measured here" if time.is_measured else "predicted"
    span = (
        ""
        if time.low_s == time.high_s
        else f", {format_duration(time.low_s)} to {format_duration(time.high_s)} nine times in ten"
    )
    intensity = stage.work_flop / stage.traffic_bytes if stage.traffic_bytes else 0.0
    return (
        f"{stage.device} runs {stage.op_count} operators under {stage.strategy} in "
        f"{stage.precision}: {format_count(stage.work_flop, 'flop')}, "
        f"{format_bytes(stage.traffic_bytes)} of traffic, {intensity:.1f} flop/byte; "
        f"{_ROOFS[stage.roof]}. {format_duration(time.time_s)} ({source}{span}), "
        f"{format_bytes(stage.memory_bytes)} of memory{_loss(stage.accuracy_drop_pp)}."
    )


def _hop(hop: HopPlan) -> str:
    coding = hop.encode_s + hop.decode_s
    return (
        f"{hop.carries.capitalize()} from {hop.source} to {hop.target}: {format_bytes(hop.nbytes)} "
        f"as {_form(hop)} in {format_duration(hop.transfer_s)}, plus "
        f"{format_duration(hop.delay_s)} on the way"
        + (f" and {format_duration(coding)} of coding" if coding else "")
        + f"{_loss(hop.accuracy_drop_pp)}."
    )


def _form(hop: HopPlan) -> str:
    """The codec, and what it means where that is not plain."""
    if hop.codec.partition("+")[0] == QDQ_NAME:
        return f"the integers of the int8 shard ({hop.codec})"
    return hop.codec


def _loss(drop_pp: float) -> str:
    return f", {drop_pp:.2f} pp of accuracy lost" if drop_pp else ""


def _neighbours(report: PlanReport, chosen: Candidate) -> list[str]:
    sentences = []
    for other in report.neighbours:
        if other == chosen:
            continue
        cuts = ", ".join(cut_name(stage.until) for stage in other.stages if stage.until)
        where = f"Cut at {cuts} instead" if cuts else f"{describe(other)} instead"
        reason = why_it_lost(other, chosen, report.goal)
        sentences.append(f"{where}: {reason}{_trade(other, chosen)}.")
    return sentences


def _trade(other: Candidate, chosen: Candidate) -> str:
    """What the other plan would gain, in brackets, where it gains anything."""
    ours, theirs = parts_s(chosen), parts_s(other)
    gains = {name: time_s - theirs.get(name, 0.0) for name, time_s in ours.items()}
    name = max(gains, key=lambda key: (gains[key], key), default="")
    if not name or gains[name] <= 0:
        return ""
    return f" ({name} would take {format_duration(gains[name])} less)"


def _alternatives(report: PlanReport, chosen: Candidate) -> list[str]:
    return [
        f"{describe(other)}: {why_not(other, report)}."
        for other in report.alternatives
        if other != chosen
    ]
