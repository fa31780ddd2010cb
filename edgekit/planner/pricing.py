"""Price one way of running the model: its latency, interval, energy, accuracy and bytes.

In:  a CostTable, a Goal, and Steps (or members of a farm).  Out: a Candidate.  Pure.
A processor is busy with its shard, with decoding what came and encoding what goes; a link is busy
while bytes cross. The interval is that of the busiest. Where frames arrive at random, each of them
adds the waiting of an M/D/1 queue: rho s / (2 (1 - rho)).
Source: Kleinrock, Queueing Systems, vol. 1, 1975, section 5.6.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgekit.errors import PlanError
from edgekit.planner.cost_table import CostTable
from edgekit.planner.crossings import FLOATS, sort_between
from edgekit.planner.parts import activation_hop, answer_hop, frame_hop, stage_plan
from edgekit.planner.shares import Member, member_rates
from edgekit.spec.planning import Binding, Candidate, Family, Goal, HopPlan, Interval, StagePlan
from edgekit.spec.profile import Precision

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Step:
    """One shard of a pipeline; None leaves a choice to the fastest admissible option."""

    device: str
    until: int | None
    """Index into ``CostTable.cuts``; None for the model's end."""
    strategy: str | None = None
    precision: Precision = "fp32"
    codec: str | None = None
    """For the hop after it."""


@dataclass(frozen=True, slots=True)
class Bests:
    """The least latency and the least interval of any plan: what "balanced" is relative to."""

    latency_s: float
    interval_s: float


def price_pipeline(
    table: CostTable, goal: Goal, steps: Sequence[Step], *, frame_codec: str | None = None
) -> Candidate:
    """Exact price of ``steps``, hops from the source and to the sink included.

    Limits are not looked at (see ``limits.violations``).
    Raises: PlanError naming a link, device, cut, strategy or codec that does not exist.
    """
    nodes = _nodes(table, steps)
    devices = [step.device for step in steps]
    stages = [
        _stage(table, step, begin, end)
        for step, begin, end in zip(steps, nodes, nodes[1:], strict=False)
    ]
    hops = []
    source, sink = table.scenario.fleet.source_name, table.scenario.fleet.sink
    if devices[0] != source:
        hops.append(_frame_hop(table, goal, source, devices[0], frame_codec))
    for step, other, node in zip(steps, steps[1:], nodes[1:], strict=False):
        hops.append(_activation_hop(table, goal, step, other, node))
    if sink and devices[-1] != sink:
        hops.append(answer_hop(table, devices[-1], sink))
    return assembled(table, goal, _family(table, devices), stages, hops)


def assembled(
    table: CostTable,
    goal: Goal,
    family: Family,
    stages: Sequence[StagePlan],
    hops: Sequence[HopPlan],
) -> Candidate:
    """A pipeline's totals from its parts."""
    busy = [*processors_s(stages, hops).values(), *links_s(hops).values()]
    waiting_s = sum(wait_s(one, goal.arrival_fps) for one in busy)
    return _totalled(table, family, stages, hops, waiting_s)


def _totalled(
    table: CostTable,
    family: Family,
    stages: Sequence[StagePlan],
    hops: Sequence[HopPlan],
    waiting_s: float,
) -> Candidate:
    busy = [*processors_s(stages, hops).values(), *links_s(hops).values()]
    fixed_s = sum(hop.latency_s for hop in hops) + waiting_s
    return Candidate(
        family=family,
        stages=tuple(stages),
        hops=tuple(hops),
        latency=Interval(
            time_s=fixed_s + sum(stage.time.time_s for stage in stages),
            low_s=fixed_s + sum(stage.time.low_s for stage in stages),
            high_s=fixed_s + sum(stage.time.high_s for stage in stages),
            is_measured=all(stage.time.is_measured for stage in stages),
        ),
        interval_s=max(busy),
        energy_j=energy_j(table, stages, hops),
        accuracy_drop_pp=sum(one.accuracy_drop_pp for one in stages)
        + sum(one.accuracy_drop_pp for one in hops),
        link_bytes=sum(hop.nbytes for hop in hops),
    )


def price_farm(table: CostTable, goal: Goal, members: Sequence[Candidate]) -> Candidate:
    """Frames dealt out over ``members`` (priced pipelines of disjoint devices).

    Each gets a share in proportion to the rate it can reach, where all draw on the source's
    processor and on its way out. Raises: PlanError if a device is in two members.
    """
    devices = [name for member in members for name in member.devices]
    if len(set(devices)) != len(devices) or not members:
        raise PlanError(f"the farm visits {devices}", hint="give each member its own devices")
    loads = [load_of(table, member) for member in members]
    rates = member_rates(loads)
    total = sum(rates)
    kept = [(member, rate / total) for member, rate in zip(members, rates, strict=True) if rate > 0]
    shared = _shared_waits(goal, loads, [rate / total for rate in rates])
    priced = tuple(_at_share(table, goal, member, share, shared) for member, share in kept)
    shares = tuple(share for _, share in kept)
    if len(priced) == 1:
        return priced[0]
    energies = [one.energy_j for one in priced]
    is_pipeline = any(len(one.stages) > 1 for one in priced)
    return Candidate(
        family="pipeline-farm" if is_pipeline else "farm",
        members=priced,
        shares=shares,
        latency=Interval(
            time_s=_mean([one.latency.time_s for one in priced], shares),
            low_s=_mean([one.latency.low_s for one in priced], shares),
            high_s=_mean([one.latency.high_s for one in priced], shares),
            is_measured=all(one.latency.is_measured for one in priced),
        ),
        interval_s=1.0 / total,
        energy_j=None
        if None in energies
        else _mean([one for one in energies if one is not None], shares),
        accuracy_drop_pp=_mean([one.accuracy_drop_pp for one in priced], shares),
        link_bytes=round(_mean([one.link_bytes for one in priced], shares)),
    )


def load_of(table: CostTable, member: Candidate) -> Member:
    """What one frame costs a member of a farm, and costs the source for it."""
    source = table.scenario.fleet.source_name
    return Member(
        interval_s=member.interval_s,
        source_s=processors_s(member.stages, member.hops).get(source, 0.0),
        sending_s=sum(hop.transfer_s for hop in member.hops if hop.source == source),
    )


def processors_s(stages: Sequence[StagePlan], hops: Sequence[HopPlan]) -> dict[str, float]:
    """How long one frame keeps each processor busy."""
    busy: dict[str, float] = {}
    for hop in hops:
        if hop.encode_s:
            busy[hop.source] = busy.get(hop.source, 0.0) + hop.encode_s
        if hop.decode_s:
            busy[hop.target] = busy.get(hop.target, 0.0) + hop.decode_s
    for stage in stages:
        busy[stage.device] = busy.get(stage.device, 0.0) + stage.time.time_s
    return busy


def links_s(hops: Sequence[HopPlan]) -> dict[tuple[str, str, str], float]:
    """How long one frame keeps each link busy, by what crosses it."""
    return {(hop.source, hop.target, hop.carries): hop.transfer_s for hop in hops}


def wait_s(busy_s: float, arrival_fps: float | None) -> float:
    """Mean waiting in front of one processor or link; infinite if it cannot keep up."""
    if arrival_fps is None:
        return 0.0
    load = busy_s * arrival_fps
    return load * busy_s / (2 * (1 - load)) if load < 1 else math.inf


def energy_j(
    table: CostTable, stages: Sequence[StagePlan], hops: Sequence[HopPlan]
) -> float | None:
    """Of all processors that run a shard; None if one of them has no meter's figure."""
    busy, total = processors_s(stages, hops), 0.0
    for stage in stages:
        energy = table.scenario.profiles[stage.device].energy
        if energy is None:
            return None
        total += energy.busy_w * busy[stage.device]
    return total


def _nodes(table: CostTable, steps: Sequence[Step]) -> list[int]:
    last = table.node_count - 1
    if not steps:
        raise PlanError("a plan without a device", hint="name at least one")
    if len({step.device for step in steps}) != len(steps):
        raise PlanError("a device is visited twice", hint="give each shard its own device")
    nodes = [0]
    for step in steps:
        if step.until is not None and not 0 <= step.until < len(table.cuts):
            raise PlanError(
                f"there is no cut {step.until}", hint=f"give 0 to {len(table.cuts) - 1}"
            )
        nodes.append(last if step.until is None else step.until + 1)
    if nodes[-1] != last or not all(table.is_shard[a, b] for a, b in pairwise(nodes)):
        raise PlanError(
            f"the cuts {[step.until for step in steps]} do not lie below each other, or do not "
            "end at the model's end",
            hint="give the cuts in order, and None for the last shard",
        )
    return nodes


def _stage(table: CostTable, step: Step, begin: int, end: int) -> StagePlan:
    options = table.option(step.device, step.strategy, step.precision)
    option = min(options, key=lambda one: (not one.is_allowed[begin, end], one.time_s[begin, end]))
    if not math.isfinite(option.time_s[begin, end]):
        raise PlanError(
            f"there is no shard in {step.precision} between these cuts",
            hint="cut at tensors that are quantized, or run this shard in fp32",
        )
    return stage_plan(table, step.device, option, begin, end)


def _frame_hop(
    table: CostTable, goal: Goal, source: str, target: str, codec: str | None
) -> HopPlan:
    frames = table.scenario.frame_costs
    named = [one for one in frames if codec in (None, one.codec)]
    if not named:
        known = ", ".join(one.codec for one in frames)
        raise PlanError(f"there is no frame codec {codec!r}", hint=f"use one of {known}")
    limit = goal.max_accuracy_drop_pp
    within = [one for one in named if one.accuracy_drop_pp <= limit] or named
    hops = [frame_hop(table, source, target, one) for one in within]
    return min(hops, key=lambda hop: (hop.latency_s, hop.nbytes))


def _activation_hop(table: CostTable, goal: Goal, step: Step, other: Step, node: int) -> HopPlan:
    """Between two shards: where either is of integers, these cross, else floats in some codec."""
    sort = sort_between(step.precision, other.precision)
    if sort != FLOATS and not table.integer_node[node]:
        raise PlanError(
            f"no integers can cross the cut {table.cut_names[node - 1]}",
            hint="cut at a tensor that is quantized",
        )
    codecs = table.scenario.float_codecs
    if sort != FLOATS:
        codecs = table.scenario.integer_codecs
    named = [one for one in codecs if step.codec in (None, one.name)]
    if not named:
        known = ", ".join(one.name for one in codecs)
        between = f"from {step.precision} to {other.precision}"
        raise PlanError(f"there is no codec {step.codec!r} {between}", hint=f"use one of {known}")
    limit = goal.max_accuracy_drop_pp
    hops = [activation_hop(table, step.device, other.device, one, node, sort) for one in named]
    within = [hop for hop in hops if hop.accuracy_drop_pp <= limit] or hops
    return min(within, key=lambda hop: (hop.latency_s, hop.nbytes))


def _family(table: CostTable, devices: Sequence[str]) -> Family:
    if len(devices) > 1:
        return "pipeline"
    return "whole" if devices[0] == table.scenario.fleet.source_name else "frames"


def _mean(values: Sequence[float], shares: Sequence[float]) -> float:
    return sum(value * share for value, share in zip(values, shares, strict=True))


def _shared_waits(
    goal: Goal, loads: Sequence[Member], shares: Sequence[float]
) -> Callable[[str, float], float]:
    """Waiting at what all members share: the source's processor, and its way out."""
    if goal.arrival_fps is None:
        return lambda name, busy_s: 0.0
    load = {
        "source": goal.arrival_fps * _mean([one.source_s for one in loads], shares),
        "sending": goal.arrival_fps * _mean([one.sending_s for one in loads], shares),
    }

    def wait(name: str, busy_s: float) -> float:
        rho = load[name]
        return rho * busy_s / (2 * (1 - rho)) if rho < 1 else math.inf

    return wait


def _at_share(
    table: CostTable,
    goal: Goal,
    member: Candidate,
    share: float,
    shared: Callable[[str, float], float],
) -> Candidate:
    """``member`` with the waiting that its share of the frames causes, not that of all of them."""
    if goal.arrival_fps is None:
        return member
    source = table.scenario.fleet.source_name
    waiting_s = 0.0
    for name, busy_s in processors_s(member.stages, member.hops).items():
        own = wait_s(busy_s, goal.arrival_fps * share)
        waiting_s += shared("source", busy_s) if name == source else own
    for (name, _, _), busy_s in links_s(member.hops).items():
        own = wait_s(busy_s, goal.arrival_fps * share)
        waiting_s += shared("sending", busy_s) if name == source else own
    return _totalled(table, member.family, member.stages, member.hops, waiting_s)


def violations(table: CostTable, goal: Goal, candidate: Candidate) -> tuple[Binding, ...]:
    """The hard limits that ``candidate`` breaks; empty if it may be chosen."""
    found = [one for one in _goal_limits(goal, candidate) if one.best > one.asked * (1 + _ROUNDING)]
    if goal.min_fps is not None and candidate.throughput_fps < goal.min_fps * (1 - _ROUNDING):
        found.append(
            Binding(
                limit="min_fps", asked=goal.min_fps, best=candidate.throughput_fps, unit="frames/s"
            )
        )
    for part in candidate.members or (candidate,):
        for stage in part.stages:
            limits = _device_limits(table, stage)
            found += [one for one in limits if one.best > one.asked * (1 + _ROUNDING)]
    return tuple(found)


def _goal_limits(goal: Goal, candidate: Candidate) -> list[Binding]:
    """Upper limits of the goal, beside what ``candidate`` needs."""
    found = [
        Binding(
            limit="max_accuracy_drop_pp",
            asked=goal.max_accuracy_drop_pp + _ROUNDING,
            best=candidate.accuracy_drop_pp,
            unit="pp",
        )
    ]
    latency_s = candidate.latency.time_s
    if goal.max_latency_s is not None:
        found.append(
            Binding(limit="max_latency_s", asked=goal.max_latency_s, best=latency_s, unit="s")
        )
    if goal.arrival_fps is not None and not math.isfinite(latency_s):
        fps = candidate.throughput_fps
        found.append(
            Binding(limit="arrival_fps", asked=fps, best=goal.arrival_fps, unit="frames/s")
        )
    return found


def _device_limits(table: CostTable, stage: StagePlan) -> list[Binding]:
    """Limits of a stage's device, beside what the stage needs."""
    device, name = table.device[stage.device], stage.device
    needs = [("memory", table.memory_limit_bytes(name), stage.memory_bytes, "B")]
    if device.max_macs:
        needs.append(("max_macs", device.max_macs, stage.work_flop // 2, ""))
    if device.max_params:
        needs.append(("max_params", device.max_params, table.parameter_count(stage), ""))
    found = [
        Binding(limit=f"{name}.{limit}", asked=asked, best=needed, unit=unit)
        for limit, asked, needed, unit in needs
    ]
    if device.max_ms:
        time_ms = stage.time.time_s * 1e3
        found.append(Binding(limit=f"{name}.max_ms", asked=device.max_ms, best=time_ms, unit="ms"))
    return found


def objective_value(goal: Goal, candidate: Candidate, bests: Bests | None = None) -> float:
    """What is to be made small: seconds, or joules; for "balanced" 1.0 is the best there could be.

    ``bests`` is needed for "balanced" only; a PlanReport carries them. Accuracy counts by
    ``goal.lambda1_s_per_pp`` where the objective is in seconds.
    Raises: PlanError for "balanced" without ``bests``.
    """
    latency_s, interval_s = candidate.latency.time_s, candidate.interval_s
    worth_s = goal.lambda1_s_per_pp * candidate.accuracy_drop_pp if goal.lambda1_s_per_pp else 0.0
    if goal.objective == "latency":
        return latency_s + worth_s
    if goal.objective == "throughput":
        return interval_s + worth_s
    if goal.objective == "energy":
        return math.inf if candidate.energy_j is None else candidate.energy_j
    if bests is None:
        raise PlanError(
            "balanced is relative to the best latency and interval", hint="pass the report's bests"
        )
    return balanced(latency_s + worth_s, interval_s + worth_s, bests)


def balanced(latency_s: float, interval_s: float, bests: Bests) -> float:
    """Mean of latency and interval, each relative to its own best."""
    return (latency_s / bests.latency_s + interval_s / bests.interval_s) / 2
