"""Frames dealt out over devices, or over pipelines of disjoint devices.

In:  an Engine.  Out: farms as Candidates.  Pure.
Members are, for every set of devices and every way for frames to get there, the pipeline of least
interval and the one of least latency. With few devices every way to form a farm of them
is looked at. With many, members are of few devices, and only the farms of the largest sum of rates
are looked at (that sum is found for several prices of what the source does for its members), and
those of the quickest single devices.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.planner.dp import MODES, Run, Used
from edgekit.planner.engine import Engine
from edgekit.planner.ports import Leg
from edgekit.planner.pricing import load_of, price_farm
from edgekit.spec.planning import Candidate
from edgekit.spec.tensors import Array

_MAX_FARMS = 3000
_MAX_SETS = 400
_SENDING_PRICES = (0.0, 0.25, 0.5, 0.75, 0.9)
"""How much of a member's worth sending at the source's full capacity takes away."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A possible member: which devices (how many of each kind) it takes, and how it runs."""

    used: Used
    entry: int
    legs: tuple[Leg, ...]
    candidate: Candidate

    def criteria(self, engine: Engine) -> tuple[float, ...]:
        """What a farm is made of; less is better in each."""
        one, load = self.candidate, load_of(engine.table, self.candidate)
        energy_j = math.inf if one.energy_j is None else one.energy_j
        seconds = (load.interval_s, one.latency.time_s, load.source_s, load.sending_s)
        return (*seconds, energy_j, float(one.link_bytes))


def all_farms(engine: Engine) -> tuple[list[Candidate], bool]:
    """Farms, and whether every one that the members can form is among them."""
    if sum(engine.ports.counts) < 2:
        return [], True
    most = _most_devices(engine.ports.counts)
    combined, is_complete = _combined(engine, _parts(engine, most))
    priced = [
        price_farm(engine.table, engine.goal, _named(engine, members))
        for members in combined
        if len(members) > 1
    ]
    is_complete = is_complete and most == sum(engine.ports.counts)
    return [farm for farm in priced if farm.members], is_complete


def _most_devices(room: Used) -> int:
    """The most devices of one member, so that there are at most ``_MAX_SETS`` sets of them."""
    sizes = np.array([1])
    for count in room:
        sizes = np.convolve(sizes, np.ones(count + 1, int))
    return max(1, int(np.searchsorted(np.cumsum(sizes[1:]), _MAX_SETS, side="right")))


def _parts(engine: Engine, most: int) -> list[_Part]:
    """Members worth considering, those of few devices first."""
    dense = engine.dense
    found: dict[tuple[int, tuple[Leg, ...]], _Part] = {}
    for mode in MODES:
        run = dense.run(mode, every_set=True, most_devices=most)
        for used in dict.fromkeys(used for used, _ in run.done):
            for entry, state in _best_of(run, used):
                path = dense.path(run, state, entry)
                candidate = engine.priced(path.entry, path.legs)
                part = _Part(used, path.entry, path.legs, candidate)
                found.setdefault((path.entry, path.legs), part)
    ordered = sorted(found.values(), key=lambda part: (sum(part.used), *part.criteria(engine)))
    rows = np.array([(*part.used, *part.criteria(engine)) for part in ordered])
    kept: list[int] = []
    for at, row in enumerate(rows):
        # One that needs no other devices and is no worse in anything makes a part useless.
        if not (rows[kept] <= row).all(axis=1).any():
            kept.append(at)
    return [ordered[at] for at in kept]


def _best_of(run: Run, used: Used) -> list[tuple[int, tuple[Used, int]]]:
    """Per entry by which ``used`` can be reached: in which state it is reached best."""
    states = [state for state in run.done if state[0] == used]
    values = np.stack([run.done[state] for state in states])
    return [
        (entry, states[int(values[:, entry].argmin())])
        for entry in range(values.shape[1])
        if np.isfinite(values[:, entry]).any()
    ]


def _combined(engine: Engine, parts: Sequence[_Part]) -> tuple[list[list[_Part]], bool]:
    """Farms of disjoint devices, and whether those are all that ``parts`` can form."""
    farms = list(itertools.islice(_all(parts, engine.ports.counts), _MAX_FARMS + 1))
    if len(farms) <= _MAX_FARMS:
        return farms, True
    alone = [one for one in parts if sum(one.used) == 1]
    some = [_richest(engine, few, price) for few in (parts, alone) for price in _SENDING_PRICES]
    return some + _quickest(alone, engine.ports.counts), False


def _quickest(parts: Sequence[_Part], room: Used) -> list[list[_Part]]:
    """The two single devices of least latency, the three, and so on."""
    farms: list[list[_Part]] = []
    left, chosen = np.array(room), list[_Part]()
    for part in sorted(parts, key=lambda one: one.candidate.latency.time_s):
        while (left >= np.array(part.used)).all():
            left = left - np.array(part.used)
            chosen = [*chosen, part]
            farms.append(chosen)
    return farms


def _all(parts: Sequence[_Part], room: Used) -> Iterator[list[_Part]]:
    """Every multiset of two parts or more that fits; each once, in the order of ``parts``."""
    taken = np.array([part.used for part in parts]).reshape(len(parts), len(room))
    for farm in _multisets(taken, np.arange(len(parts)), np.array(room)):
        if len(farm) > 1:
            yield [parts[one] for one in farm]


def _multisets(taken: Array, choice: Array, room: Array) -> Iterator[list[int]]:
    """Multisets of ``choice`` that fit into ``room``; ``taken``: per part, devices of each kind."""
    yield []
    fitting = choice[(taken[choice] <= room).all(axis=1)]
    for at, one in enumerate(fitting):
        for rest in _multisets(taken, fitting[at:], room - taken[one]):
            yield [int(one), *rest]


def _richest(engine: Engine, parts: Sequence[_Part], price: float) -> list[_Part]:
    """Disjoint parts of the largest sum of rates, each less what its sending costs."""
    room = engine.ports.counts
    worth: dict[Used, tuple[float, _Part]] = {}
    for part in parts:
        load = load_of(engine.table, part.candidate)
        share = max(load.sending_s, load.source_s) / load.interval_s
        value = (1.0 - price * share) / load.interval_s
        if part.used not in worth or value > worth[part.used][0]:
            worth[part.used] = value, part
    strides = np.cumprod([1, *(count + 1 for count in room)])
    taken = np.array(list(worth)).reshape(len(worth), len(room))
    values = np.array([value for value, _ in worth.values()])
    parts = [part for _, part in worth.values()]
    best, choice = np.zeros(int(strides[-1])), np.full(int(strides[-1]), -1)
    for used in itertools.product(*(range(count + 1) for count in reversed(room))):
        free = np.array(used[::-1])
        at = int(free @ strides[:-1])
        fitting = np.flatnonzero((taken <= free).all(axis=1))
        sums = values[fitting] + best[at - taken[fitting] @ strides[:-1]]
        if len(fitting) and sums.max() > 0:
            choice[at] = fitting[int(sums.argmax())]
            best[at] = sums.max()
    at, farm = len(best) - 1, []
    while choice[at] >= 0:
        farm.append(parts[choice[at]])
        at -= int(taken[choice[at]] @ strides[:-1])
    return farm


def _named(engine: Engine, members: Sequence[_Part]) -> list[Candidate]:
    """Members on real devices, each on its own."""
    taken: tuple[str, ...] = ()
    named = []
    for part in members:
        candidate = engine.priced(part.entry, part.legs, taken)
        taken += candidate.devices
        named.append(candidate)
    return named
