"""Where the time of a frame goes, as one row of bars.

In: the median path of a stream, and the plan.  Out: Timeline.
Pure.  Called by snapshot.
"""

from dataclasses import dataclass
from typing import Literal

from edgekit.dashboard.window import PathTimes
from edgekit.spec.messages import HopTime
from edgekit.spec.plan import Plan
from edgekit.units import format_bytes

_CODING_MIN_MS = 0.1
"""Less is what handing raw tensors over takes."""
PartKind = Literal["stage", "hop", "rest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelinePart:
    """One bar."""

    kind: PartKind
    title: str
    detail: str
    ms: float
    color: int
    """Index of the device, or of the device the hop leaves, in frame order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The bars in the order a frame meets them; they add up to about the median latency."""

    parts: tuple[TimelinePart, ...]

    @property
    def total_ms(self) -> float:
        """Sum of the bars."""
        return sum(part.ms for part in self.parts)

    @property
    def slowest(self) -> TimelinePart | None:
        """The stage or hop that bounds the rate; None if there is none."""
        bars = [part for part in self.parts if part.kind != "rest"]
        return max(bars, key=lambda part: part.ms, default=None)


def timeline(path: PathTimes, plan: Plan | None) -> Timeline:
    """Stage, hop, stage, ..., and at the end what neither accounts for."""
    hops = {hop.source: hop for hop in path.hops}
    parts = []
    for index, stage in enumerate(path.stages):
        color = color_of(stage.device, plan, index)
        count = len(plan.placements) if plan is not None else len(path.stages)
        detail = f"shard {stage.shard + 1} of {count}"
        parts.append(_part("stage", stage.device, detail, stage.ms, color))
        if hop := hops.get(stage.device):
            title = f"{hop.source} → {hop.target}"
            parts.append(_part("hop", title, _crossing(hop), hop.whole_ms, color))
    parts.append(_part("rest", "waiting", "queues, decoding, way back", path.rest_ms, 0))
    return Timeline(parts=tuple(parts))


def _crossing(hop: HopTime) -> str:
    """What crossed, and what its coding took, if that is worth a word."""
    coding_ms = hop.encode_ms + hop.decode_ms
    sent = format_bytes(hop.bytes)
    return f"{sent}, coding {coding_ms:.1f} ms" if coding_ms >= _CODING_MIN_MS else sent


def color_of(device: str, plan: Plan | None, default: int) -> int:
    """The colour index of a device: its place in the plan."""
    stage = plan.stage_of(device) if plan is not None else None
    return default if stage is None else stage


def _part(kind: PartKind, title: str, detail: str, ms: float, color: int) -> TimelinePart:
    return TimelinePart(kind=kind, title=title, detail=detail, ms=max(0.0, ms), color=color)
