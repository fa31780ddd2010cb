"""Draw the trade-off: latency along x, answers per second along y, one point per plan.

In:  points.  Out: one SVG, as text.  Pure.
Numbered points are those of a table beside it; the front is a staircase, for between two of its
points nothing was found that is better in both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH_PX, HEIGHT_PX = 1040, 400
_LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 66, 24, 18, 46
_NEAR_PX = 22
"""Balls closer than this are moved apart."""
_TICKS = (1, 2, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One plan in the chart."""

    latency_ms: float
    fps: float
    words: str
    number: int = 0
    """Its row in the table; 0 for a point of the front that is in no table."""
    is_chosen: bool = False
    on_front: bool = False


def chart_svg(points: Sequence[Point]) -> str:
    """The chart; nothing if no point has finite figures."""
    shown = [one for one in points if 0 < one.latency_ms < math.inf and 0 < one.fps < math.inf]
    if not shown:
        return ""
    across = _Axis([one.latency_ms for one in shown], _LEFT_PX, WIDTH_PX - _RIGHT_PX)
    upward = _Axis([one.fps for one in shown], HEIGHT_PX - _BOTTOM_PX, _TOP_PX)
    parts = [*_grid(across, upward), _front(shown, across, upward)]
    parts += [_dot(one, across, upward) for one in shown if not one.number]
    taken: list[tuple[float, float]] = []
    for one in sorted(shown, key=lambda point: not point.is_chosen):
        if one.number:
            parts.append(_ball(one, across, upward, taken))
    return (
        f'<svg viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" role="img" '
        'aria-label="plans by latency and answers per second">' + "".join(parts) + "</svg>"
    )


class _Axis:
    """A logarithmic axis from ``start_px`` to ``end_px`` with round ticks."""

    def __init__(self, values: Sequence[float], start_px: float, end_px: float) -> None:
        low, high = min(values) / 1.15, max(values) * 1.15
        if high / low < 2:
            low, high = low / 1.3, high * 1.3
        self._low, self._span = math.log(low), math.log(high / low)
        self._start_px, self._end_px = start_px, end_px
        self.ticks = self._round(low, high)

    def __call__(self, value: float) -> float:
        share = (math.log(value) - self._low) / self._span
        return self._start_px + share * (self._end_px - self._start_px)

    @staticmethod
    def _round(low: float, high: float) -> list[float]:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps: tuple[float, ...] = _TICKS if high / low > 6 else (1, 1.5, 2, 3, 4, 5, 6, 8)
        found = [step * 10.0**power for power in powers for step in steps]
        return [value for value in found if low <= value <= high]


def _grid(across: _Axis, upward: _Axis) -> list[str]:
    bottom_px, right_px = HEIGHT_PX - _BOTTOM_PX, WIDTH_PX - _RIGHT_PX
    parts = []
    for tick in across.ticks:
        x_px = across(tick)
        parts.append(
            f'<line class="grid" x1="{x_px:.1f}" x2="{x_px:.1f}" y1="{_TOP_PX}" y2="{bottom_px}"/>'
            f'<text class="pale" x="{x_px:.1f}" y="{bottom_px + 17}" text-anchor="middle">'
            f"{tick:g}</text>"
        )
    for tick in upward.ticks:
        y_px = upward(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT_PX}" x2="{right_px}" y1="{y_px:.1f}" y2="{y_px:.1f}"/>'
            f'<text class="pale" x="{_LEFT_PX - 8}" y="{y_px + 4:.1f}" text-anchor="end">'
            f"{tick:g}</text>"
        )
    middle_px = (_LEFT_PX + right_px) / 2
    parts.append(
        f'<text x="{middle_px:.0f}" y="{HEIGHT_PX - 8}" text-anchor="middle">'
        "latency of a frame [ms], less is better</text>"
        f'<text transform="translate(16 {(_TOP_PX + bottom_px) / 2:.0f}) rotate(-90)" '
        'text-anchor="middle">answers per second</text>'
    )
    return parts


def _front(points: Sequence[Point], across: _Axis, upward: _Axis) -> str:
    """A staircase through the points that no other beats in both."""
    best: list[Point] = []
    for one in sorted(points, key=lambda point: (point.latency_ms, -point.fps)):
        if one.on_front and (not best or one.fps > best[-1].fps):
            best.append(one)
    if len(best) < 2:
        return ""
    path = f"M{across(best[0].latency_ms):.1f} {upward(best[0].fps):.1f}"
    for one in best[1:]:
        path += f" H{across(one.latency_ms):.1f} V{upward(one.fps):.1f}"
    return f'<path d="{path}" style="fill:none;stroke:var(--good);stroke-width:1.5;opacity:.7"/>'


def _dot(one: Point, across: _Axis, upward: _Axis) -> str:
    return (
        f'<circle cx="{across(one.latency_ms):.1f}" cy="{upward(one.fps):.1f}" r="4.5" '
        f'style="fill:var(--good);stroke:var(--card)"><title>{escape(_title(one))}</title></circle>'
    )


def _ball(one: Point, across: _Axis, upward: _Axis, taken: list[tuple[float, float]]) -> str:
    """A numbered ball; moved aside, with a line to its place, where another one is."""
    true_x, true_y = across(one.latency_ms), upward(one.fps)
    x_px, y_px = _free_place(true_x, true_y, taken)
    taken.append((x_px, y_px))
    fill = "var(--good)" if one.is_chosen else "var(--card)"
    ink = "var(--card)" if one.is_chosen else "var(--ink)"
    edge = "var(--good)" if one.is_chosen or one.on_front else "var(--pale)"
    lead = (
        f'<line x1="{true_x:.1f}" y1="{true_y:.1f}" x2="{x_px:.1f}" y2="{y_px:.1f}" '
        'style="stroke:var(--pale)"/>'
        f'<circle cx="{true_x:.1f}" cy="{true_y:.1f}" r="3" style="fill:{edge}"/>'
        if (x_px, y_px) != (true_x, true_y)
        else ""
    )
    return (
        f"{lead}<g><title>{escape(_title(one))}</title>"
        f'<circle cx="{x_px:.1f}" cy="{y_px:.1f}" r="10.5" '
        f'style="fill:{fill};stroke:{edge};stroke-width:1.5"/>'
        f'<text x="{x_px:.1f}" y="{y_px + 4:.1f}" text-anchor="middle" '
        f'style="fill:{ink};font-weight:600">{one.number}</text></g>'
    )


def _free_place(
    x_px: float, y_px: float, taken: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """The nearest place that is inside and near no other ball."""
    for ring in range(12):
        for turn in range(max(1, 8 * min(ring, 1))):
            angle = turn * math.pi / 4 - math.pi / 4
            x = x_px + ring * 0.7 * _NEAR_PX * math.cos(angle)
            y = y_px + ring * 0.7 * _NEAR_PX * math.sin(angle)
            inside = _LEFT_PX + 8 <= x <= WIDTH_PX - 14 and 14 <= y <= HEIGHT_PX - _BOTTOM_PX - 8
            if inside and all(math.dist((x, y), other) >= _NEAR_PX for other in taken):
                return x, y
    return x_px, y_px


def _title(one: Point) -> str:
    return f"{one.words}: {one.latency_ms:.2f} ms, {one.fps:.1f} answers per second"
