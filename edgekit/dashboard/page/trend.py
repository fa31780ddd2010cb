"""Answers a second and latency over the last minute, as one small chart."""

from typing import Any

from nicegui import ui

from edgekit.dashboard.page.dom import card
from edgekit.dashboard.snapshot import StreamSnapshot
from edgekit.dashboard.window import TREND_COUNT, TrendPoint

_QUIET = "#7d8a9a"
_LINE = "#1d2733"
_RATE, _LATENCY = "#38bdf8", "#fbbf24"


class Trend:
    """Two lines, redrawn once a second."""

    def __init__(self) -> None:
        with card("Last minute", "ek-trend"):
            self._chart = (
                ui.echart(_options(), renderer="svg").classes("ek-chart").props("id=ek-trend")
            )
        self._shown: tuple[str, int] | None = None

    def update(self, stream: StreamSnapshot | None) -> None:
        """Show the trend of this stream."""
        if stream is None or not stream.trend:
            return
        newest = (stream.name, stream.trend[-1].second)
        if newest == self._shown:
            return
        self._shown = newest
        rate, latency = self._chart.options["series"]
        points = _padded(stream.trend)
        rate["data"] = [point.answers_count if point is not None else None for point in points]
        latency["data"] = [
            round(point.p50_ms, 1) if point is not None and point.p50_ms is not None else None
            for point in points
        ]
        self._chart.update()


def _padded(trend: tuple[TrendPoint, ...]) -> list[TrendPoint | None]:
    """Always a whole minute, the newest second at the right."""
    return [*([None] * (TREND_COUNT - len(trend))), *trend]


def _options() -> dict[str, Any]:
    return {
        "animation": False,
        "textStyle": {"fontFamily": "system-ui, sans-serif"},
        "grid": {"left": 34, "right": 44, "top": 30, "bottom": 20},
        "legend": {
            "top": 0, "left": 0, "itemGap": 22,
            "itemWidth": 14, "itemHeight": 3, "icon": "roundRect",
            "textStyle": {"color": _QUIET, "fontSize": 11},
        },
        "tooltip": {"trigger": "axis", "confine": True},
        "xAxis": {
            "type": "category", "boundaryGap": False,
            "data": [f"{second - TREND_COUNT} s" for second in range(TREND_COUNT)],
            "axisLabel": {"color": _QUIET, "fontSize": 10, "interval": 19},
            "axisLine": {"lineStyle": {"color": _LINE}},
            "axisTick": {"show": False},
        },
        "yAxis": [_axis(show_grid=True, unit=""), _axis(show_grid=False, unit=" ms")],
        "series": [
            _series("answers/s", _RATE, axis=0, opacity=0.12),
            _series("latency p50 [ms]", _LATENCY, axis=1, opacity=0.0),
        ],
    }  # fmt: skip


def _axis(*, show_grid: bool, unit: str) -> dict[str, Any]:
    return {
        "type": "value",
        "min": 0,
        "splitNumber": 3,
        "axisLabel": {"color": _QUIET, "fontSize": 10, "formatter": f"{{value}}{unit}"},
        "splitLine": {"show": show_grid, "lineStyle": {"color": _LINE}},
    }


def _series(name: str, color: str, *, axis: int, opacity: float) -> dict[str, Any]:
    return {
        "name": name,
        "type": "line",
        "yAxisIndex": axis,
        "showSymbol": False,
        "color": color,
        "lineStyle": {"width": 1.6},
        "areaStyle": {"opacity": opacity},
        "data": [],
    }
