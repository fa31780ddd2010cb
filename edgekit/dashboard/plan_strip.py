"""Draw a model as a strip: its operators along x, their work as bars, coloured by device.

In:  the operators of each shard in frame order.  Out: one SVG, as text.  Pure.
Heights are the cube root of the work: linear ones would show nothing but the heaviest operators.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from edgekit.spec.workload import OpCost
from edgekit.units import format_bytes, format_count

WIDTH_PX, _TOP_PX, _BARS_PX, _BOTTOM_PX = 1040, 40, 120, 24
_LABEL_PX = 6.6
"""Of one character, about."""
_MOST_LETTERS = 46


@dataclass(frozen=True, slots=True, kw_only=True)
class StripShard:
    """The operators of one shard, and the cut behind it."""

    device: str
    ops: tuple[OpCost, ...]
    cut: str = ""
    """Name of the cut that it ends at; empty for the last."""
    cut_bytes: int = 0


def strip_svg(shards: Sequence[StripShard], tones: Mapping[str, str]) -> str:
    """The strip of one model; ``tones`` are CSS colours of devices."""
    count = max(1, sum(len(shard.ops) for shard in shards))
    step_px = WIDTH_PX / count
    tallest = max((op.work_flop for shard in shards for op in shard.ops), default=1) or 1
    parts, begin = [], 0
    for shard in shards:
        tone = tones.get(shard.device, "var(--pale)")
        parts += [
            _bar(op, (begin + index) * step_px, step_px, tallest, tone)
            for index, op in enumerate(shard.ops)
        ]
        end = begin + len(shard.ops)
        parts.append(_span(shard, begin * step_px, end * step_px, tone))
        if shard.cut:
            parts.append(_cut(shard, end * step_px))
        begin = end
    above_px = 0 if any(shard.cut for shard in shards) else _TOP_PX
    height_px = _TOP_PX + _BARS_PX + _BOTTOM_PX - above_px
    words = " then ".join(f"{len(shard.ops)} operators on {shard.device}" for shard in shards)
    return (
        f'<svg viewBox="0 {above_px} {WIDTH_PX} {height_px}" role="img" '
        f'aria-label="{escape(words)}">' + "".join(parts) + "</svg>"
    )


def _bar(op: OpCost, x_px: float, step_px: float, tallest: int, tone: str) -> str:
    height_px = max(1.5, _BARS_PX * (op.work_flop / tallest) ** (1 / 3))
    width_px = max(0.6, step_px - min(1.0, 0.15 * step_px))
    title = (
        f"{op.op_type} {op.name}: {format_count(op.work_flop, 'flop')}, "
        f"{format_bytes(op.traffic_bytes)} of traffic"
    )
    return (
        f'<rect x="{x_px:.2f}" y="{_TOP_PX + _BARS_PX - height_px:.1f}" width="{width_px:.2f}" '
        f'height="{height_px:.1f}" style="fill:{tone}"><title>{escape(title)}</title></rect>'
    )


def _span(shard: StripShard, left_px: float, right_px: float, tone: str) -> str:
    """A line under the shard's bars, with its device and its share of the operators."""
    y_px = _TOP_PX + _BARS_PX + 3
    work = format_count(sum(op.work_flop for op in shard.ops), "flop")
    text = f"{shard.device}: {len(shard.ops)} operators, {work}"
    for shorter in (f"{shard.device}, {work}", shard.device, ""):
        if len(text) * _LABEL_PX <= right_px - left_px:
            break
        text = shorter
    return (
        f'<rect x="{left_px:.1f}" y="{y_px}" width="{max(1.0, right_px - left_px - 1):.1f}" '
        f'height="3" style="fill:{tone}"/>'
        f'<text x="{left_px:.1f}" y="{y_px + 18}">{escape(text)}</text>'
    )


def _cut(shard: StripShard, x_px: float) -> str:
    text = f"{shard.cut} ({format_bytes(shard.cut_bytes)})"
    if len(text) > _MOST_LETTERS:
        text = f"{shard.cut[: _MOST_LETTERS - 14]}… ({format_bytes(shard.cut_bytes)})"
    half_px = len(text) * _LABEL_PX / 2
    middle_px = min(max(x_px, half_px), WIDTH_PX - half_px)
    return (
        f'<line x1="{x_px:.1f}" x2="{x_px:.1f}" y1="{_TOP_PX - 14}" y2="{_TOP_PX + _BARS_PX + 3}" '
        'style="stroke:var(--ink);stroke-width:1.5;stroke-dasharray:5 3"/>'
        f'<text x="{middle_px:.1f}" y="{_TOP_PX - 20}" text-anchor="middle">{escape(text)}</text>'
    )
