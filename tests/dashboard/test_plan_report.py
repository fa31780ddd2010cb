"""The plan page: whole in one file, safe from names in model files, and drawn without overlap."""

import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser

import pytest

from edgekit.dashboard.plan_chart import Point, chart_svg
from edgekit.dashboard.plan_report import PlanPage, Plot, TimedShard, to_html
from edgekit.dashboard.plan_strip import StripShard, strip_svg
from edgekit.planner.wording import describe, why_it_lost
from edgekit.spec.planning import Goal, PlanReport, PolicyResult, Refusal
from edgekit.spec.workload import OpCost
from tests.plan_values import farm, frames, pipeline, plan_report

_VOID = {"meta", "br", "img"}


class Checker(HTMLParser):
    """Every tag closed, and every address inside the file."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def ops(count: int, *, name: str = "op") -> tuple[OpCost, ...]:
    return tuple(
        OpCost(
            name=f"{name}{index}", op_type="Conv", inputs=("a",), outputs=("b",),
            work_flop=1000 * index, traffic_bytes=10, weight_bytes=0, parameter_count=0,
        )
        for index in range(count)
    )  # fmt: skip


def page(report: PlanReport, **changes: object) -> PlanPage:
    chosen = report.chosen
    fields: dict[str, object] = {
        "describe": describe,
        "why_not": lambda one: why_it_lost(one, chosen, Goal()) if chosen else "",
        "asked": "the shortest latency",
        "sentences": ["Because it is."],
        "strips": [
            [
                StripShard(device="camera", ops=ops(5), cut="conv5", cut_bytes=50_000),
                StripShard(device="gateway", ops=ops(9)),
            ]
        ],
        "plots": [Plot(svg=b"<svg/>", caption="camera: its 5 operators")],
        "timed": [
            TimedShard(device="gateway", words="conv5 to the answers", predicted_s=0.010,
                       low_s=0.009, high_s=0.011, measured_s=0.0105),
        ],
    }  # fmt: skip
    return PlanPage(**(fields | changes))  # type: ignore[arg-type]


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker


def test_the_page_is_whole_and_needs_nothing_from_outside() -> None:
    """It is mailed around, and opened where there is no network."""
    report = plan_report(
        policies=(PolicyResult(policy="roofsplit", candidate=None, note="no such cut"),),
        refusals=(Refusal(candidate="camera alone", reason="too large"),),
        flips=("above 140 Mbit/s from camera to gateway: frames",),
        notes=("the link is assumed",),
    )
    html = to_html(report, page(report))
    found = checked(html)
    assert all(address.startswith("data:") for address in found.addresses)
    assert not re.search(r"https?://|@import|url\(", html)
    for part in ("camera until conv5", "20.5 ms", "conv5 to the answers", "-5%", "no such cut",
                 "too large", "above 140 Mbit/s", "the link is assumed"):  # fmt: skip
        assert part in found.text, part


def test_names_from_files_cannot_write_html() -> None:
    """Tensor names are whatever an exporter, or somebody else, wrote."""
    evil = '<script>alert("x")</script>'
    chosen = pipeline(cut=evil)
    report = plan_report(
        model=evil, fleet=evil, chosen=chosen, alternatives=(chosen,), notes=(evil,), flips=(evil,)
    )
    strips = [
        [StripShard(device=evil, ops=ops(3, name=evil), cut=evil), StripShard(device="b", ops=())]
    ]
    html = to_html(report, page(report, strips=strips, sentences=[evil]))
    assert "<script" not in html
    checked(html)


@pytest.mark.parametrize("chosen", [farm(), frames(), None])
def test_every_kind_of_answer_has_a_page(chosen: object) -> None:
    """Farms have several paths, frames begin at a camera that runs nothing, no plan has none."""
    report = plan_report(chosen=chosen)
    text = checked(to_html(report, page(report))).text
    if chosen is None:
        assert "No plan keeps all the limits" in text
    elif report.chosen and report.chosen.members:
        assert "25% of the frames" in text and "75% of the frames" in text
    else:
        assert "films, runs nothing" in text


def test_one_bar_per_operator_and_one_line_per_cut() -> None:
    shards = [
        StripShard(device="a", ops=ops(5), cut="x", cut_bytes=10),
        StripShard(device="b", ops=ops(7), cut="y", cut_bytes=10),
        StripShard(device="c", ops=ops(2)),
    ]
    svg = strip_svg(shards, {"a": "red", "b": "green", "c": "blue"})
    assert svg.count("<title>") == 14
    assert svg.count("<line") == 2
    assert svg.count("fill:green") == 8  # its bars, and the line under them


def test_labels_of_a_strip_stay_inside() -> None:
    """A cut after the first operator of many, with a long name."""
    shards = [
        StripShard(device="a", ops=ops(1), cut="x" * 90, cut_bytes=10),
        StripShard(device="b", ops=ops(300)),
    ]
    svg = strip_svg(shards, {})
    x_px = [float(x) for x in re.findall(r'<text x="([\d.]+)"', svg)]
    assert all(0 <= x <= 1040 for x in x_px)
    assert "…" in svg


def test_balls_of_a_chart_do_not_cover_each_other() -> None:
    """Also where plans are all but equal."""
    points = [
        Point(latency_ms=10 + 0.01 * index, fps=50, words=f"plan {index}", number=index + 1)
        for index in range(9)
    ]
    svg = chart_svg([*points, Point(latency_ms=30, fps=200, words="far", on_front=True)])
    centres = [
        (float(x), float(y))
        for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="10.5"', svg)
    ]
    assert len(centres) == 9
    assert min(
        math.dist(one, other) for one in centres for other in centres if one is not other
    ) >= 21  # fmt: skip


def test_a_chart_of_nothing_finite_is_left_out() -> None:
    """Waiting may be infinite."""
    assert chart_svg([Point(latency_ms=math.inf, fps=3, words="overrun")]) == ""
    assert "<svg" in chart_svg([Point(latency_ms=5, fps=3, words="alone", number=1)])
