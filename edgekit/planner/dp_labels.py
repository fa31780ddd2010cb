"""Paths through devices that are best in several sums at once: latency, accuracy loss, energy.

In:  Ports and the sums that matter.  Out: every path that no other beats in all of them, under a
cap on every processor and link.
Pure; exact. The dynamic program of ``dp``, but each (entry, port) keeps all its undominated labels
instead of one value. Slower; used only where something loses accuracy, or energy is asked for.
Source: Martins, "On a multicriteria shortest path problem", EJOR 16(2), 1984.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from edgekit.errors import PlanError
from edgekit.planner.cost_table import Option
from edgekit.planner.dp import Used
from edgekit.planner.ports import Hop, Leg, Ports, waits_s
from edgekit.spec.tensors import Array

Sum = Literal["latency", "drop", "energy"]
_MAX_LABELS = 3_000_000
_ROUNDING = 1e-12
_PRUNED_BY = 8
"""Whole models that every new label is compared with at once; the rest comes later."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Undominated ways to one (set of devices, last kind); arrays of one length."""

    entry: Array
    port: Array
    """The number of ports stands for the model's end."""
    sums: Array
    """Shape (labels, criteria)."""
    option: Array
    """Of the last shard."""
    last: Array
    """Kind of the device before; -1 for none."""
    parent: Array
    """Position among the labels of the device before."""

    def taken(self, chosen: Array) -> "Labels":
        """Those at ``chosen`` (positions, or a mask)."""
        return Labels(
            self.entry[chosen],
            self.port[chosen],
            self.sums[chosen],
            self.option[chosen],
            self.last[chosen],
            self.parent[chosen],
        )


@dataclass(frozen=True, slots=True)
class LabelPath:
    """One undominated way through the devices."""

    sums: tuple[float, ...]
    entry: int
    legs: tuple[Leg, ...]


class LabelSearch:
    """Runs on one problem; ``sums`` names what is to be small, all of it at once."""

    def __init__(self, ports: Ports, sums: tuple[Sum, ...], *, least_devices: int = 1) -> None:
        self.ports, self.sums, self._least_devices = ports, sums, least_devices
        self.kinds = range(len(ports.members))
        self._end = len(ports.nodes)
        self._nodes = np.append(ports.nodes, ports.table.node_count - 1)
        goal = ports.goal
        limits = {
            "drop": goal.max_accuracy_drop_pp + _ROUNDING,
            "latency": goal.max_latency_s or math.inf,
            "energy": math.inf,
        }
        self._limits = np.array([limits[one] for one in sums])
        profiles = ports.table.scenario.profiles
        energies = [profiles[name].energy for name in ports.names]
        self._watts = [math.inf if one is None else one.busy_w for one in energies]
        self._reached: dict[tuple[Used, int], Labels] = {}
        self._done = np.empty((0, len(sums)))
        self._found: list[LabelPath] = []

    def paths(self, cap_s: float = math.inf) -> list[LabelPath]:
        """All undominated paths of which nothing is busy for longer than ``cap_s`` per frame.

        Raises: PlanError if there are too many to keep.
        """
        self._cap_s = cap_s * (1 + _ROUNDING)
        self._reached, self._found = {}, []
        self._done = np.empty((0, len(self.sums)))
        for kind in self.kinds:
            self._keep(tuple(int(one == kind) for one in self.kinds), kind, self._entering(kind))
        layer = list(dict.fromkeys(used for used, _ in self._reached))
        while layer:
            grown: dict[Used, None] = {}
            for used in layer:
                for kind in self.kinds:
                    if used[kind] < self.ports.counts[kind]:
                        wider = tuple(c + (one == kind) for one, c in enumerate(used))
                        if self._keep(wider, kind, self._added(used, kind)):
                            grown[wider] = None
            layer = list(grown)
        order = np.lexsort(self._done.T[::-1])
        return [self._found[at] for at in order]

    # -- moves -------------------------------------------------------------------------------
    def _row(self, busy_s: Array, delay_s: float, drop_pp: Array, energy_j: Array) -> Array:
        """What a move adds to each sum; a criterion along a new last axis."""
        wait = waits_s(busy_s, self.ports.goal.arrival_fps)
        added = {"latency": busy_s + wait + delay_s, "drop": drop_pp, "energy": energy_j}
        result = np.stack([np.broadcast_to(added[one], busy_s.shape) for one in self.sums], axis=-1)
        result[~(busy_s <= self._cap_s)] = np.inf
        return result

    def _hop(self, hop: Hop) -> Array:
        zero = np.zeros_like(hop.busy_s)
        return self._row(hop.busy_s, hop.delay_s, zero, zero)

    def _shard(self, kind: int, option: Option, begin: Array, coming_s: Array) -> Array:
        """Sums of shards from nodes ``begin`` to every port and the end, (begins, ends, sums).

        ``coming_s``: what decoding takes.
        """
        ports = self.ports
        going_s = np.append(ports.encode_s[kind], 0.0)
        time_s = np.where(option.is_allowed, option.time_s, np.inf)[np.ix_(begin, self._nodes)]
        time_s[:, ~np.append(ports.ends(option), True)] = np.inf
        busy_s = coming_s[:, None] + time_s + going_s[None, :]
        drop_pp = option.drop_pp[np.ix_(begin, self._nodes)]
        drop_pp = drop_pp + np.append(ports.port_drop_pp, 0.0)[None, :]
        with np.errstate(invalid="ignore"):
            result = self._row(busy_s, 0.0, drop_pp, busy_s * self._watts[kind])
        return np.nan_to_num(result, nan=np.inf, posinf=np.inf)

    def _entering(self, kind: int) -> list[Labels]:
        ports, found = self.ports, []
        if kind == ports.source:
            entries, way = np.array([0]), np.zeros((1, len(self.sums)))
            coming_s = np.zeros(1)
        else:
            hop = ports.entry_hop(kind)
            if hop is None or not ports.frames:
                return []
            entries = np.arange(1, len(ports.frames) + 1)
            encode_s, coming_s = ports.entry_encode_s[1:], ports.entry_decode_s(kind)
            zero = np.zeros_like(encode_s)
            way = self._hop(hop) + self._row(encode_s, 0.0, ports.entry_drop_pp[1:], zero)
        for index, option in enumerate(ports.options[kind]):
            begin = np.zeros(len(entries), int)
            sums = self._shard(kind, option, begin, coming_s)
            sums = sums + way[:, None, :]
            found.append(self._flat(entries, sums, index, -1, np.zeros(len(entries), int)))
        return found

    def _added(self, used: Used, kind: int) -> list[Labels]:
        ports, found = self.ports, []
        if kind == ports.source:  # it forwards frames, or runs the start: one place for a device
            return []
        for last in self.kinds:
            labels = self._reached.get((used, last))
            if labels is None or (last == kind and ports.counts[kind] < 2):
                continue
            hop = ports.hop(last, kind)
            if hop is None:
                continue
            arriving = labels.sums + self._hop(hop)[labels.port]
            fits = (arriving <= self._limits).all(axis=1) & ~_beaten(arriving, self._done)
            alive = np.flatnonzero(fits)
            for index, option in enumerate(ports.options[kind]):
                chosen = alive[ports.begins(option)[labels.port[alive]]]
                port = labels.port[chosen]
                sums = self._shard(kind, option, ports.nodes[port], ports.decode_s[kind][port])
                sums += arriving[chosen][:, None, :]
                found.append(self._flat(labels.entry[chosen], sums, index, last, chosen))
        return found

    def _flat(self, entry: Array, sums: Array, option: int, last: int, parent: Array) -> Labels:
        fits = (sums <= self._limits).all(axis=2) & np.isfinite(sums).all(axis=2)
        for known in self._done[:_PRUNED_BY]:
            fits &= ~(known <= sums).all(axis=2)
        rows, ports = np.nonzero(fits)
        count = len(rows)
        return Labels(
            entry[rows],
            ports,
            sums[rows, ports],
            np.full(count, option),
            np.full(count, last),
            parent[rows],
        )

    # -- keeping -----------------------------------------------------------------------------
    def _keep(self, used: Used, kind: int, found: list[Labels]) -> bool:
        """Keep what is undominated. Returns: whether there is anything to go on with."""
        if not found:
            return False
        merged = Labels(
            *(np.concatenate([getattr(one, name) for one in found]) for name in Labels.__slots__)
        )
        group = merged.entry * (self._end + 1) + merged.port
        merged = merged.taken(undominated(group, merged.sums))
        self._complete(used, kind, merged)
        is_open = (merged.port < self._end) & ~_beaten(merged.sums, self._done)
        if not is_open.any():
            return False
        self._reached[used, kind] = merged.taken(is_open)
        if sum(len(one.port) for one in self._reached.values()) > _MAX_LABELS:
            raise PlanError(
                "too many combinations of accuracy and time to search exactly",
                hint="plan with fewer cuts (max_cuts), fewer codecs, or a smaller accuracy limit",
            )
        return True

    def _complete(self, used: Used, kind: int, labels: Labels) -> None:
        hop = self.ports.exit_hop(kind)
        ends = np.flatnonzero(labels.port == self._end)
        if hop is None or not len(ends) or sum(used) < self._least_devices:
            return
        sums = labels.sums[ends] + self._hop(hop)
        fits = (sums <= self._limits).all(axis=1) & np.isfinite(sums).all(axis=1)
        for at, row in zip(ends[fits], sums[fits], strict=True):
            if _beaten(row[None, :], self._done)[0]:
                continue
            stays = ~(row <= self._done).all(axis=1)
            self._done = np.vstack([self._done[stays], row])
            self._found = [one for one, keep in zip(self._found, stays, strict=True) if keep]
            self._found.append(self._path(used, kind, labels, int(at), row))

    def _path(self, used: Used, kind: int, labels: Labels, at: int, sums: Array) -> LabelPath:
        """The way back from the label ``at`` of a whole model."""
        entry, legs = int(labels.entry[at]), []
        while True:
            port = int(labels.port[at])
            legs.append(Leg(kind, int(labels.option[at]), port if port < self._end else None))
            last, parent = int(labels.last[at]), int(labels.parent[at])
            if last < 0:
                break
            used = tuple(count - (one == kind) for one, count in enumerate(used))
            labels, kind, at = self._reached[used, last], last, parent
        return LabelPath(tuple(float(one) for one in sums), entry, tuple(legs[::-1]))


def undominated(group: Array, sums: Array) -> Array:
    """Positions of rows that no other row of the same group beats (or, coming first, equals).

    Shapes: group (n,), sums (n, criteria). Returns: positions, sorted by group and first sum.
    """
    order: Array = np.lexsort((*sums.T[::-1], group))
    group, sums = group[order], sums[order]
    if not len(order):
        return order
    is_first = np.append(True, group[1:] != group[:-1])
    if sums.shape[1] == 1:
        first: Array = order[is_first]
        return first
    if sums.shape[1] == 2:
        # Ranks are finite, so shifting each group below the one before restarts the running least.
        rank = np.unique(sums[:, 1], return_inverse=True)[1].reshape(-1)
        shifted = rank - (np.cumsum(is_first) * (len(order) + 1))
        least = np.minimum.accumulate(shifted)
        lower: Array = order[is_first | np.append(True, shifted[1:] < least[:-1])]
        return lower
    kept: list[int] = []
    starts = [*np.flatnonzero(is_first), len(order)]
    for begin, end in pairwise(starts):
        best = np.empty((0, sums.shape[1]))
        for at in range(begin, end):
            if not _beaten(sums[at : at + 1], best)[0]:
                best = np.vstack([best, sums[at]])
                kept.append(at)
    result: Array = order[kept]
    return result


def _beaten(rows: Array, others: Array) -> Array:
    """Which rows some other row beats or equals in every column."""
    result = np.zeros(len(rows), bool)
    for other in others:
        result |= (other <= rows).all(axis=1)
    return result
