"""Plans in words: what a candidate is, and why another beat it.

In:  Candidates and a Goal.  Out: short texts for tables and sentences.  Pure.
"""

from collections.abc import Mapping, Sequence

from edgekit.planner.families import label
from edgekit.spec.planning import (
    RAW_FP32,
    Candidate,
    Goal,
    HopPlan,
    Objective,
    PlanReport,
    Refusal,
)
from edgekit.units import format_bytes, format_duration

_MOST_NAMES = 1
"""Tensors of a cut that are named; the rest is counted."""
_LIMIT = " is the limit"
"""How ``families.limit_text`` ends."""
_SAME = 0.005
"""Differences below this share are called equal."""
OBJECTIVE_NAMES: Mapping[Objective, str] = {
    "latency": "the shortest latency",
    "throughput": "the most answers per second",
    "energy": "the least energy",
    "balanced": "latency and throughput alike",
}


def describe(candidate: Candidate) -> str:
    """Such as "camera in int8 until conv5 -> gateway, activations as qdq", "camera alone"."""
    if candidate.members:
        shares = candidate.shares or (0.0,) * len(candidate.members)
        parts = [
            f"{share:.0%} {_member(member)}"
            for member, share in zip(candidate.members, shares, strict=True)
        ]
        return "farm: " + " | ".join(parts)
    if len(candidate.stages) == 1:
        name = candidate.stages[0].runner
        return f"{name} alone" if not _frame_hop(candidate) else f"{name}, {_framed(candidate)}"
    parts = [_chain(candidate), _framed(candidate), _coded(candidate)]
    return ", ".join(part for part in parts if part)


def _chain(candidate: Candidate) -> str:
    """Such as "camera in int8 until conv5 -> gateway"."""
    return " -> ".join(
        f"{stage.runner} until {cut_name(stage.until)}" if stage.until else stage.runner
        for stage in candidate.stages
    )


def _coded(candidate: Candidate) -> str:
    """How activations cross, unless they all do as they are."""
    codecs = [hop.codec for hop in candidate.hops if hop.carries == "activations"]
    if all(codec == RAW_FP32.name for codec in codecs):
        return ""
    return f"activations as {', then '.join(codecs)}"


def _member(candidate: Candidate) -> str:
    """A member of a farm, briefly: "gateway (jpeg-90)", "camera until conv5 -> gateway"."""
    codecs = [hop.codec for hop in candidate.hops if hop.carries != "answers"]
    told = [codec for codec in codecs if codec != RAW_FP32.name]
    return _chain(candidate) + (f" ({', '.join(told)})" if told else "")


def cut_name(names: Sequence[str]) -> str:
    """The tensors of a cut, briefly: "conv5", "conv5 and 2 more"."""
    rest = len(names) - _MOST_NAMES
    return ",".join(names) if rest <= 0 else f"{','.join(names[:_MOST_NAMES])} and {rest} more"


def headline(candidate: Candidate) -> str:
    """Its figures in one line: latency with interval, answers per second, bytes."""
    latency = candidate.latency
    span = f" ({format_duration(latency.low_s)} to {format_duration(latency.high_s)})"
    parts = [
        format_duration(latency.time_s) + ("" if latency.low_s == latency.high_s else span),
        f"{candidate.throughput_fps:.1f} fps",
        f"{format_bytes(candidate.link_bytes)} over links",
    ]
    if candidate.energy_j is not None:
        parts.append(f"{candidate.energy_j:.3g} J")
    if candidate.accuracy_drop_pp:
        parts.append(f"{candidate.accuracy_drop_pp:.2f} pp less accurate")
    return ", ".join(parts)


def parts_s(candidate: Candidate) -> dict[str, float]:
    """Where a frame's time goes: seconds by "camera", "camera to gateway"; farms have none."""
    found: dict[str, float] = {}
    for stage in candidate.stages:
        found[stage.device] = found.get(stage.device, 0.0) + stage.time.time_s
    for hop in candidate.hops:
        name = f"{hop.source} to {hop.target}"
        found[name] = found.get(name, 0.0) + hop.latency_s
    return found


def slowest_part(candidate: Candidate) -> str:
    """The stage or hop that sets the interval, with its time; of farms, nothing."""
    occupied = {stage.device: stage.time.time_s for stage in candidate.stages}
    for hop in candidate.hops:
        name = f"{hop.source} to {hop.target}"
        occupied[name] = occupied.get(name, 0.0) + hop.transfer_s
        occupied[hop.source] = occupied.get(hop.source, 0.0) + hop.encode_s
        occupied[hop.target] = occupied.get(hop.target, 0.0) + hop.decode_s
    if not occupied:
        return ""
    name = max(occupied, key=lambda key: (occupied[key], key))
    return f"{name}, {format_duration(occupied[name])}"


def why_not(candidate: Candidate, report: PlanReport) -> str:
    """Why ``candidate`` of ``report`` was not chosen: a limit that it breaks, or who is better."""
    if report.chosen is None or candidate == report.chosen:
        return ""
    for one in report.refusals:
        if one.candidate == label(candidate) and _LIMIT in one.reason:
            return one.reason
    return why_it_lost(candidate, report.chosen, report.goal)


def other_refusals(report: PlanReport) -> tuple[Refusal, ...]:
    """Refusals of what is not among the alternatives, which have their own reasons."""
    shown = {label(one) for one in report.alternatives}
    return tuple(one for one in report.refusals if one.candidate not in shown)


def why_it_lost(loser: Candidate, chosen: Candidate, goal: Goal) -> str:
    """The one reason that tells most, in a few words; empty for the chosen one itself."""
    if loser == chosen:
        return ""
    if reason := _broken_limit(loser, goal):
        return reason
    if goal.objective == "throughput":
        return _less_throughput(loser, chosen)
    if goal.objective == "energy" and loser.energy_j is not None and chosen.energy_j is not None:
        return _more("energy", loser.energy_j, chosen.energy_j, f"{loser.energy_j:.3g} J")
    slower = _more_latency(loser, chosen)
    if goal.objective == "balanced":
        fewer = _less_throughput(loser, chosen)
        return "; ".join(text for text in (slower, fewer) if "as good" not in text) or slower
    return slower


def _broken_limit(candidate: Candidate, goal: Goal) -> str:
    if goal.max_latency_s is not None and candidate.latency.time_s > goal.max_latency_s:
        return f"latency above the limit of {format_duration(goal.max_latency_s)}"
    if goal.min_fps is not None and candidate.throughput_fps < goal.min_fps:
        return f"fewer than {goal.min_fps:g} fps"
    if candidate.accuracy_drop_pp > goal.max_accuracy_drop_pp:
        return f"loses more than {goal.max_accuracy_drop_pp:g} pp of accuracy"
    return ""


def _more_latency(loser: Candidate, chosen: Candidate) -> str:
    text = _more(
        "latency",
        loser.latency.time_s,
        chosen.latency.time_s,
        f"+{format_duration(max(0.0, loser.latency.time_s - chosen.latency.time_s))}",
    )
    ours, theirs = parts_s(chosen), parts_s(loser)
    grown = {name: time_s - ours.get(name, 0.0) for name, time_s in theirs.items()}
    name = max(grown, key=lambda key: (grown[key], key), default="")
    if not name or grown[name] <= 0 or "as good" in text or len(grown) < 2:
        return text
    return f"{text}; {name} takes {format_duration(grown[name])} more"


def _less_throughput(loser: Candidate, chosen: Candidate) -> str:
    if loser.interval_s <= chosen.interval_s * (1 + _SAME):
        return "as good within 0.5 %: fewer bytes or the earlier cut decided"
    share = 1 - chosen.interval_s / loser.interval_s
    slowest = slowest_part(loser)
    return f"{share:.0%} fewer answers per second" + (f"; slowest: {slowest}" if slowest else "")


def _more(what: str, theirs: float, ours: float, amount: str) -> str:
    if theirs <= ours * (1 + _SAME):
        return "as good within 0.5 %: fewer bytes or the earlier cut decided"
    return f"{theirs / ours - 1:.0%} more {what} ({amount})"


def _frame_hop(candidate: Candidate) -> HopPlan | None:
    return next((hop for hop in candidate.hops if hop.carries == "frame"), None)


def _framed(candidate: Candidate) -> str:
    hop = _frame_hop(candidate)
    return f"frames as {hop.codec} from {hop.source}" if hop else ""
