"""Shortest and least-bottleneck paths through devices, where nothing loses accuracy.

In:  Ports.  Out: the best path for every set of devices, under a cap on every processor and link.
Pure; exact. A dynamic program over (set of devices used, last device, port): values are arrays over
(entry, port), and adding a device is one product of a vector and a matrix in which times are added
and the least is kept (or, for the bottleneck, the larger is kept of two). A set of devices counts
how many of each kind are in it. Paths that are already no better than a complete one are dropped.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from edgekit.errors import PlanError
from edgekit.planner.cost_table import Option
from edgekit.planner.ports import Hop, Leg, Ports, waits_s
from edgekit.spec.tensors import Array

Mode = Literal["sum", "max"]
MODES: tuple[Mode, ...] = ("max", "sum")
Used = tuple[int, ...]
"""How many devices of each kind."""
_CHUNK = 1 << 20
_ROUNDING = 1e-12
_STEPS_PER_SET = 5e4
"""What a set of devices costs besides."""
_MAX_STEPS = 25e9
"""Elementary steps of one run beyond which it would take minutes."""


@dataclass(frozen=True, slots=True)
class Path:
    """One way through the devices."""

    value: float
    """Seconds: the sum, or the largest."""
    entry: int
    legs: tuple[Leg, ...]


@dataclass
class Run:
    """What one run found."""

    mode: Mode
    costs: "_Costs"
    reached: dict[tuple[Used, int], Array] = field(default_factory=dict)
    """Per set of devices and last kind: value after that shard, shape (entries, ports)."""
    done: dict[tuple[Used, int], Array] = field(default_factory=dict)
    """The same for whole models, shape (entries,)."""

    @property
    def best(self) -> tuple[Used, int] | None:
        """Where the least value is; the first of equals, so fewer devices before more."""
        found = min(self.done, key=lambda state: self.done[state].min(), default=None)
        return None if found is None or not math.isfinite(self.done[found].min()) else found


@dataclass(frozen=True)
class _Costs:
    """Values of single moves under one cap: matrices over ports, infinite where not allowed."""

    enter: list[Array]
    """Per kind: (entries, ports + 1); the last column is the model's end."""
    stay: list[Array]
    """Per kind: (ports, ports + 1)."""
    hops: dict[tuple[int, int], Array]
    exits: list[float]


@dataclass(frozen=True, slots=True)
class _Pricer:
    """Value of what keeps a processor or a link busy; infinite beyond the limit."""

    mode: Mode
    limit_s: float
    arrival_fps: float | None

    def fold(self, one: Array, other: Array | float) -> Array:
        """Of two parts of a path."""
        result: Array = (np.maximum if self.mode == "max" else np.add)(one, other)
        return result

    def alone(self, busy_s: Array, delay_s: float = 0.0) -> Array:
        """What nothing else on the path uses."""
        value = busy_s
        if self.mode == "sum":
            value = busy_s + waits_s(busy_s, self.arrival_fps) + delay_s
        return np.where(busy_s <= self.limit_s, value, np.inf)


class DenseSearch:
    """Runs on one problem, one run per cap and mode."""

    def __init__(self, ports: Ports, *, least_devices: int = 1) -> None:
        self.ports, self._least_devices = ports, least_devices
        self.kinds = range(len(ports.members))
        self._entries = len(ports.frames) + 1
        states = math.prod(count + 1 for count in ports.counts)
        port_count = len(ports.nodes)
        each = self._entries * port_count**2 + _STEPS_PER_SET
        self.steps = 0.5 * states * len(self.kinds) * each
        """Elementary steps of one run without any pruning."""
        if self.steps > _MAX_STEPS:
            raise PlanError(
                f"{sum(ports.counts)} devices of {len(self.kinds)} kinds and {port_count} places "
                "to cut are too many to search exactly",
                hint="leave devices out of the fleet file, or plan with fewer cuts (max_cuts)",
            )

    # -- costs -------------------------------------------------------------------------------
    @cached_property
    def fastest(self) -> list[tuple[Array, Array]]:
        """Per kind: seconds of each shard under its fastest admissible option, and which that is.

        Shape (1 + ports, ports + 1) each: from the start or a port, to a port or the end.
        """
        found = []
        count = len(self.ports.nodes) + 1
        for options in self.ports.options:
            least, which = np.full((count, count), np.inf), np.zeros((count, count), np.int16)
            for index, option in enumerate(options):
                limit = self.ports.goal.max_accuracy_drop_pp
                time_s = self._over_ports(option, option.is_allowed & (option.drop_pp <= limit))
                is_less = time_s < least
                least[is_less], which[is_less] = time_s[is_less], index
            found.append((least, which))
        return found

    def _over_ports(self, option: Option, is_allowed: Array) -> Array:
        """Seconds of shards under ``option``, shape (1 + ports, ports + 1)."""
        ports = self.ports
        begins, ends = [0, *ports.nodes], [*ports.nodes, ports.table.node_count - 1]
        may_begin = np.append(True, ports.begins(option))
        may_end = np.append(ports.ends(option), True)
        time_s = np.where(is_allowed, option.time_s, np.inf)[np.ix_(begins, ends)]
        result: Array = np.where(may_begin[:, None] & may_end[None, :], time_s, np.inf)
        return result

    @cached_property
    def _busy(self) -> tuple[list[Array], list[Array]]:
        """Per kind: how long a shard keeps its device busy, from an entry and from a port."""
        pairs = [self._busy_with(kind, self.fastest[kind][0]) for kind in self.kinds]
        return [enter for enter, _ in pairs], [stay for _, stay in pairs]

    def _busy_with(self, kind: int, time_s: Array) -> tuple[Array, Array]:
        """Shapes (entries, ports + 1) and (ports, ports + 1); ``time_s`` as in ``fastest``."""
        ports = self.ports
        coded_s = np.append(ports.encode_s[kind], 0.0)
        enter = np.full((self._entries, len(coded_s)), np.inf)
        if kind == ports.source:
            enter[0] = time_s[0] + coded_s
        else:
            decode_s = ports.entry_decode_s(kind)
            enter[1:] = decode_s[:, None] + time_s[0][None, :] + coded_s[None, :]
        return enter, ports.decode_s[kind][:, None] + time_s[1:] + coded_s[None, :]

    def busy_values(self) -> Array:
        """Every time that a processor or link could be busy, sorted: all possible intervals."""
        ports, parts = self.ports, [self.ports.entry_encode_s]
        for kind in self.kinds:
            times = [self.fastest[kind][0]]
            if not ports.is_lossless:
                times = [self._over_ports(one, one.is_allowed) for one in ports.options[kind]]
            for time_s in times:
                enter, stay = self._busy_with(kind, time_s)
                parts += [enter.ravel(), stay.ravel()]
            hops = [self._hop(kind, other) for other in self.kinds]
            hops += [ports.entry_hop(kind), ports.exit_hop(kind)]
            parts += [hop.busy_s for hop in hops if hop is not None]
        values: Array = np.unique(np.concatenate(parts))
        finite: Array = values[np.isfinite(values)]
        return finite

    def _hop(self, one: int, other: int) -> Hop | None:
        if one == other and self.ports.counts[one] < 2:
            return None
        return self.ports.hop(one, other)

    def _costs(self, mode: Mode, cap_s: float) -> _Costs:
        ports, (enter, stay) = self.ports, self._busy
        pricer = _Pricer(mode, cap_s * (1 + _ROUNDING), ports.goal.arrival_fps)
        encode_s = ports.entry_encode_s
        entering = []
        for kind in self.kinds:
            first = pricer.alone(enter[kind])
            hop = ports.entry_hop(kind) if kind != ports.source else None
            if hop is not None:
                sent = pricer.alone(hop.busy_s, hop.delay_s)
                way = pricer.fold(sent, pricer.alone(encode_s[1:]))
                first[1:] = pricer.fold(first[1:], way[:, None])
            else:
                first[1:] = np.inf
            entering.append(first)
        staying = [
            # A device has one place in a pipeline: the source forwards frames, or runs its start.
            np.full_like(stay[kind], np.inf) if kind == ports.source else pricer.alone(stay[kind])
            for kind in self.kinds
        ]
        hops = {
            (one, other): pricer.alone(hop.busy_s, hop.delay_s)
            for one, other in itertools.product(self.kinds, repeat=2)
            if (hop := self._hop(one, other)) is not None
        }
        exits = [ports.exit_hop(kind) for kind in self.kinds]
        leaving = [
            math.inf if hop is None else float(pricer.alone(hop.busy_s, hop.delay_s)[0])
            for hop in exits
        ]
        return _Costs(enter=entering, stay=staying, hops=hops, exits=leaving)

    # -- the dynamic program -----------------------------------------------------------------
    def run(
        self,
        mode: Mode,
        cap_s: float = math.inf,
        *,
        every_set: bool = False,
        most_devices: int | None = None,
    ) -> Run:
        """The best value of every set of devices that could still matter.

        ``every_set``: a set matters unless a part of it does as well; else, unless any set does.
        """
        most = sum(self.ports.counts) if most_devices is None else most_devices
        costs = self._costs(mode, cap_s)
        run = Run(mode, costs)
        keep = _Keep(run, every_set)
        for kind in self.kinds:
            used = tuple(int(one == kind) for one in self.kinds)
            self._store(run, keep, used, kind, costs.enter[kind], costs)
        layer = [used for used, _ in run.reached]
        for _ in range(most - 1):
            grown: dict[int, list[Used]] = defaultdict(list)
            for used in dict.fromkeys(layer):
                for kind in self.kinds:
                    if used[kind] < self.ports.counts[kind]:
                        grown[kind].append(used)
            layer = []
            for kind, sets in grown.items():
                layer += self._add(run, keep, kind, sets, costs)
        return run

    def _add(
        self, run: Run, keep: "_Keep", kind: int, sets: list[Used], costs: _Costs
    ) -> list[Used]:
        """Add a device of ``kind`` to each of ``sets``. Returns: the sets made."""
        arriving = [self._arriving(run, used, kind, costs) for used in sets]
        pairs = [(u, a) for u, a in zip(sets, arriving, strict=True) if np.isfinite(a).any()]
        if not pairs:
            return []
        stacked = np.stack([a for _, a in pairs])
        flat = stacked.reshape(-1, stacked.shape[-1])
        values = _product(flat, costs.stay[kind], run.mode).reshape(*stacked.shape[:2], -1)
        made = []
        for (used, _), value in zip(pairs, values, strict=True):
            wider = tuple(count + (one == kind) for one, count in enumerate(used))
            if self._store(run, keep, wider, kind, value, costs):
                made.append(wider)
        return made

    def _arriving(self, run: Run, used: Used, kind: int, costs: _Costs) -> Array:
        """Best value of what arrives at a device of ``kind`` from any last device of ``used``."""
        fold = np.maximum if run.mode == "max" else np.add
        found = [
            fold(run.reached[used, last], costs.hops[last, kind][None, :])
            for last in self.kinds
            if (used, last) in run.reached and (last, kind) in costs.hops
        ]
        if not found:
            return np.full((self._entries, len(self.ports.nodes)), np.inf)
        result: Array = np.minimum.reduce(found)
        return result

    def _store(
        self, run: Run, keep: "_Keep", used: Used, kind: int, value: Array, costs: _Costs
    ) -> bool:
        fold = np.maximum if run.mode == "max" else np.add
        done: Array = fold(value[:, -1], costs.exits[kind])
        if np.isfinite(done).any() and sum(used) >= self._least_devices:
            run.done[used, kind] = done
            keep.complete(used, float(done.min()))
        open_ends = np.where(value[:, :-1] < keep.limit(used), value[:, :-1], np.inf)
        if not np.isfinite(open_ends).any():
            return False
        run.reached[used, kind] = open_ends
        return True

    # -- the way back ------------------------------------------------------------------------
    def path(self, run: Run, state: tuple[Used, int], entry: int | None = None) -> Path:
        """How the value of a whole model at ``state`` is reached."""
        costs, (used, kind), done = run.costs, state, run.done[state]
        at = int(done.argmin()) if entry is None else entry
        legs: list[Leg] = []
        column = len(self.ports.nodes)
        while sum(used) > 1:
            before = tuple(count - (one == kind) for one, count in enumerate(used))
            matrix = costs.stay[kind]
            fold = np.maximum if run.mode == "max" else np.add
            arriving = self._arriving(run, before, kind, costs)[at]
            port = int(fold(arriving, matrix[:, column]).argmin())
            legs.append(self._leg(kind, port, column))
            options = {
                last: fold(run.reached[before, last][at, port], costs.hops[last, kind][port])
                for last in self.kinds
                if (before, last) in run.reached and (last, kind) in costs.hops
            }
            used, kind, column = before, min(options, key=lambda one: options[one]), port
        legs.append(self._leg(kind, None, column))
        return Path(value=float(done[at]), entry=at, legs=tuple(legs[::-1]))

    def _leg(self, kind: int, after: int | None, until: int) -> Leg:
        begin = 0 if after is None else after + 1
        option = int(self.fastest[kind][1][begin, until])
        return Leg(kind, option, until if until < len(self.ports.nodes) else None)


@dataclass
class _Keep:
    """Below which value an open path is worth going on with."""

    run: Run
    every_set: bool
    best: float = math.inf
    by_set: dict[Used, float] = field(default_factory=dict)

    def complete(self, used: Used, value: float) -> None:
        """A whole model can be run by ``used``."""
        self.best = min(self.best, value)
        self.by_set[used] = min(value, self.by_set.get(used, math.inf))

    def limit(self, used: Used) -> float:
        """Values at or above it cannot lead to anything better."""
        if not self.every_set:
            return self.best
        known = self.by_set.get(used, math.inf)
        for kind, count in enumerate(used):
            if count:
                fewer = tuple(c - (one == kind) for one, c in enumerate(used))
                known = min(known, self.by_set.get(fewer, math.inf))
        self.by_set[used] = known
        return known


def _product(values: Array, matrix: Array, mode: Mode) -> Array:
    """Least over p of values[r, p] and matrix[p, q], added or the larger of them: shape (r, q)."""
    fold: Callable[..., Array] = np.maximum if mode == "max" else np.add
    rows, inner = values.shape
    result = np.full((rows, matrix.shape[1]), np.inf)
    if rows * matrix.size <= _CHUNK:
        if inner:
            result = fold(values[:, :, None], matrix[None]).min(axis=1)
        return result
    for port in _live(values):
        column = values[:, port]
        begin = int(np.isfinite(matrix[port]).argmax())
        part = result[:, begin:]
        np.minimum(part, fold(column[:, None], matrix[port, begin:][None, :]), out=part)
    return result


def _live(values: Array) -> Iterable[int]:
    return (int(port) for port in np.flatnonzero(np.isfinite(values).any(axis=0)))
