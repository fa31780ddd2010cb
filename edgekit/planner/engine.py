"""Pipelines that are best under a cap on every processor and link, and from them the best of all.

In:  a CostTable and a Goal.  Out: Candidates.  Pure; exact.
Under a cap on the interval, the best pipelines are those undominated in latency and accuracy loss
(in energy too, if that is asked for). Lowering the cap step by step gives the whole trade-off
between latency and interval (the epsilon-constraint method); bounds leave out the caps that cannot
hold the best of an objective.
Source: Haimes, Lasdon and Wismer, IEEE Trans. SMC 1(3), 1971.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from edgekit.planner.cost_table import CostTable
from edgekit.planner.dp import DenseSearch
from edgekit.planner.dp_labels import LabelSearch, Sum
from edgekit.planner.ports import Leg, Ports
from edgekit.planner.pricing import Step, price_pipeline
from edgekit.spec.planning import Candidate, Goal
from edgekit.spec.tensors import Array

Value = Callable[[float, float, float], float]
"""Latency [s], interval [s], accuracy loss [pp] to what is to be small; never falls in any."""
_ROUNDING = 1e-9


class Engine:
    """Pipelines of one problem, on at least so many devices.

    Of the goal's limits, only that on accuracy holds here.
    """

    def __init__(self, table: CostTable, goal: Goal, *, least_devices: int = 1) -> None:
        self.table, self.goal, self._least_devices = table, goal, least_devices
        self.ports = Ports(table, goal)
        self.dense = DenseSearch(self.ports, least_devices=least_devices)
        self.is_lossless = self.ports.is_lossless
        self._by_cap: dict[float, list[Candidate]] = {}
        self._priced: dict[tuple[int, tuple[Step, ...]], Candidate] = {}
        self.run_count = 0

    # -- under one cap -----------------------------------------------------------------------
    def at(self, cap_s: float) -> list[Candidate]:
        """Undominated pipelines whose interval is at most ``cap_s``; empty if there is none."""
        if cap_s not in self._by_cap:
            self.run_count += 1
            self._by_cap[cap_s] = self._fresh(cap_s)
        return self._by_cap[cap_s]

    def _fresh(self, cap_s: float) -> list[Candidate]:
        if self.goal.objective == "energy":
            sums: tuple[Sum, ...] = ("energy", "latency", "drop")
        elif not self.is_lossless:
            sums = ("latency", "drop")
        else:
            run = self.dense.run("sum", cap_s)
            if run.best is None:
                return []
            path = self.dense.path(run, run.best)
            return [self.priced(path.entry, path.legs)]
        if self.is_lossless:
            sums = tuple(one for one in sums if one != "drop")
        search = LabelSearch(self.ports, sums, least_devices=self._least_devices)
        return [self.priced(path.entry, path.legs) for path in search.paths(cap_s)]

    def priced(self, entry: int, legs: tuple[Leg, ...], used: tuple[str, ...] = ()) -> Candidate:
        """A path as a Candidate, on devices that are not in ``used``."""
        steps = tuple(self.ports.steps(legs, used))
        if (entry, steps) not in self._priced:
            self._priced[entry, steps] = price_pipeline(
                self.table, self.goal, steps, frame_codec=self.ports.frame_codec(entry)
            )
        return self._priced[entry, steps]

    @cached_property
    def least_interval_s(self) -> float:
        """No pipeline has a shorter interval; some has this one, if nothing loses accuracy."""
        run = self.dense.run("max")
        return math.inf if run.best is None else float(run.done[run.best].min())

    @cached_property
    def _intervals(self) -> Array:
        """All intervals that a pipeline could have, sorted."""
        return self.dense.busy_values()

    # -- over all caps -----------------------------------------------------------------------
    def best(
        self, value: Value, *, cap_s: float = math.inf, max_latency_s: float | None = None
    ) -> Candidate | None:
        """The pipeline of least ``value`` within a cap on interval and latency, or None."""
        limit_s = math.inf if max_latency_s is None else max_latency_s * (1 + _ROUNDING)
        search = _Search(self, value, limit_s)
        search.look(cap_s, self.least_interval_s)
        return search.found

    def front(self, max_runs: int) -> tuple[list[Candidate], bool]:
        """Pipelines undominated in latency, interval and loss, and whether those are all."""
        found: list[Candidate] = []
        cap_s = math.inf
        for _ in range(max_runs):
            here = self.at(cap_s)
            if not here:
                return found, True
            found += here
            below = self.next_below(max(one.interval_s for one in here))
            if below is None:
                return found, True
            cap_s = below
        return found, False

    def next_below(self, interval_s: float) -> float | None:
        """The largest possible interval that is shorter, or None."""
        at = int(np.searchsorted(self._intervals, interval_s * (1 - _ROUNDING))) - 1
        return float(self._intervals[at]) if at >= 0 else None

    def next_above(self, interval_s: float) -> float | None:
        """The least possible interval that is longer, or None."""
        at = int(np.searchsorted(self._intervals, interval_s * (1 + _ROUNDING), side="right"))
        return float(self._intervals[at]) if at < len(self._intervals) else None

    def between(self, low_s: float, high_s: float) -> float | None:
        """A possible interval in the middle of those in [low, high), or None."""
        first = int(np.searchsorted(self._intervals, low_s * (1 - _ROUNDING)))
        last = int(np.searchsorted(self._intervals, high_s * (1 - _ROUNDING))) - 1
        return float(self._intervals[(first + last) // 2]) if first <= last else None


@dataclass(order=True, frozen=True, slots=True)
class _Range:
    """Pipelines with an interval in [low, high)."""

    bound: float
    """None of them has a smaller value."""
    low_s: float
    high_s: float
    best: list[Candidate] = field(compare=False)
    """Each of them is no better in latency and loss than one of these."""


class _Search:
    """Branch and bound over caps: each step halves a range of possible intervals."""

    def __init__(self, engine: Engine, value: Value, limit_s: float) -> None:
        self._engine, self._value, self._limit_s = engine, value, limit_s
        self.found: Candidate | None = None
        self._least = math.inf

    def look(self, cap_s: float, low_s: float) -> None:
        """Find the best among the pipelines with an interval of at most ``cap_s``."""
        if not math.isfinite(low_s) or low_s > cap_s * (1 + _ROUNDING):
            return
        top = self._tried(cap_s)
        if not top:
            return
        self._tried(low_s)
        ranges: list[_Range] = []
        self._push(ranges, low_s, _slowest_s(top), top)
        while ranges and ranges[0].bound < self._least:
            part = heapq.heappop(ranges)
            middle_s = self._engine.between(part.low_s, part.high_s)
            if middle_s is None:
                continue
            here = self._tried(middle_s)
            if here:
                self._push(ranges, part.low_s, min(middle_s, _slowest_s(here)), here)
            above_s = self._engine.next_above(middle_s)
            if above_s is not None:
                self._push(ranges, above_s, part.high_s, part.best)

    def _push(
        self, ranges: list["_Range"], low_s: float, high_s: float, best: list[Candidate]
    ) -> None:
        bounds = [
            self._value(one.latency.time_s, low_s, one.accuracy_drop_pp)
            for one in best
            if one.latency.time_s <= self._limit_s
        ]
        if bounds and low_s < high_s * (1 - _ROUNDING):
            heapq.heappush(ranges, _Range(min(bounds), low_s, high_s, best))

    def _tried(self, cap_s: float) -> list[Candidate]:
        """Pipelines under a cap, the best so far updated."""
        here = self._engine.at(cap_s)
        for one in here:
            if one.latency.time_s > self._limit_s:
                continue
            value = self._value(one.latency.time_s, one.interval_s, one.accuracy_drop_pp)
            if value < self._least * (1 - _ROUNDING) or (
                self.found is not None
                and value <= self._least * (1 + _ROUNDING)
                and _rank(one) < _rank(self.found)
            ):
                self.found, self._least = one, min(value, self._least)
        return here


def _rank(candidate: Candidate) -> tuple[float, ...]:
    """Between equals: the shorter latency, the shorter interval, fewer devices, fewer bytes."""
    return (
        candidate.latency.time_s,
        candidate.interval_s,
        len(candidate.devices),
        candidate.link_bytes,
    )


def _slowest_s(candidates: list[Candidate]) -> float:
    return max(one.interval_s for one in candidates)
