"""The path of a frame as HTML: a box for each device, an arrow for each hop, a bar of the time.

In:  a priced pipeline.  Out: HTML.  Pure.
"""

from collections.abc import Mapping
from html import escape

from edgekit.spec.planning import Candidate, HopPlan, StagePlan
from edgekit.units import format_bytes, format_count

TONES = tuple(f"var(--c{index})" for index in range(8))
_HOP_TONES = ("color-mix(in srgb, var(--pale) 55%, transparent)",)


def path_html(member: Candidate, tones: Mapping[str, str]) -> str:
    """Boxes, arrows and the bar of one pipeline."""
    boxes, segments = [], []
    hops = list(member.hops)
    if hops and (not member.stages or hops[0].source != member.stages[0].device):
        boxes.append(_camera(hops[0].source, tones))
    for stage in member.stages:
        while hops and hops[0].target == stage.device and hops[0].source != stage.device:
            segments.append(_hop_segment(hops[0]))
            boxes.append(_hop(hops.pop(0)))
        boxes.append(_stage(stage, tones))
        tone = tones.get(stage.device, "var(--pale)")
        segments.append((stage.device, stage.time.time_s, tone))
    for hop in hops:
        segments.append(_hop_segment(hop))
        boxes.append(_hop(hop))
    if hops:
        boxes.append(_camera(hops[-1].target, tones, what="takes the answers"))
    return f'<div class="path">{"".join(boxes)}</div>{_bar(segments)}'


def _camera(name: str, tones: Mapping[str, str], *, what: str = "films, runs nothing") -> str:
    return (
        f'<div class="stage idle" style="--tone:{tones.get(name, "var(--pale)")}">'
        f"<b>{escape(name)}</b><small>{what}</small></div>"
    )


def _stage(stage: StagePlan, tones: Mapping[str, str]) -> str:
    time = stage.time
    if time.is_measured:
        known = "measured"
    elif time.low_s == time.high_s:
        known = "predicted"
    else:
        known = f"predicted, {1e3 * time.low_s:.1f} to {1e3 * time.high_s:.1f}"
    bound = {"compute": "arithmetic", "memory": "memory bandwidth", "overhead": "overheads"}
    lines = (
        f"{stage.op_count} operators, {format_count(stage.work_flop, 'flop')}",
        f"{stage.strategy} {stage.precision}, {format_bytes(stage.memory_bytes)} of memory",
        f"bound by {bound[stage.roof]}",
    )
    return (
        f'<div class="stage" style="--tone:{tones.get(stage.device, "var(--pale)")}">'
        f'<b>{escape(stage.device)}</b><div class="ms">{1e3 * time.time_s:.2f} ms</div>'
        f"<small>{escape(known)}</small>"
        + "".join(f"<small>{escape(line)}</small>" for line in lines)
        + "</div>"
    )


def _hop(hop: HopPlan) -> str:
    return (
        f'<div class="hop"><span class="ms">{1e3 * hop.latency_s:.2f} ms</span>'
        f'<span class="arrow"></span><small>{escape(hop.carries)} as {escape(hop.codec)}</small>'
        f"<small>{format_bytes(hop.nbytes)}</small></div>"
    )


def _hop_segment(hop: HopPlan) -> tuple[str, float, str]:
    return f"{hop.source} to {hop.target}", hop.latency_s, _HOP_TONES[0]


def _bar(segments: list[tuple[str, float, str]]) -> str:
    """Where the time goes, to scale."""
    total_s = sum(time_s for _, time_s, _ in segments)
    if total_s <= 0 or len(segments) < 2:
        return ""
    bars = "".join(
        f'<i style="width:{100 * time_s / total_s:.2f}%;background:{tone}" '
        f'title="{escape(name)}: {1e3 * time_s:.2f} ms"></i>'
        for name, time_s, tone in segments
    )
    key = "".join(
        f'<span><i style="background:{tone}"></i>{escape(name)} {time_s / total_s:.0%}</span>'
        for name, time_s, tone in segments
    )
    return f'<div class="bar">{bars}</div><div class="key">{key}</div>'
