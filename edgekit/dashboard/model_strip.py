"""The model drawn as a strip: who runs which share of its work, and what crosses at each cut.

In: the plan.  Out: ModelStrip.
Pure.  Called by snapshot.
"""

from dataclasses import dataclass

from edgekit.dashboard.fleet_rows import DeviceRow
from edgekit.spec.plan import Cut, Plan
from edgekit.units import format_bytes, format_count


@dataclass(frozen=True, slots=True, kw_only=True)
class StripShard:
    """One segment of the strip."""

    device: str
    color: int
    share: float
    """Of the model's work, 0..1; the shares add up to 1."""
    work: str
    weights: str
    is_serving: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StripCut:
    """The border between two segments."""

    at_share: float
    """Of the model's work that lies before it, 0..1."""
    tensors: tuple[str, ...]
    """What crosses, as "name float32[1x64x52x52]"."""
    crossing: str
    """Bytes that cross per frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStrip:
    """``len(cuts) == len(shards) - 1``."""

    model: str
    deployment: str
    rule: str
    work: str
    shards: tuple[StripShard, ...]
    cuts: tuple[StripCut, ...]


def model_strip(plan: Plan, deployment: str, devices: tuple[DeviceRow, ...]) -> ModelStrip:
    """Draw ``plan``; a segment is lit while its device serves."""
    works = [max(0, placement.work_flop) for placement in plan.placements]
    total = sum(works)
    shares = [work / total if total else 1 / len(works) for work in works]
    serving = {row.name for row in devices if row.state == "serving"}
    shards = tuple(
        StripShard(
            device=placement.device,
            color=index,
            share=shares[index],
            work=format_count(works[index], "flop"),
            weights=format_bytes(placement.weight_bytes),
            is_serving=placement.device in serving,
        )
        for index, placement in enumerate(plan.placements)
    )
    cuts = tuple(
        _cut(cut, at_share=min(1.0, sum(shares[: index + 1])))
        for index, cut in enumerate(plan.cuts)
    )
    return ModelStrip(
        model=plan.model,
        deployment=deployment,
        rule=plan.rule,
        work=format_count(total, "flop"),
        shards=shards,
        cuts=cuts,
    )


def _cut(cut: Cut, at_share: float) -> StripCut:
    return StripCut(
        at_share=at_share,
        tensors=tuple(map(str, cut.tensors)),
        crossing=format_bytes(cut.nbytes),
    )
