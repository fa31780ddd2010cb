"""A plan as one HTML page: self-contained, readable offline, in light and in dark.

In:  a PlanReport and what is shown with it (words, strips, plots).  Out: HTML.  Pure but for its
own template. Every text is escaped: names of models, tensors and devices come from files.
"""

import base64
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from edgekit import __version__
from edgekit.dashboard.plan_chart import Point, chart_svg
from edgekit.dashboard.plan_path import TONES, path_html
from edgekit.dashboard.plan_strip import StripShard, strip_svg
from edgekit.dashboard.plan_tables import (
    alternatives_table,
    compared_table,
    front_table,
    policies_table,
    tell,
)
from edgekit.spec.planning import Candidate, PlanReport
from edgekit.units import format_bytes, format_count

_TEMPLATE = Path(__file__).with_name("plan_report.html")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A drawing with its caption."""

    svg: bytes
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedShard:
    """One shard on one device: predicted, and timed [s]."""

    device: str
    words: str
    predicted_s: float
    low_s: float
    high_s: float
    measured_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPage:
    """What the page shows besides the report."""

    describe: Callable[[Candidate], str]
    why_not: Callable[[Candidate], str]
    asked: str
    """The goal in words."""
    sentences: Sequence[str]
    """The explanation."""
    strips: Sequence[Sequence[StripShard]]
    """Of the chosen plan; of a farm one for each member."""
    plots: Sequence[Plot] = ()
    timed: Sequence[TimedShard] = ()


def to_html(report: PlanReport, page: PlanPage) -> str:
    """The whole page."""
    tones = tones_of(report, page)
    body = [_head(report, page)]
    if report.chosen is not None:
        body += [_path(report.chosen, tones), _strips(page, tones), _weighed(report, page)]
    body += [_why(report, page), _plots(page), _timed(page), _notes(report)]
    title = f"Plan: {report.model} on {report.fleet}"
    footer = (
        f"EdgeKit {__version__}; model {report.model}, sha256 {report.model_sha256[:16]}…; "
        f"{format_count(report.candidate_count)} plans over {report.cut_count} cuts weighed in "
        f"{report.seconds:.2f} s"
    )
    template = string.Template(_TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title), body="\n".join(filter(None, body)), footer=escape(footer)
    )


def tones_of(report: PlanReport, page: PlanPage) -> Mapping[str, str]:
    """A CSS colour for every device that is named anywhere, the chosen plan's first."""
    named = [shard.device for strip in page.strips for shard in strip]
    for one in (*filter(None, (report.chosen,)), *report.alternatives):
        named += [name for hop in one.hops for name in (hop.source, hop.target)]
        named += one.devices
    order = dict.fromkeys(named)
    return {name: TONES[index % len(TONES)] for index, name in enumerate(order)}


def _head(report: PlanReport, page: PlanPage) -> str:
    chosen = report.chosen
    asked = (
        f'<p class="lead">{escape(report.model)} on the fleet {escape(report.fleet)}; asked for: '
        f"{escape(page.asked)}</p>"
    )
    if chosen is None:
        return f"<h1>No plan keeps all the limits</h1>{asked}"
    latency = chosen.latency
    span = (
        ""
        if latency.low_s == latency.high_s
        else f", {1e3 * latency.low_s:.1f} to {1e3 * latency.high_s:.1f} nine times in ten"
    )
    figures = [
        (f"{1e3 * latency.time_s:.1f} ms", f"from capture to answer{span}"),
        (f"{chosen.throughput_fps:.1f} fps", "answers per second at most"),
        (format_bytes(chosen.link_bytes), "over links per frame"),
    ]
    if chosen.energy_j is not None:
        figures.append((f"{chosen.energy_j:.3g} J", "per frame"))
    if chosen.accuracy_drop_pp:
        figures.append((f"{chosen.accuracy_drop_pp:.2f} pp", "of accuracy lost"))
    shown = "".join(f"<div><b>{escape(b)}</b><span>{escape(s)}</span></div>" for b, s in figures)
    return f'<h1>{escape(page.describe(chosen))}</h1>{asked}<div class="figures">{shown}</div>'


def _path(chosen: Candidate, tones: Mapping[str, str]) -> str:
    members = chosen.members or (chosen,)
    parts = []
    for index, member in enumerate(members):
        if chosen.members:
            share = chosen.shares[index] if chosen.shares else 0.0
            parts.append(f"<h3>{share:.0%} of the frames</h3>")
        parts.append(path_html(member, tones))
    return _section("The path of a frame", "", "".join(parts))


def _strips(page: PlanPage, tones: Mapping[str, str]) -> str:
    if not page.strips:
        return ""
    lead = (
        "Every bar is one operator in the order of execution; its height is the cube root of its "
        "work. Point at one for its name."
    )
    drawn = "".join(_wide(strip_svg(strip, tones)) for strip in page.strips)
    is_cut = any(shard.cut for strip in page.strips for shard in strip)
    return _section("The model, and where it is cut" if is_cut else "The model", lead, drawn)


def _weighed(report: PlanReport, page: PlanPage) -> str:
    lead = "The best of each way to run the model. Up and left is better in the chart."
    numbered = {one: number for number, one in enumerate(report.alternatives, 1)}
    plans = dict.fromkeys((*report.alternatives, *report.pareto))
    points = [
        Point(
            latency_ms=1e3 * one.latency.time_s,
            fps=one.throughput_fps,
            words=page.describe(one),
            number=numbered.get(one, 0),
            is_chosen=one == report.chosen,
            on_front=one in report.pareto,
        )
        for one in plans
    ]
    content = alternatives_table(report, page.describe, page.why_not)
    content += _wide(chart_svg(points))
    if len(report.pareto) > 1:
        content += "<h3>Plans that no other beats in everything</h3>"
        content += front_table(report, page.describe)
    if report.neighbours:
        content += "<h3>The same plan, cut a little earlier or later</h3>"
        content += tell(
            (page.describe(one), page.why_not(one))
            for one in report.neighbours
            if one != report.chosen
        )
    if report.policies:
        content += "<h3>Other planners on the same prices</h3>"
        content += policies_table(report, page.describe)
    return _section("What else was weighed", lead, content)


def _why(report: PlanReport, page: PlanPage) -> str:
    flips = "".join(f"<li>{escape(flip)}</li>" for flip in report.flips)
    content = "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in page.sentences) + "</ul>"
    if flips:
        content += f"<h3>What would change the decision</h3><ul>{flips}</ul>"
    if report.refusals:
        content += "<h3>Refused</h3>"
        content += tell((one.candidate, one.reason) for one in report.refusals)
    return _section("Why", "", content)


def _plots(page: PlanPage) -> str:
    if not page.plots:
        return ""
    lead = (
        "What each device could attain at most. A kernel under the slope is bound by memory, one "
        "under the flat roof by arithmetic; larger dots do more of the work."
    )
    figures = "".join(
        '<figure><figcaption>{0}</figcaption><img alt="{0}" src="data:image/svg+xml;base64,{1}">'
        "</figure>".format(escape(plot.caption), base64.b64encode(plot.svg).decode())
        for plot in page.plots
    )
    return _section("Rooflines", lead, f'<div class="plots">{figures}</div>')


def _timed(page: PlanPage) -> str:
    if not page.timed:
        return ""
    lead = "Shards that were really cut, loaded and run before the plan was final."
    return _section("Predicted and measured", lead, compared_table(page.timed))


def _notes(report: PlanReport) -> str:
    if not report.notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return _section("What was assumed", "", f"<ul>{items}</ul>")


def _wide(drawing: str) -> str:
    """A drawing that scrolls where the screen is narrow."""
    return f'<div class="scroll">{drawing}</div>'


def _section(title: str, lead: str, content: str) -> str:
    words = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f"<section><h2>{escape(title)}</h2>{words}{content}</section>"
