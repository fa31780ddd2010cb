"""Every pipeline of a small scenario, priced by definition: no tables, no bounds, no cleverness.

Random scenarios to compare with are here too. What decides is written out again on purpose.
"""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.planner.cuts import legal_cuts
from edgekit.planner.dag import Dag, bits
from edgekit.planner.memory import predict_memory
from edgekit.planner.predict import Predictor
from edgekit.planner.scenario import Scenario, Variant
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.planning import AccuracyDrop, AccuracyTable, CodecCost, FrameCost, Goal
from edgekit.spec.profile import Ceiling, DeviceProfile, Energy, Precision
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
                    yield totals(scenario, goal, order, parts)


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
        workload, ops = variant.workload, tuple(bits(below & ~above))
        for precision in ("fp32", "fp16", "int8"):
            drop = shard_drop(scenario, variant, precision, above, below)
            if profile.roof(precision, owner.provider) is None or drop == math.inf:
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
            found.append(_Part(((device, time_s),), drop_pp=drop))
    cache[device, above, below] = found
    return found


def shard_drop(
    scenario: Scenario, variant: Variant, precision: Precision, above: int, below: int
) -> float:
    if precision == "fp32":
        return 0.0
    dag = Dag(scenario.reference)
    after = ",".join(dag.names_of(dag.crossing(above))) if above else ""
    until = ",".join(dag.names_of(dag.crossing(below))) if below != dag.all_ops else ""
    rows = [row for row in scenario.accuracy.drop if row.precision == precision]
    for begin, end in ((after, until), ("", "")):
        for strategy in (variant.strategy, "*"):
            for row in rows:
                if (row.after, row.until, row.strategy) == (begin, end, strategy):
                    ops = variant.workload.ops
                    share = sum(ops[op].work_flop for op in bits(below & ~above))
                    share /= variant.workload.work_flop
                    return row.drop_pp * (1.0 if (begin, end) == (after, until) else share)
    return math.inf


def hop_ways(scenario: Scenario, one: str, other: str, ops: int) -> list[_Part]:
    dag = Dag(scenario.reference)
    names = dag.names_of(dag.crossing(ops))
    elements = sum(scenario.reference.tensor[name].element_count for name in names)
    found = []
    for codec in scenario.codecs:
        ratio = codec.by_cut.get(",".join(names), codec.bytes_per_element)
        speed = {device.name: device.relative_speed for device in scenario.devices}
        encode_s = 4 * elements / codec.encode_bytes_per_s / speed[one]
        decode_s = 4 * elements / codec.decode_bytes_per_s / speed[other]
        found += over(scenario, one, other, math.ceil(elements * ratio), encode_s, decode_s,
                      codec.accuracy_drop_pp)  # fmt: skip
    return found


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
    drop_pp: float, what: str = "",
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
    return [_Part(busy, delay_s, drop_pp)]


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
    return Scenario(
        model="random", model_sha256="0" * 64, variants=variants,
        fleet=_fleet(rng, count), profiles=profiles, codecs=_codecs(rng, is_lossy),
        frames=_frames(rng, is_lossy),
        accuracy=_accuracy(rng, variants[0].workload) if is_lossy else AccuracyTable(),
    )  # fmt: skip


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
    return DeviceProfile(
        name=name, source="measured", reference="drawn", processor="p", memory="4 GB",
        runtime="drawn", memory_bandwidth=f"{rng.choice([2, 5, 20])} GB/s",
        ceiling=tuple(ceilings), launch_overhead=f"{rng.choice([0, 5, 50])} us",
        session_overhead=f"{rng.choice([0, 20, 400])} us",
        copy_bandwidth=rng.choice(["", "1 GB/s"]),
        energy=Energy(meter="drawn", idle_w=1.0, busy_w=rng.choice([2.0, 5.0, 30.0])),
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
    )  # fmt: skip
    return (raw, other) if rng.random() < 0.5 else (raw,)


def _frames(rng: random.Random, is_lossy: bool) -> tuple[FrameCost, ...]:
    jpeg = FrameCost(codec="jpeg-90", nbytes=40_000, encode_s=2e-3, decode_s=1e-3,
                     accuracy_drop_pp=0.1 if is_lossy else 0.0)  # fmt: skip
    raw = FrameCost(codec="raw", nbytes=900_000)
    return rng.choice([(), (raw,), (raw, jpeg)])


def _accuracy(rng: random.Random, workload: Workload) -> AccuracyTable:
    rows = [AccuracyDrop(strategy=rng.choice(["*", "S3"]), precision="int8", drop_pp=2.0)]
    if rng.random() < 0.5:
        cut = rng.choice(legal_cuts(workload).cuts or (None,))  # type: ignore[arg-type]
        if cut is not None:
            rows.append(AccuracyDrop(strategy="*", precision="int8", drop_pp=0.4, until=str(cut)))
    return AccuracyTable(drop=tuple(rows))
