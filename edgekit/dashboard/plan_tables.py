"""The tables of the plan page.

In:  a PlanReport, and how to word its candidates.  Out: HTML, escaped.  Pure.
"""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Protocol

from edgekit.spec.planning import Candidate, PlanReport
from edgekit.units import format_bytes

_FAMILIES = {
    "whole": "whole",
    "frames": "frames sent",
    "pipeline": "pipeline",
    "farm": "farm",
    "pipeline-farm": "farm of pipelines",
}
_MOST_TIMED = 24
_MOST_ON_FRONT = 16
Words = Callable[[Candidate], str]


class Timed(Protocol):
    """One shard on one device: predicted, and timed [s]."""

    @property
    def device(self) -> str:
        """Which ran it."""

    @property
    def words(self) -> str:
        """What it is."""

    @property
    def predicted_s(self) -> float:
        """Before."""

    @property
    def low_s(self) -> float:
        """Lower end of the interval."""

    @property
    def high_s(self) -> float:
        """Upper end."""

    @property
    def measured_s(self) -> float:
        """After."""


def alternatives_table(report: PlanReport, describe: Words, why_not: Words) -> str:
    """The best of each family, numbered as in the chart."""
    rows = []
    for number, one in enumerate(report.alternatives, 1):
        is_chosen = one == report.chosen
        cells = [
            _cell(f'<span class="ball">{number}</span>'),
            _cell(escape(_FAMILIES[one.family])),
            _cell(escape(describe(one)), "name"),
            *_figures(one),
            _cell("chosen" if is_chosen else escape(why_not(one)), "why"),
        ]
        rows.append((cells, "chosen" if is_chosen else ""))
    heads = ("", "how", "plan", "*latency ms", "*fps", "*bytes", "why not")
    return _table(heads, rows)


def front_table(report: PlanReport, describe: Words) -> str:
    """The Pareto front."""
    rows = [
        (
            [_cell(escape(describe(one)), "name"), *_figures(one)],
            "chosen" if one == report.chosen else "",
        )
        for one in report.pareto[:_MOST_ON_FRONT]
    ]
    rest = len(report.pareto) - _MOST_ON_FRONT
    more = f'<p class="pale">{rest} more are points of the chart.</p>' if rest > 0 else ""
    return _table(("plan", "*latency ms", "*fps", "*bytes"), rows) + more


def policies_table(report: PlanReport, describe: Words) -> str:
    """What baseline planners would do."""
    rows = []
    if report.chosen is not None:
        ours = [
            _cell("EdgeKit"), _cell(escape(describe(report.chosen)), "name"),
            *_figures(report.chosen), _cell(""),
        ]  # fmt: skip
        rows.append((ours, "chosen"))
    for one in report.policies:
        if one.candidate is None:
            cells = [_cell(escape(one.policy)), _cell("no plan"), *[_cell("")] * 3]
        else:
            plan = _cell(escape(describe(one.candidate)), "name")
            cells = [_cell(escape(one.policy)), plan, *_figures(one.candidate)]
        rows.append(([*cells, _cell(escape(one.note))], ""))
    return _table(("planner", "plan", "*latency ms", "*fps", "*bytes", ""), rows)


def compared_table(timed: Sequence[Timed]) -> str:
    """Predictions beside measurements, the longest shards first."""
    ordered = sorted(timed, key=lambda one: (-one.measured_s, one.words))
    rows = [
        (
            [
                _cell(escape(one.device)),
                _cell(escape(one.words), "name"),
                _number(f"{1e3 * one.predicted_s:.2f}"),
                _number(f"{1e3 * one.low_s:.2f} to {1e3 * one.high_s:.2f}"),
                _number(f"{1e3 * one.measured_s:.2f}"),
                _number(f"{one.predicted_s / one.measured_s - 1:+.0%}"),
            ],
            "",
        )
        for one in ordered[:_MOST_TIMED]
    ]
    heads = ("device", "shard", "*predicted ms", "*nine in ten", "*measured ms", "*off by")
    rest = len(ordered) - _MOST_TIMED
    more = f'<p class="pale">{rest} shorter ones are not shown.</p>' if rest > 0 else ""
    return _table(heads, rows) + more


def tell(pairs: Iterable[tuple[str, str]]) -> str:
    """What, and what is to be said of it."""
    rows = [([_cell(escape(what), "name"), _cell(escape(said), "why")], "") for what, said in pairs]
    return _table((), rows)


def _figures(one: Candidate) -> list[str]:
    latency = one.latency
    span = (
        ""
        if latency.low_s == latency.high_s
        else f"{1e3 * latency.low_s:.2f} to {1e3 * latency.high_s:.2f} nine times in ten"
    )
    return [
        f'<td class="number" title="{span}">{1e3 * latency.time_s:.2f}</td>',
        _number(f"{one.throughput_fps:.1f}"),
        _number(format_bytes(one.link_bytes)),
    ]


def _cell(content: str, kind: str = "") -> str:
    return f'<td class="{kind}">{content}</td>' if kind else f"<td>{content}</td>"


def _number(text: str) -> str:
    return _cell(escape(text), "number")


def _table(heads: Sequence[str], rows: Sequence[tuple[Sequence[str], str]]) -> str:
    """Rows of cells with a class each; a head that begins with * is of numbers."""
    head = "".join(
        f'<th class="number">{escape(name[1:])}</th>'
        if name[:1] == "*"
        else f"<th>{escape(name)}</th>"
        for name in heads
    )
    body = "".join(
        f'<tr class="{kind}">{"".join(cells)}</tr>' if kind else f"<tr>{''.join(cells)}</tr>"
        for cells, kind in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>{body}</table></div>'
