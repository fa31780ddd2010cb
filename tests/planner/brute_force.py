"""Every pipeline of a small scenario, priced by definition: no tables, no bounds, no cleverness.

Random scenarios to compare with are here too. What decides is written out again on purpose.
"""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from edgekit.planner.cuts import legal_cuts
from edgekit.planner.dag import Dag, bits
from edgekit.planner.memory import predict_memory
from edgekit.planner.predict import Predictor
from edgekit.planner.scenario import Scenario, Variant
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.planning import QDQ, AccuracyDrop, AccuracyTable, CodecCost, FrameCost, Goal
from edgekit.spec.profile import Ceiling, DeviceProfile, Energy, KernelTime, Precision
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import KernelShape, OpCost, Workload
from edgekit.units import parse_size


@dataclass(frozen=True)
class Priced:
    """One pipeline."""

    latency_s: float
    interval_s: float
    drop_pp: float
    energy_j: float
    devices: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """A shard or a hop while the pipeline is being put together."""

    busy: tuple[tuple[str, float], ...]
    delay_s: float = 0.0
    drop_pp: float = 0.0
    sort: object = False
    """Of a shard, whether it is of integers; of a hop, that of the shards on either side."""


def every_pipeline(
    scenario: Scenario, goal: Goal, *, sets: list[int] | None = None
) -> Iterator[Priced]:
    """All nested chains of cuts x orders of devices x strategies x precisions x codecs.

    ``sets``: the closed sets to cut at, by default those of every legal cut.
    """
    names = [device.name for device in scenario.devices if device.can_run]
    source = scenario.fleet.source_name
    sets = closed_sets(scenario) if sets is None else sets
    end = Dag(scenario.reference).all_ops
    cache: dict[object, list[_Part]] = {}
    for count in range(1, len(names) + 1):
        for order in itertools.permutations(names, count):
            if source in order[1:]:  # it forwards frames or runs the start, not a later shard
                continue
            for chain in chains(sets, count - 1):
                nodes = [0, *chain, end]
                choices = [
                    shard_ways(scenario, device, a, b, cache)
                    for device, a, b in zip(order, nodes, nodes[1:], strict=False)
                ]
                choices += [
                    hop_ways(scenario, one, other, ops)
                    for one, other, ops in zip(order, order[1:], chain, strict=False)
                ]
                if order[0] != source:
                    choices.append(frame_ways(scenario, source, order[0]))
                sink = scenario.fleet.sink
                if sink and order[-1] != sink:
                    choices.append(answer_ways(scenario, order[-1], sink))
                for parts in itertools.product(*choices):
                    if fit_together(parts, count):
                        yield totals(scenario, goal, order, parts)


def fit_together(parts: tuple[_Part, ...], count: int) -> bool:
    """Integers cross where a shard on either side is made of them, and nowhere else."""
    shards, hops = parts[:count], parts[count : 2 * count - 1]
    return all(
        hop.sort == (one.sort, other.sort)
        for one, other, hop in zip(shards, shards[1:], hops, strict=False)
    )


def totals(
    scenario: Scenario, goal: Goal, order: tuple[str, ...], parts: tuple[_Part, ...]
) -> Priced:
    busy: dict[str, float] = {}
    for part in parts:
        for resource, seconds in part.busy:
            busy[resource] = busy.get(resource, 0.0) + seconds
    latency_s = sum(busy.values()) + sum(part.delay_s for part in parts)
    if goal.arrival_fps:
        for seconds in busy.values():
            load = seconds * goal.arrival_fps
            latency_s += load * seconds / (2 * (1 - load)) if load < 1 else math.inf
    energy_j = 0.0
    for name in order:
        energy = scenario.profiles[name].energy
        energy_j += energy.busy_w * busy[name] if energy else math.inf
    drop_pp = sum(part.drop_pp for part in parts)
    return Priced(latency_s, max(busy.values()), drop_pp, energy_j, order)


def closed_sets(scenario: Scenario) -> list[int]:
    dag = Dag(scenario.reference)
    return [dag.ops_before(cut) for cut in legal_cuts(scenario.reference).cuts]


def chains(sets: list[int], length: int, above: int = 0) -> Iterator[tuple[int, ...]]:
    if length == 0:
        yield ()
        return
    for ops in sets:
        if ops != above and not above & ~ops:
            for rest in chains(sets, length - 1, ops):
                yield (ops, *rest)


def shard_ways(
    scenario: Scenario, device: str, above: int, below: int, cache: dict[object, list[_Part]]
) -> list[_Part]:
    if (device, above, below) in cache:
        return cache[device, above, below]
    (owner,) = (one for one in scenario.devices if one.name == device)
    profile, found = scenario.profiles[device], []
    for variant in scenario.variants:
        masks = [mask_in(scenario, variant, one) for one in (above, below)]
        if None in masks:
            continue
        workload, ops = variant.workload, tuple(bits(masks[1] & ~masks[0]))  # type: ignore[operator]
        for precision in ("int8",) if variant.precision == "int8" else ("fp32", "fp16"):
            drop = shard_drop(scenario, variant, precision, above, below, ops)
            if profile.roof(precision, owner.provider) is None or drop == math.inf:
                continue
            if precision == "int8" and not any("QLinear" in one.key for one in profile.kernel):
                continue
            if precision == "int8" and not any(
                variant.is_integer(workload.ops[op].name) for op in ops
                if "quantize" not in workload.ops[op].op_type.lower()
            ):  # fmt: skip
                continue
            predictor = Predictor(profile, precision=precision, provider=owner.provider)
            time_s = predictor.predict(workload, ops).time_s
            work = sum(workload.ops[op].work_flop for op in ops)
            count = sum(workload.ops[op].parameter_count for op in ops)
            limit = parse_size(owner.memory or profile.memory)
            if predict_memory(workload, ops, profile).rss_bytes > limit:
                continue
            if owner.max_ms and time_s > owner.max_ms / 1e3:
                continue
            if (owner.max_macs and work > 2 * owner.max_macs) or (
                owner.max_params and count > owner.max_params
            ):
                continue
            found.append(_Part(((device, time_s),), drop_pp=drop, sort=precision == "int8"))
    cache[device, above, below] = found
    return found


def mask_in(scenario: Scenario, variant: Variant, ops: int) -> int | None:
    """The operators of ``variant`` above a cut of the reference; None if it is no cut there."""
    reference, dag = Dag(scenario.reference), Dag(variant.workload)
    if ops in (0, reference.all_ops):
        return dag.all_ops if ops else 0
    names = integers_crossing(variant, reference.names_of(reference.crossing(ops)))
    if any(name not in dag.tensor_index for name in names):
        return None
    mask = dag.closure(dag.mask_of(names))
    is_cut = mask not in (0, dag.all_ops) and set(dag.names_of(dag.crossing(mask))) == set(names)
    return mask if is_cut else None


def integers_crossing(variant: Variant, names: tuple[str, ...]) -> list[str]:
    known = variant.workload.tensor
    if variant.precision == "fp32":
        return list(names)
    return [f"{one}_QuantizeLinear_Output" if f"{one}_QuantizeLinear_Output" in known else one
            for one in names]  # fmt: skip


def shard_drop(
    scenario: Scenario, variant: Variant, precision: Precision, above: int, below: int,
    own: tuple[int, ...],
) -> float:  # fmt: skip
    """``own``: the shard's operators in the variant."""
    if precision == "fp32":
        return 0.0
    dag = Dag(scenario.reference)
    after = ",".join(dag.names_of(dag.crossing(above))) if above else ""
    until = ",".join(dag.names_of(dag.crossing(below))) if below != dag.all_ops else ""
    rows = [row for row in scenario.accuracy.drop if row.precision == precision]
    rows = [row for row in rows if row.strategy in (variant.strategy, "*")]
    rows.sort(key=lambda row: row.strategy == "*")
    for row in rows:
        if (row.after, row.until) == (after, until):
            return row.drop_pp
    whole = next((row.drop_pp for row in rows if not row.after and not row.until), math.inf)
    share = sum(variant.workload.ops[op].work_flop for op in own) / variant.workload.work_flop
    found = whole * share
    seen = set()
    for row in rows:
        if (row.after, row.until) in seen:
            continue  # the strategy's own row came first
        seen.add((row.after, row.until))
        ends = [mask_of_cut(dag, row.after, 0), mask_of_cut(dag, row.until, dag.all_ops)]
        if not above & ~ends[0] and not ends[1] & ~below:
            found = max(found, row.drop_pp)
    return found


def mask_of_cut(dag: Dag, text: str, otherwise: int) -> int:
    """Operators above a cut that is named as rows name it."""
    return dag.closure(dag.mask_of(text.split(","))) if text else otherwise


def hop_ways(scenario: Scenario, one: str, other: str, ops: int) -> list[_Part]:
    dag = Dag(scenario.reference)
    names = dag.names_of(dag.crossing(ops))
    cut, tensor = ",".join(names), scenario.reference.tensor
    integers = [one for one in scenario.variants if one.precision == "int8"]
    found = []
    ways = [(codec, sort) for codec in (*scenario.codecs, *([QDQ] if integers else []))
            for sort in itertools.product((False, True), repeat=2)
            if codec.is_integer == any(sort)]  # fmt: skip
    for codec, sort in ways:
        coded = list(names)
        if codec.is_integer:
            if not integers or mask_in(scenario, integers[0], ops) is None:
                continue
            coded = [name for name in names if is_rounded(integers[0], name, sort)]
        elements = sum(tensor[name].element_count for name in coded)
        rest = sum(tensor[name].nbytes for name in names if name not in coded)
        ratio = codec.by_cut.get(cut, codec.bytes_per_element)
        speed = {device.name: device.relative_speed for device in scenario.devices}
        encode_s = 4 * elements / codec.encode_bytes_per_s / speed[one]
        decode_s = 4 * elements / codec.decode_bytes_per_s / speed[other]
        drop_pp = codec.drop_by_cut.get(cut, codec.accuracy_drop_pp)
        found += over(scenario, one, other, math.ceil(elements * ratio) + rest, encode_s, decode_s,
                      drop_pp, sort=sort)  # fmt: skip
    return found


def is_rounded(variant: Variant, name: str, sort: tuple[bool, bool]) -> bool:
    """By the operator that makes it, if that is in a shard of integers, or for one that reads."""
    workload, integers = variant.workload, f"{name}_QuantizeLinear_Output"
    if integers not in workload.tensor:
        return False
    back = {out for op in workload.ops if integers in op.inputs for out in op.outputs}
    makes = any(name in op.outputs and variant.is_integer(op.name) for op in workload.ops)
    reads = any(back & set(op.inputs) and variant.is_integer(op.name) for op in workload.ops)
    return (sort[0] and makes) or (sort[1] and reads)


def frame_ways(scenario: Scenario, one: str, other: str) -> list[_Part]:
    speed = {device.name: device.relative_speed for device in scenario.devices}
    found = []
    for frame in scenario.frame_costs:
        encode_s, decode_s = frame.encode_s / speed[one], frame.decode_s / speed[other]
        found += over(scenario, one, other, frame.nbytes, encode_s, decode_s,
                      frame.accuracy_drop_pp, "frame")  # fmt: skip
    return found


def answer_ways(scenario: Scenario, one: str, other: str) -> list[_Part]:
    return over(scenario, one, other, scenario.answer_bytes, 0.0, 0.0, 0.0, "answer")


def over(
    scenario: Scenario, one: str, other: str, nbytes: int, encode_s: float, decode_s: float,
    drop_pp: float, what: str = "", sort: object = False,
) -> list[_Part]:  # fmt: skip
    """One hop, if there is a link."""
    if not scenario.fleet.link:
        rate, delay_s = 125e6, 0.5e-3
    else:
        link = scenario.fleet.link_between(one, other)
        if link is None:
            return []
        rate, delay_s = link.toward(other), link.rtt_s / 2
    busy = ((one, encode_s), (other, decode_s), (f"{one}>{other} {what}", nbytes / rate))
    return [_Part(busy, delay_s, drop_pp, sort)]


def best_value(found: list[Priced], goal: Goal, bests: tuple[float, float]) -> float:
    """The least value of the objective that keeps the limits; infinite if none does."""
    fits = [
        one
        for one in found
        if one.drop_pp <= goal.max_accuracy_drop_pp + 1e-12
        and one.latency_s <= (goal.max_latency_s or math.inf)
        and (not goal.min_fps or one.interval_s <= 1 / goal.min_fps)
    ]
    return min((value_of(one, goal, bests) for one in fits), default=math.inf)


def value_of(one: Priced, goal: Goal, bests: tuple[float, float]) -> float:
    worth = goal.lambda1_s_per_pp * one.drop_pp
    latency_s, interval_s = one.latency_s + worth, one.interval_s + worth
    if goal.objective == "balanced":
        return (latency_s / bests[0] + interval_s / bests[1]) / 2
    return {"latency": latency_s, "throughput": interval_s, "energy": one.energy_j}[goal.objective]


# -- random scenarios ------------------------------------------------------------------------
def random_scenario(seed: int, *, lossy: bool | None = None) -> Scenario:
    """Two to four devices, a DAG with skips, links both ways, one way slower, or missing."""
    rng = random.Random(seed)
    count = rng.choice([2, 2, 2, 3, 3, 4])
    is_lossy = rng.random() < 0.4 if lossy is None else lossy
    op_count = rng.randint(2, {2: 6, 3: 5, 4: 4}[count] - is_lossy)
    kinds = [random_profile(rng, f"kind-{index}", is_lossy) for index in range(count)]
    profiles = {f"d{index}": rng.choice(kinds) for index in range(count)}
    reads = [_reads(rng, index) for index in range(op_count)]
    ends = [index for index in range(op_count) if not any(f"t{index}" in r for r in reads)]
    strategies = ("S3", "S3+Ss") if rng.random() < 0.3 else ("S3",)
    elements = [rng.choice([100, 3000, 40000, 400000]) for _ in range(op_count + 1)]
    variants = tuple(
        Variant(strategy, _workload(rng, reads, ends, elements)) for strategy in strategies
    )
    accuracy = AccuracyTable()
    if is_lossy or rng.random() < 0.3:
        drop_pp = rng.choice([2.0, 2.0, 0.6, 0.0]) if is_lossy else 0.0
        accuracy = _accuracy(rng, variants[0].workload, drop_pp)
        names = {op.name for op in variants[0].workload.ops}
        some = frozenset(name for name in sorted(names) if rng.random() < 0.8)
        quantized = quantized_workload(rng, variants[0].workload)
        variants += (Variant("S3", quantized, "int8", some if rng.random() < 0.7 else None),)
    return Scenario(
        model="random", model_sha256="0" * 64, variants=variants,
        fleet=_fleet(rng, count), profiles=profiles, codecs=_codecs(rng, is_lossy),
        frames=_frames(rng, is_lossy), accuracy=accuracy,
    )  # fmt: skip


def quantized_workload(rng: random.Random, workload: Workload) -> Workload:
    """``workload`` in QDQ: most tensors are quantized, every reader dequantizes for itself."""
    sizes = {one.name: one.element_count for one in workload.tensors}
    chosen = {name for name in sizes if name not in workload.outputs and rng.random() < 0.8}
    ops: list[OpCost] = []
    tensors = list(workload.tensors)

    def mark(kind: str, source: str, result: str, dtype: str, name: str) -> None:
        count = sizes[name]
        tensors.append(TensorSpec(name=result, dtype=dtype, shape=(count,)))
        ops.append(
            OpCost(
                name=result, op_type=kind, inputs=(source,), outputs=(result,), weight_bytes=0,
                work_flop=2 * count, traffic_bytes=5 * count, parameter_count=0,
                kernel=KernelShape(key=kind, sizes=(1, count)),
            )
        )  # fmt: skip

    def quantize(name: str) -> None:
        if name in chosen:
            mark("QuantizeLinear", name, f"{name}_QuantizeLinear_Output", "uint8", name)

    quantize("image")
    for op in workload.ops:
        read = {name: f"{name} for {op.name}" for name in op.inputs if name in chosen}
        for name, result in read.items():
            source = f"{name}_QuantizeLinear_Output"
            mark("DequantizeLinear", source, result, "float32", name)
        ops.append(
            msgspec.structs.replace(
                op, inputs=tuple(read.get(name, name) for name in op.inputs),
                work_flop=op.work_flop // 3, weight_bytes=op.weight_bytes // 4,
            )
        )  # fmt: skip
        quantize(op.outputs[0])
    return msgspec.structs.replace(workload, ops=tuple(ops), tensors=tuple(tensors))


def _reads(rng: random.Random, index: int) -> list[str]:
    if index == 0:
        return ["image"]
    made = [f"t{i}" for i in range(index)]
    reads = {made[-1]} if rng.random() < 0.8 else {rng.choice(made)}
    if rng.random() < 0.4:
        reads.add(rng.choice([*made, "image"]))
    return sorted(reads)


def _workload(
    rng: random.Random, reads: list[list[str]], ends: list[int], elements: list[int]
) -> Workload:
    names = ["image", *(f"t{index}" for index in range(len(reads)))]
    ops = tuple(
        OpCost(
            name=f"op{index}", op_type="Blend", inputs=tuple(read), outputs=(f"t{index}",),
            work_flop=rng.randrange(1, 100) * 1_000_000, traffic_bytes=rng.randrange(1, 10**6),
            weight_bytes=rng.randrange(10**6), parameter_count=rng.randrange(10**5),
            kernel=KernelShape(
                key="Conv 3x3 s1 d1 dense",
                sizes=(rng.choice([8, 16, 64]), rng.choice([16, 32]), 16, rng.choice([8, 64]), 1),
            ),
        )
        for index, read in enumerate(reads)
    )  # fmt: skip
    tensors = tuple(
        TensorSpec(name=name, dtype="float32", shape=(count,))
        for name, count in zip(names, elements, strict=True)
    )
    return Workload(
        model="random", model_sha256="0" * 64, ops=ops, tensors=tensors, inputs=("image",),
        outputs=tuple(f"t{index}" for index in ends),
    )  # fmt: skip


def random_profile(rng: random.Random, name: str, is_lossy: bool) -> DeviceProfile:
    rate = rng.choice([2, 8, 30, 90])
    ceilings = [Ceiling(precision="fp32", compute=f"{rate} Gflop/s")]
    if is_lossy and rng.random() < 0.8:
        ceilings.append(Ceiling(precision="int8", compute=f"{rate * rng.choice([2, 4])} Gop/s"))
    if not is_lossy and rng.random() < 0.5:
        ceilings.append(Ceiling(precision="int8", compute=f"{2 * rate} Gop/s"))
    integer = KernelTime(key="QLinearAdd", sizes=(1000,), time_s=1e-5)
    return DeviceProfile(
        name=name, source="measured", reference="drawn", processor="p", memory="4 GB",
        runtime="drawn", memory_bandwidth=f"{rng.choice([2, 5, 20])} GB/s",
        ceiling=tuple(ceilings), launch_overhead=f"{rng.choice([0, 5, 50])} us",
        session_overhead=f"{rng.choice([0, 20, 400])} us",
        copy_bandwidth=rng.choice(["", "1 GB/s"]),
        energy=Energy(meter="drawn", idle_w=1.0, busy_w=rng.choice([2.0, 5.0, 30.0])),
        kernel=(integer,) if rng.random() < 0.8 else (),
    )  # fmt: skip


def _fleet(rng: random.Random, count: int) -> Fleet:
    names = [f"d{index}" for index in range(count)]
    links = [
        Link(
            source=one, target=other, bandwidth=f"{rng.choice([10, 100, 1000, 10000])} Mbit/s",
            bandwidth_back=rng.choice(["", "50 Mbit/s"]), rtt=f"{rng.choice([0, 1, 10])} ms",
        )
        for one, other in itertools.combinations(names, 2)
        if rng.random() < 0.85
    ]  # fmt: skip
    devices = tuple(
        Device(
            name=name, memory=rng.choice(["", "", "", "13 MB"]),
            relative_speed=rng.choice([1.0, 1.0, 4.0]), can_run=rng.random() < 0.9,
            max_ms=rng.choice([0.0, 0.0, 0.0, 20.0]), max_macs=rng.choice([0, 0, 0, 80_000_000]),
            max_params=rng.choice([0, 0, 0, 200_000]),
        )
        for name in names
    )  # fmt: skip
    if not any(device.can_run for device in devices):
        devices = (Device(name="d0"), *devices[1:])
    return Fleet(
        name="drawn", device=devices, link=tuple(links),
        source=rng.choice(["", names[-1]]), sink=rng.choice(["", "", names[0], names[-1]]),
    )  # fmt: skip


def _codecs(rng: random.Random, is_lossy: bool) -> tuple[CodecCost, ...]:
    raw = CodecCost(name="fp32", bytes_per_element=4.0, encode_bytes_per_s=math.inf,
                    decode_bytes_per_s=math.inf)  # fmt: skip
    other = CodecCost(
        name="uint8", bytes_per_element=1.0, encode_bytes_per_s=rng.choice([5e7, 2e9]),
        decode_bytes_per_s=2e9, by_cut={"t0": 0.5},
        accuracy_drop_pp=0.3 if is_lossy else 0.0,
        drop_by_cut={"t1": rng.choice([0.0, 0.7])} if is_lossy else {},
    )  # fmt: skip
    packed = CodecCost(
        name="qdq+zstd", bytes_per_element=0.6, encode_bytes_per_s=rng.choice([2e8, 4e9]),
        decode_bytes_per_s=4e9, by_cut={"t0": 0.3},
    )  # fmt: skip
    plain = (raw, other) if rng.random() < 0.5 else (raw,)
    return (*plain, QDQ, packed) if rng.random() < 0.3 else plain


def _frames(rng: random.Random, is_lossy: bool) -> tuple[FrameCost, ...]:
    jpeg = FrameCost(codec="jpeg-90", nbytes=40_000, encode_s=2e-3, decode_s=1e-3,
                     accuracy_drop_pp=0.1 if is_lossy else 0.0)  # fmt: skip
    raw = FrameCost(codec="raw", nbytes=900_000)
    return rng.choice([(), (raw,), (raw, jpeg)])


def _accuracy(rng: random.Random, workload: Workload, drop_pp: float) -> AccuracyTable:
    rows = [AccuracyDrop(strategy=rng.choice(["*", "S3"]), precision="int8", drop_pp=drop_pp)]
    if rng.random() < 0.5:
        cut = rng.choice(legal_cuts(workload).cuts or (None,))  # type: ignore[arg-type]
        if cut is not None:
            row = {"strategy": "*", "precision": "int8", "drop_pp": 0.2 * drop_pp}
            rows.append(AccuracyDrop(**row, until=str(cut)))  # type: ignore[arg-type]
    return AccuracyTable(drop=tuple(rows))
