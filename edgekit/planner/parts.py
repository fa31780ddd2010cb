"""The parts of a plan: one shard on one device, one hop over one link.

In:  a CostTable and nodes.  Out: StagePlan, HopPlan.  Pure.
"""

from edgekit.errors import PlanError
from edgekit.planner.cost_table import CostTable, Option, cut_at
from edgekit.planner.scenario import Wire
from edgekit.spec.planning import CodecCost, FrameCost, HopPlan, Interval, StagePlan
from edgekit.spec.tensors import Array


def stage_plan(table: CostTable, device: str, option: Option, begin: int, end: int) -> StagePlan:
    """One shard under one option, with everything that is known of it."""
    geometry = option.geometry
    # Operators are counted as the float model has them, without what quantizes.
    ops = table.float_geometry(option.strategy).ops_between(begin, end)
    after, until = cut_at(table, begin), cut_at(table, end)
    return StagePlan(
        device=device,
        strategy=option.strategy,
        precision=option.precision,
        first_op=ops[0],
        op_count=len(ops),
        after=after.names if after else (),
        until=until.names if until else (),
        work_flop=_between(geometry.work_flop, begin, end),
        traffic_bytes=_between(geometry.traffic_bytes, begin, end),
        weight_bytes=_between(geometry.weight_bytes, begin, end),
        memory_bytes=table.memory_bytes(device, geometry, begin, end),
        time=_time(option, begin, end),
        roof=option.costs.detail(begin, end).roof,
        energy_j=_stage_energy_j(table, device, float(option.time_s[begin, end])),
        accuracy_drop_pp=float(option.drop_pp[begin, end]),
    )


def _between(above: Array, begin: int, end: int) -> int:
    return int(above[end] - above[begin])


def _time(option: Option, begin: int, end: int) -> Interval:
    time_s = float(option.time_s[begin, end])
    if option.is_measured[begin, end]:
        return Interval(time_s=time_s, low_s=time_s, high_s=time_s, is_measured=True)
    widening = option.costs.detail(begin, end).widening
    return Interval(time_s=time_s, low_s=time_s / widening, high_s=time_s * widening)


def _stage_energy_j(table: CostTable, device: str, time_s: float) -> float | None:
    energy = table.scenario.profiles[device].energy
    return None if energy is None else energy.busy_w * time_s


def wire_between(table: CostTable, source: str, target: str) -> Wire:
    """The link from ``source`` to ``target``. Raises: PlanError if there is none."""
    wire = table.scenario.wire(source, target)
    if wire is None:
        raise PlanError(
            f"no link joins {source} and {target}",
            hint=f"add a [[link]] from {source!r} to {target!r} to the fleet file",
        )
    return wire


def frame_hop(table: CostTable, source: str, target: str, frame: FrameCost) -> HopPlan:
    """The frame itself from ``source`` to ``target``. Raises: PlanError if no link joins them."""
    wire = wire_between(table, source, target)
    return HopPlan(
        source=source,
        target=target,
        carries="frame",
        codec=frame.codec,
        nbytes=frame.nbytes,
        encode_s=frame.encode_s / table.speed(source),
        transfer_s=frame.nbytes / wire.bytes_per_s,
        delay_s=wire.delay_s,
        decode_s=frame.decode_s / table.speed(target),
        accuracy_drop_pp=frame.accuracy_drop_pp,
    )


def activation_hop(
    table: CostTable, source: str, target: str, codec: CodecCost, node: int, sort: int
) -> HopPlan:
    """What crosses the cut at ``node``, a crossing of that sort.

    Raises: PlanError if no link joins the two.
    """
    wire = wire_between(table, source, target)
    nbytes = int(table.codec_bytes(codec, sort)[node - 1])
    return HopPlan(
        source=source,
        target=target,
        carries="activations",
        codec=codec.name,
        nbytes=nbytes,
        encode_s=float(table.encode_s(codec, source, sort)[node - 1]),
        transfer_s=nbytes / wire.bytes_per_s,
        delay_s=wire.delay_s,
        decode_s=float(table.decode_s(codec, target, sort)[node - 1]),
        accuracy_drop_pp=float(table.codec_drop_pp(codec)[node - 1]),
    )


def answer_hop(table: CostTable, source: str, sink: str) -> HopPlan:
    """The answers from the last device to the sink. Raises: PlanError if no link joins them."""
    wire = wire_between(table, source, sink)
    nbytes = table.scenario.answer_bytes
    return HopPlan(
        source=source,
        target=sink,
        carries="answers",
        codec="json",
        nbytes=nbytes,
        encode_s=0.0,
        transfer_s=nbytes / wire.bytes_per_s,
        delay_s=wire.delay_s,
        decode_s=0.0,
    )
