"""Hold a plan to the limits of its devices, as its shards turn out when they are really made.

In:  a Scenario and its PlanReport.  Out: the same, kept within the limits, with the plans that were
refused on the way and why.
The search keeps predictions within the limits. Where a realised shard still exceeds one, the bound
that the search sees is lowered in proportion, never raised again, and the search is repeated.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from edgekit.planner.scenario import Scenario
from edgekit.planner.wording import describe
from edgekit.profiler.memory import measure_peak_bytes
from edgekit.spec.fleet import Device, Fleet
from edgekit.spec.planning import Goal, Refusal, StagePlan
from edgekit.trial.bench import Bench, ShardName
from edgekit.trial.settle import Found, search, stages_of
from edgekit.units import format_bytes, format_count, format_duration, parse_size

Progress = Callable[[str, int, int], None]
_ROUNDS = 6
_FIELDS = ("memory", "max_params", "max_macs", "max_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The answer after its shards were held to the limits."""

    found: Found
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """A limit of a device that a realised shard exceeds."""

    device: str
    field: str
    """Of spec.fleet.Device: memory, max_params, max_macs, max_ms."""
    limit: float
    predicted: float
    realised: float

    @property
    def words(self) -> str:
        """Such as "gateway.memory: 84 MB realised, 60 MB predicted, 64 MB allowed"."""
        shown = [
            _amount(self.field, value) for value in (self.realised, self.predicted, self.limit)
        ]
        return (
            f"{self.device}.{self.field}: {shown[0]} realised, {shown[1]} predicted, "
            f"{shown[2]} allowed"
        )


def keep_limits(found: Found, goal: Goal, bench: Bench, *, progress: Progress) -> Kept:
    """``found``, planned again until the shards of the chosen plan keep every device's limits."""
    asked = found.table.scenario.fleet
    if not any(_is_limited(device) for device in asked.device):
        return Kept(found=found)
    refusals: list[Refusal] = []
    for count in range(_ROUNDS):
        chosen, scenario = found.report.chosen, found.table.scenario
        if chosen is None:
            return _nothing_left(found, asked, refusals)
        progress("hold the shards to the limits", count, _ROUNDS)
        over = [
            excess
            for stage in stages_of(chosen)
            for excess in excesses(_device(asked, stage.device), stage, scenario, bench)
        ]
        if not over:
            note = "its shards were made and keep their limits (memory as this machine needs it)"
            return Kept(found=found, refusals=tuple(refusals), notes=(note,))
        reason = "; ".join(one.words for one in over)
        refusals.append(Refusal(candidate=describe(chosen), reason=reason))
        fleet = scenario.fleet
        for one in over:
            fleet = tightened(fleet, one)
        found = search(replace(scenario, fleet=fleet), goal)
    return _gave_up(found, refusals)


def excesses(device: Device, stage: StagePlan, scenario: Scenario, bench: Bench) -> list[Excess]:
    """The limits of ``device`` that the shard of ``stage`` exceeds, once it is made."""
    shard = ShardName(stage.strategy, stage.after, stage.until, stage.precision)
    workload, ops = bench.ops(shard)
    chosen = [workload.ops[position] for position in ops]
    values = [
        ("max_params", device.max_params, sum(op.parameter_count for op in chosen)),
        ("max_macs", device.max_macs, sum(op.work_flop for op in chosen) / 2),
    ]
    found: list[tuple[str, float, float, float]] = [
        (name, limit, value, value) for name, limit, value in values
    ]
    if device.max_ms and stage.time.is_measured:
        time_ms = 1e3 * stage.time.time_s
        found.append(("max_ms", device.max_ms, time_ms, time_ms))
    if device.memory:
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            path = bench.write(shard, Path(folder) / "shard.onnx")
            peak = measure_peak_bytes(path, threads=scenario.profiles[device.name].threads)
        found.append(("memory", parse_size(device.memory), stage.memory_bytes, peak))
    return [
        Excess(device=device.name, field=name, limit=limit, predicted=guess, realised=value)
        for name, limit, guess, value in found
        if limit and value > limit
    ]


def tightened(fleet: Fleet, excess: Excess) -> Fleet:
    """``fleet`` with the bound lowered so that what was just refused is not chosen again."""
    bound = min(excess.limit, excess.predicted) * excess.limit / excess.realised
    value: str | float | int = int(bound)
    if excess.field == "memory":
        value = f"{int(bound)} B"
    elif excess.field == "max_ms":
        value = bound
    devices = tuple(
        msgspec.structs.replace(one, **{excess.field: value}) if one.name == excess.device else one
        for one in fleet.device
    )
    return msgspec.structs.replace(fleet, device=devices)


def _nothing_left(found: Found, asked: Fleet, refusals: list[Refusal]) -> Kept:
    """No plan any more; what binds is told by the limits that were asked for."""
    lowered = {
        f"{device.name}.{field}": (_bound(device, field), _bound(now, field))
        for device, now in zip(asked.device, found.table.scenario.fleet.device, strict=True)
        for field in _FIELDS
        if _bound(device, field) != _bound(now, field)
    }
    binding = tuple(
        msgspec.structs.replace(one, asked=lowered[one.limit][0]) if one.limit in lowered else one
        for one in found.report.binding
    )
    notes = tuple(
        f"{limit}: the search had to keep within {_amount(limit.rsplit('.')[-1], now)}, for shards "
        "that were made took more than predicted"
        for limit, (_, now) in lowered.items()
    )
    report = msgspec.structs.replace(found.report, binding=binding)
    return Kept(
        found=Found(table=found.table, report=report), refusals=tuple(refusals), notes=notes
    )


def _bound(device: Device, field: str) -> float:
    value = getattr(device, field)
    return float(parse_size(value) if field == "memory" and value else value or 0.0)


def _gave_up(found: Found, refusals: list[Refusal]) -> Kept:
    note = (
        f"every plan whose shards were made broke a limit ({len(refusals)} tried): loosen it, or "
        "add a device"
    )
    nothing = msgspec.structs.replace(found.report, chosen=None, alternatives=(), neighbours=())
    return Kept(
        found=Found(table=found.table, report=nothing), refusals=tuple(refusals), notes=(note,)
    )


def _is_limited(device: Device) -> bool:
    return any(getattr(device, field) for field in _FIELDS)


def _device(fleet: Fleet, name: str) -> Device:
    return next(device for device in fleet.device if device.name == name)


def _amount(field: str, value: float) -> str:
    if field == "memory":
        return format_bytes(value)
    return format_duration(value / 1e3) if field == "max_ms" else format_count(value)
