"""The search space as arrays: devices, ways to enter, ports between them, and what all that costs.

In:  a CostTable and a Goal.  Out: Ports.  Pure.
A port is a cut with the codec under which it is sent, and the sort of crossing: shards of floats or
of integers on either side (``crossings``). An entry is how frames reach the first device: entry 0
is being the source itself, the others are frame codecs. Devices that differ in nothing but their
names are one kind, of which there are several: that is exact, and saves much.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.planner.cost_table import CostTable, Option
from edgekit.planner.crossings import BEGINS, ENDS, FLOATS, SORTS_OF_INTEGERS
from edgekit.planner.pricing import Step
from edgekit.spec.planning import CodecCost, FrameCost, Goal
from edgekit.spec.tensors import Array


@dataclass(frozen=True, slots=True)
class Hop:
    """Seconds per port (or per entry), infinite without a link: the link is busy, and a delay."""

    busy_s: Array
    delay_s: float


@dataclass(frozen=True, slots=True)
class Leg:
    """One shard of a path: which kind of device runs it, under which option, until which port."""

    kind: int
    option: int
    port: int | None
    """None for the model's end."""


class Ports:
    """What a path through the devices can be made of. Kinds, ports and entries are numbers."""

    def __init__(self, table: CostTable, goal: Goal) -> None:
        self.table, self.goal = table, goal
        runners = [name for name, options in table.options.items() if options]
        self.members = _kinds(table, runners)
        """Per kind, the names of its devices."""
        self.names = [members[0] for members in self.members]
        self.counts = tuple(len(members) for members in self.members)
        source = table.scenario.fleet.source_name
        self.source = self.names.index(source) if source in self.names else None
        limit = goal.max_accuracy_drop_pp
        self.frames = _useful_frames(table.scenario.frame_costs, limit)
        self.options = [self._admissible(name) for name in self.names]
        has_integers = any(one.precision == "int8" for some in self.options for one in some)
        self.codecs, self.nodes, self.sorts = _useful_codecs(table, limit, has_integers)
        self.encode_s = np.array([self._per_port(name, "encode") for name in self.names])
        self.decode_s = np.array([self._per_port(name, "decode") for name in self.names])
        self.nbytes = self._per_codec(table.codec_bytes)
        self.port_drop_pp = self._per_codec(lambda codec, _: table.codec_drop_pp(codec))
        self.entry_drop_pp = np.array([0.0, *(one.accuracy_drop_pp for one in self.frames)])
        speed = table.speed(source)
        self.entry_encode_s = np.array([0.0, *(one.encode_s / speed for one in self.frames)])

    @property
    def is_lossless(self) -> bool:
        """Whether no admissible option loses accuracy."""
        parts = [self.port_drop_pp, self.entry_drop_pp]
        parts += [one.drop_pp[one.is_allowed] for options in self.options for one in options]
        return not any(part.any() for part in parts)

    def _admissible(self, name: str) -> list[Option]:
        """Options that may lie within the accuracy limit somewhere."""
        limit = self.goal.max_accuracy_drop_pp
        return [
            one for one in self.table.options[name] if (one.drop_pp[one.is_allowed] <= limit).any()
        ]

    def _per_port(self, name: str, way: str) -> Array:
        timed = self.table.encode_s if way == "encode" else self.table.decode_s
        return self._per_codec(lambda codec, sort: timed(codec, name, sort))

    def _per_codec(self, figure: Callable[[CodecCost, int], Array]) -> Array:
        """Per port, from a figure of each codec and sort of crossing for every cut."""
        known: dict[tuple[str, int], Array] = {}
        found = []
        for codec, node, sort in zip(self.codecs, self.nodes, self.sorts, strict=True):
            key = (codec.name, int(sort))
            if key not in known:
                known[key] = figure(codec, int(sort))
            found.append(known[key][node - 1])
        return np.array(found, float)

    def begins(self, option: Option) -> Array:
        """Ports at which a shard under ``option`` may begin."""
        return np.isin(self.sorts, BEGINS[option.precision == "int8"])

    def ends(self, option: Option) -> Array:
        """Ports at which a shard under ``option`` may end."""
        return np.isin(self.sorts, ENDS[option.precision == "int8"])

    # -- costs -------------------------------------------------------------------------------
    def hop(self, one: int, other: int) -> Hop | None:
        """Activations from a device of kind ``one`` to (another) one of kind ``other``."""
        sender = self.members[one][0]
        receiver = self.members[other][1 if one == other else 0]
        wire = self.table.scenario.wire(sender, receiver)
        return Hop(self.nbytes / wire.bytes_per_s, wire.delay_s) if wire else None

    def entry_hop(self, kind: int) -> Hop | None:
        """Frames from the source to a device of ``kind``, per entry from 1 on."""
        wire = self.table.scenario.wire(
            self.table.scenario.fleet.source_name, self.members[kind][0]
        )
        sizes = np.array([float(frame.nbytes) for frame in self.frames])
        return Hop(sizes / wire.bytes_per_s, wire.delay_s) if wire else None

    def entry_decode_s(self, kind: int) -> Array:
        """Per entry from 1 on, what decoding the frame takes on a device of ``kind``."""
        speed = self.table.speed(self.names[kind])
        return np.array([frame.decode_s / speed for frame in self.frames])

    def exit_hop(self, kind: int) -> Hop | None:
        """Answers from a device of ``kind`` to where they are wanted."""
        sink = self.table.scenario.fleet.sink
        if not sink or sink == self.names[kind]:
            return Hop(np.zeros(1), 0.0)
        wire = self.table.scenario.wire(self.names[kind], sink)
        size = float(self.table.scenario.answer_bytes)
        return Hop(np.array([size / wire.bytes_per_s]), wire.delay_s) if wire else None

    # -- back to names -----------------------------------------------------------------------
    def steps(self, legs: Sequence[Leg], used: Sequence[str] = ()) -> list[Step]:
        """A path with the names of real devices, none of those in ``used``."""
        taken, steps = set(used), []
        for leg in legs:
            device = next(name for name in self.members[leg.kind] if name not in taken)
            taken.add(device)
            option = self.options[leg.kind][leg.option]
            steps.append(
                Step(
                    device=device,
                    until=None if leg.port is None else int(self.nodes[leg.port]) - 1,
                    strategy=option.strategy,
                    precision=option.precision,
                    codec=None if leg.port is None else self.codecs[leg.port].name,
                )
            )
        return steps

    def frame_codec(self, entry: int) -> str | None:
        """The name of an entry's codec; None for the source itself."""
        return self.frames[entry - 1].codec if entry else None


def _kinds(table: CostTable, names: Sequence[str]) -> list[list[str]]:
    """Names of devices that only differ in name, together; in the order of the fleet."""
    kinds: list[list[str]] = []
    for name in names:
        for kind in kinds:
            if all(_are_alike(table, name, other, names) for other in kind):
                kind.append(name)
                break
        else:
            kinds.append([name])
    return kinds


def _are_alike(table: CostTable, one: str, other: str, names: Sequence[str]) -> bool:
    scenario = table.scenario
    if {one, other} & {scenario.fleet.source_name, scenario.fleet.sink}:
        return False
    if _traits(table, one) != _traits(table, other):
        return False
    rest = {scenario.fleet.source_name, scenario.fleet.sink, *names} - {one, other, ""}
    return scenario.wire(one, other) == scenario.wire(other, one) and all(
        scenario.wire(one, third) == scenario.wire(other, third)
        and scenario.wire(third, one) == scenario.wire(third, other)
        for third in rest
    )


def _traits(table: CostTable, name: str) -> tuple[object, ...]:
    device, scenario = table.device[name], table.scenario
    measured = {key[1:]: time_s for key, time_s in scenario.measured.items() if key[0] == name}
    return (
        scenario.profiles[name],
        device.provider,
        table.memory_limit_bytes(name),
        device.max_params,
        device.max_macs,
        device.max_ms,
        device.relative_speed,
        measured,
        {key[1]: factor for key, factor in scenario.slower.items() if key[0] == name},
    )


def _useful_frames(frames: Sequence[FrameCost], limit_pp: float) -> list[FrameCost]:
    """Those within the limit that no other beats or equals in everything."""
    within = [one for one in frames if one.accuracy_drop_pp <= limit_pp]
    rows = [(one.nbytes, one.encode_s, one.decode_s, one.accuracy_drop_pp) for one in within]
    return [within[index] for index in _undominated(rows)]


def _useful_codecs(
    table: CostTable, limit_pp: float, has_integers: bool
) -> tuple[list[CodecCost], Array, Array]:
    """Ports: codec, node and sort of each, in the order of nodes."""
    found: list[tuple[CodecCost, int, int]] = []
    scenario = table.scenario
    figures = {FLOATS: _Figures(table, scenario.float_codecs, FLOATS)}
    if has_integers:
        integers = scenario.integer_codecs
        figures |= {sort: _Figures(table, integers, sort) for sort in SORTS_OF_INTEGERS}
    for cut in range(len(table.cuts)):
        for sort, known in figures.items():
            if sort == FLOATS or table.integer_node[cut + 1]:
                found += [(one, cut + 1, sort) for one in known.useful(cut, limit_pp)]
    nodes = np.array([node for _, node, _ in found], int)
    return [codec for codec, _, _ in found], nodes, np.array([sort for *_, sort in found], int)


class _Figures:
    """What some codecs cost at every cut, in crossings of one sort."""

    def __init__(self, table: CostTable, codecs: Sequence[CodecCost], sort: int) -> None:
        self._codecs = codecs
        self._sizes = [table.codec_bytes(codec, sort) for codec in codecs]
        self._drops = [table.codec_drop_pp(codec) for codec in codecs]

    def useful(self, cut: int, limit_pp: float) -> list[CodecCost]:
        """Those within the limit that no other beats in everything."""
        figures = zip(self._codecs, self._sizes, self._drops, strict=True)
        within = [one for one in figures if one[2][cut] <= limit_pp]
        rows = [
            (float(size[cut]), 1 / one.encode_bytes_per_s, 1 / one.decode_bytes_per_s, drop[cut])
            for one, size, drop in within
        ]
        return [within[index][0] for index in _undominated(rows)]


def _undominated(rows: Sequence[tuple[float, ...]]) -> list[int]:
    """Positions of rows that no other row beats or (coming first) equals in every column."""
    kept = []
    for index, row in enumerate(rows):
        beaten = any(
            all(a <= b for a, b in zip(other, row, strict=True)) and (other != row or at < index)
            for at, other in enumerate(rows)
            if at != index
        )
        if not beaten:
            kept.append(index)
    return kept


def waits_s(busy_s: Array, arrival_fps: float | None) -> Array:
    """As ``pricing.wait_s``, for arrays."""
    if arrival_fps is None:
        return np.zeros_like(busy_s)
    load = busy_s * arrival_fps
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = np.where(load < 1, load * busy_s / (2 * (1 - load)), math.inf)
    return result
