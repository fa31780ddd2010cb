"""A plan as text for people: the path of a frame, the alternatives, the trade-off."""

from edgekit.cli.render import say, show_facts, show_table
from edgekit.planner.explain import say_binding
from edgekit.planner.wording import (
    OBJECTIVE_NAMES,
    cut_name,
    describe,
    other_refusals,
    slowest_part,
    why_not,
)
from edgekit.spec.planning import Candidate, HopPlan, Interval, PlanReport, StagePlan
from edgekit.units import format_bytes, format_count
from edgekit.workflow_plan import PlanAnswer

_MOST_PARETO = 12
_MOST_REFUSALS = 6


def show_answer(answer: PlanAnswer) -> None:
    """The chosen plan, what else was weighed, and what was assumed."""
    report = answer.report
    _show_head(report)
    if report.chosen is None:
        for one in report.binding:
            say(f"limit: {say_binding(one)}")
    else:
        _show_path(report.chosen)
        _show_alternatives(report, report.chosen)
        _show_pareto(report, report.chosen)
    if answer.compared:
        _show_compared(answer)
    for refusal in other_refusals(report)[:_MOST_REFUSALS]:
        say(f"refused: {refusal.candidate}: {refusal.reason}")
    for note in report.notes:
        say(f"note: {note}")


def show_policies(report: PlanReport) -> None:
    """What other planners would have done, on the same prices."""
    rows = [
        (one.policy, describe(one.candidate), *_figures(one.candidate))
        if one.candidate
        else (one.policy, one.note, "", "", "")
        for one in report.policies
    ]
    if report.chosen:
        rows.insert(0, ("edgekit", describe(report.chosen), *_figures(report.chosen)))
    say("")
    columns = ("planner", "plan", "latency ms", "fps", "bytes")
    show_table("other planners on the same prices", columns, rows, left=2)


def _show_head(report: PlanReport) -> None:
    chosen = report.chosen
    facts = {"model": report.model, "fleet": report.fleet}
    facts["asked for"] = asked(report)
    if chosen:
        facts["plan"] = describe(chosen)
        facts["latency"] = f"{_span(chosen.latency)} ms"
        facts["throughput"] = f"{chosen.throughput_fps:.1f} fps" + (
            f" (slowest: {slowest_part(chosen)})" if slowest_part(chosen) else ""
        )
        facts["over links"] = f"{format_bytes(chosen.link_bytes)} per frame"
        if chosen.accuracy_drop_pp or report.goal.max_accuracy_drop_pp:
            facts["accuracy"] = f"{chosen.accuracy_drop_pp:.2f} pp less than the model as it came"
        if chosen.energy_j is not None:
            facts["energy"] = f"{chosen.energy_j:.3g} J per frame"
    else:
        facts["plan"] = "none keeps all the limits"
    facts["weighed"] = (
        f"{format_count(report.candidate_count)} plans over {report.cut_count} cuts in "
        f"{report.seconds:.2f} s"
    )
    show_facts(facts)


def asked(report: PlanReport) -> str:
    """The goal in words."""
    goal = report.goal
    parts = [OBJECTIVE_NAMES[goal.objective]]
    if goal.max_latency_s is not None:
        parts.append(f"at most {1e3 * goal.max_latency_s:g} ms")
    if goal.min_fps is not None:
        parts.append(f"at least {goal.min_fps:g} fps")
    if goal.arrival_fps is not None:
        parts.append(f"frames at random, {goal.arrival_fps:g} per second")
    if goal.max_accuracy_drop_pp:
        parts.append(f"at most {goal.max_accuracy_drop_pp:g} pp less accurate")
    return ", ".join(parts)


def _show_path(chosen: Candidate) -> None:
    """One line per device and hop, in the order in which a frame meets them."""
    for index, member in enumerate(chosen.members or (chosen,)):
        share = f" ({chosen.shares[index]:.0%} of the frames)" if chosen.shares else ""
        rows: list[tuple[str, ...]] = []
        hops = list(member.hops)
        for stage in member.stages:
            while hops and hops[0].target == stage.device and hops[0].source != stage.device:
                rows.append(_hop_row(hops.pop(0)))
            rows.append(_stage_row(stage))
        rows += [_hop_row(hop) for hop in hops]
        say("")
        columns = ("", "what", "work", "bytes", "ms", "from", "to", "")
        show_table(f"the path of a frame{share}", columns, rows, left=2)


def _stage_row(stage: StagePlan) -> tuple[str, ...]:
    what = f"{stage.op_count} operators, {stage.strategy} {stage.precision}"
    if stage.until:
        what += f", until {cut_name(stage.until)}"
    return (
        stage.device,
        what,
        format_count(stage.work_flop, "flop"),
        f"{format_bytes(stage.memory_bytes)} held",
        *_columns(stage.time),
        "measured" if stage.time.is_measured else f"predicted, {stage.roof}",
    )


def _hop_row(hop: HopPlan) -> tuple[str, ...]:
    return (
        f"  {hop.source} > {hop.target}",
        f"{hop.carries} as {hop.codec}",
        "",
        format_bytes(hop.nbytes),
        f"{1e3 * hop.latency_s:.2f}",
        "",
        "",
        "",
    )


def _columns(time: Interval) -> tuple[str, str, str]:
    if time.low_s == time.high_s:
        return f"{1e3 * time.time_s:.2f}", "", ""
    return f"{1e3 * time.time_s:.2f}", f"{1e3 * time.low_s:.2f}", f"{1e3 * time.high_s:.2f}"


def _span(time: Interval) -> str:
    text = f"{1e3 * time.time_s:.1f}"
    return (
        text
        if time.low_s == time.high_s
        else (f"{text} ({1e3 * time.low_s:.1f} to {1e3 * time.high_s:.1f} nine times in ten)")
    )


def _show_alternatives(report: PlanReport, chosen: Candidate) -> None:
    rows = [
        (
            f"{number} {describe(one)}",
            "chosen" if one == chosen else why_not(one, report),
            *_figures(one),
        )
        for number, one in enumerate(report.alternatives, 1)
    ]
    say("")
    columns = ("alternative", "why not", "latency ms", "fps", "bytes")
    show_table("what else was weighed", columns, rows, left=2)


def _show_pareto(report: PlanReport, chosen: Candidate) -> None:
    if len(report.pareto) < 2:
        return
    rows = [
        (describe(one) + (" *" if one == chosen else ""), *_figures(one))
        for one in report.pareto[:_MOST_PARETO]
    ]
    say("")
    columns = ("plan", "latency ms", "fps", "bytes")
    show_table("no plan is better than these in everything (* chosen)", columns, rows)
    if len(report.pareto) > _MOST_PARETO:
        say(f"{len(report.pareto) - _MOST_PARETO} more in --json and --report")


def _figures(one: Candidate) -> tuple[str, str, str]:
    return (
        f"{1e3 * one.latency.time_s:.2f}",
        f"{one.throughput_fps:.1f}",
        format_bytes(one.link_bytes),
    )


def _show_compared(answer: PlanAnswer) -> None:
    """How far predictions of timed shards were off, in one line per device."""
    for name in dict.fromkeys(one.device for one in answer.compared):
        errors = sorted(
            abs(one.predicted_s / one.measured_s - 1)
            for one in answer.compared
            if one.device == name
        )
        mean = sum(errors) / len(errors)
        say(
            f"{name}: {len(errors)} shards timed; predictions were off by {mean:.0%} on average, "
            f"{errors[-1]:.0%} at most"
        )
