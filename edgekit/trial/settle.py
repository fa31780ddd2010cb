"""Time the shards of the best plans for real, and plan again with those times until it is settled.

In:  a Scenario, its PlanReport, and which devices are this machine.  Out: the same, settled.
Times of shards that were run replace predictions. The device's other predictions are scaled by the
median of measured to predicted: else a plan could win for not having been measured.
One look may be disturbed as a whole, by what else runs here, and so may lose the best plan: what
took longer than it can, and what decides between the best plans, is timed again.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import msgspec

from edgekit.errors import PlanError
from edgekit.planner.cost_table import CostTable
from edgekit.planner.predict import Predictor
from edgekit.planner.scenario import MeasuredKey, Scenario
from edgekit.planner.search import plan_with
from edgekit.planner.what_if import scaled_profile
from edgekit.spec.plan import Cut
from edgekit.spec.planning import Candidate, Goal, PlanReport, StagePlan
from edgekit.spec.profile import Precision
from edgekit.trial.bench import Bench, ShardName
from edgekit.trial.doubt import disturbed, is_same_plan, plans_about_best

Measure = Literal["auto", "always", "never"]
"""auto: where a device is this machine, within a budget of time; always: every prefix and suffix,
and an error if no device is this machine."""
Progress = Callable[[str, int, int], None]
_ROUNDS = 8
_BATCH = 12
_MOST_FINALISTS = 36
_LOOKS, _MOST_AGAIN = 4, 24
_SETTLED = 0.99
"""A second look that finds no shard quicker than this share of the first one changed nothing."""
_LEAST_CALIBRATED = 3
"""Measured shards from which a device's other predictions are scaled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One shard on one device: predicted, and timed."""

    device: str
    shard: ShardName
    predicted_s: float
    low_s: float
    high_s: float
    measured_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answer to a scenario, and the table that it came from."""

    table: CostTable
    report: PlanReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The answer after the finalists were timed."""

    found: Found
    compared: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()


def search(scenario: Scenario, goal: Goal) -> Found:
    """The best plan of ``scenario``, as ``planner.search.plan`` finds it, with its table."""
    started_s = time.perf_counter()
    table = CostTable(scenario)
    report = plan_with(table, goal)
    seconds = time.perf_counter() - started_s
    return Found(table=table, report=msgspec.structs.replace(report, seconds=seconds))


def settle(
    found: Found,
    goal: Goal,
    bench: Bench,
    *,
    mode: Measure,
    budget_s: float,
    progress: Progress,
) -> Settled:
    """Time the finalists and plan again, until every shard of the chosen plan was timed.

    Raises: PlanError if ``mode`` is "always" and no device of the fleet is this machine; ModelError
    if the runtime refuses a shard.
    """
    if mode == "never":
        return Settled(found=found)
    if not bench.here:
        if mode == "always":
            raise PlanError(
                "no device of this fleet is this machine, so no shard of it can be timed here",
                hint="name this machine's own profile (edgekit profile), or leave out --measure",
            )
        return Settled(found=found, notes=("no device is this machine: every time is predicted",))
    ends_s = time.monotonic() + budget_s if mode == "auto" else float("inf")
    work = _Work(found, goal, bench, progress)
    work.time_finalists()
    work.sweep(ends_s)
    work.plan_again()
    work.confirm()
    work.look_again()
    return work.settled()


class _Work:
    """What is known so far; each step plans again with it."""

    def __init__(self, found: Found, goal: Goal, bench: Bench, progress: Progress) -> None:
        scenario = found.table.scenario
        self._first, self._goal, self._bench = scenario, goal, bench
        self._progress = progress
        self._found = found
        self._predictors: dict[tuple[str, Precision], Predictor] = {}
        self._compared: dict[tuple[str, ShardName], Comparison] = {}
        self._ops: dict[ShardName, frozenset[int]] = {}

    def time_finalists(self) -> None:
        """Shards of the best plans, the chosen one first."""
        fresh = [shard for shard in self._finalists() if self._is_new(shard)]
        self._progress("time the best plans", 0, 0)
        self._time(fresh[:_MOST_FINALISTS])

    def sweep(self, ends_s: float) -> None:
        """Prefixes and suffixes at every cut, those near the chosen one first."""
        report = self._found.report
        strategy = _strategy(report) or self._first.variants[0].strategy
        shards = [
            shard
            for index in _near_first(self._found.table.cuts, report.chosen)
            for shard in self._around(strategy, index)
            if self._is_new(shard)
        ]
        for start in range(0, len(shards), _BATCH):
            if time.monotonic() > ends_s:
                break
            self._progress("time prefixes and suffixes", start, len(shards))
            self._time(shards[start : start + _BATCH])

    def _around(self, strategy: str, index: int) -> Iterator[ShardName]:
        """Prefix and suffix at a cut, in integers too if the chosen plan has any."""
        table = self._found.table
        names = table.cuts[index].names
        chosen = {one.precision for one in self._stages()}
        precisions: tuple[Precision, ...] = ("fp32", "int8") if "int8" in chosen else ("fp32",)
        for precision in precisions:
            if precision == "fp32" or table.integer_node[index + 1]:
                yield ShardName(strategy, (), names, precision)
                yield ShardName(strategy, names, (), precision)

    def confirm(self) -> None:
        """Time what the plan now chosen has untimed, and plan again, until nothing is.

        With it go the next best: it may be one of them that is chosen then.
        """
        for count in range(_ROUNDS):
            chosen = self._found.report.chosen
            if chosen is None or not any(map(self._is_new, _shards(chosen, self._bench))):
                return
            self._progress("time the best plan", count, _ROUNDS)
            fresh = [shard for shard in self._finalists() if self._is_new(shard)]
            self._time(fresh[:_BATCH])
            self.plan_again()

    def look_again(self) -> None:
        """Time again what is in doubt and what decides, and plan again, until nothing changes."""
        for count in range(_LOOKS):
            chosen = self._found.report.chosen
            if chosen is None:
                return
            shards = self._in_doubt()[:_MOST_AGAIN]
            if not shards:
                return
            self._progress("look again at the best plans", count, _LOOKS)
            before_s = {key: one.measured_s for key, one in self._compared.items()}
            self._time(shards, again=True)
            self.plan_again()
            self.confirm()
            is_same = all(
                one.measured_s >= _SETTLED * before_s.get(key, 0.0)
                for key, one in self._compared.items()
            )
            if is_same and is_same_plan(self._found.report.chosen, chosen):
                return

    def _in_doubt(self) -> list[ShardName]:
        """Shards of the plans that are about the best, then those that took suspiciously long."""
        close = plans_about_best(self._found.report, self._goal)
        deciding = [shard for one in close for shard in _shards(one, self._bench)]
        timed = [(one.device, one.shard, one.measured_s) for one in self._compared.values()]
        return list(dict.fromkeys((*deciding, *disturbed(timed, self._ops))))

    def settled(self) -> Settled:
        """What came of it."""
        own = [one for one in self._stages() if one.device in self._bench.here]
        timed = sum(one.time.is_measured for one in own)
        notes = [
            f"{len({shard for _, shard in self._compared})} shards were timed on this machine "
            f"({self._bench.runtime})",
            *(f"predictions for {name}{'' if precision == 'fp32' else f' in {precision}'} are "
              f"scaled by {ratio:.2f}, the median of measured to predicted"
              for (name, precision), ratio in self._ratios().items()),
        ]  # fmt: skip
        if timed < len(own):
            notes.append(f"{len(own) - timed} shards of the chosen plan were not timed in time")
        return Settled(
            found=self._found,
            compared=tuple(self._compared.values()),
            notes=tuple(notes),
        )

    def _stages(self) -> list[StagePlan]:
        chosen = self._found.report.chosen
        return list(stages_of(chosen)) if chosen else []

    def _finalists(self) -> list[ShardName]:
        """Shards of the best plans that this machine can time, most wanted first, each once."""
        report = self._found.report
        best = [report.chosen] if report.chosen else []
        order = [*best, *report.neighbours, *report.pareto, *report.alternatives]
        return list(dict.fromkeys(shard for one in order for shard in _shards(one, self._bench)))

    def _is_new(self, shard: ShardName) -> bool:
        return any((name, shard) not in self._compared for name in self._bench.here)

    def _time(self, shards: Sequence[ShardName], *, again: bool = False) -> None:
        """Time ``shards``, each once for all devices of one number of threads."""
        time = self._bench.time_again if again else self._bench.time
        by_threads: dict[int, list[str]] = defaultdict(list)
        for name in self._bench.here:
            by_threads[self._first.profiles[name].threads].append(name)
        for threads, names in by_threads.items():
            times_s = time(shards, threads=threads)
            for shard, time_s in zip(shards, times_s, strict=True):
                for name in names:
                    self._compare(name, shard, time_s * self._bench.here[name])

    def _compare(self, device: str, shard: ShardName, measured_s: float) -> None:
        workload, ops = self._bench.ops(shard)
        self._ops[shard] = frozenset(ops)
        guess = self._predictor(device, shard.precision).predict(workload, ops)
        self._compared[device, shard] = Comparison(
            device=device,
            shard=shard,
            predicted_s=guess.time_s,
            low_s=guess.low_s,
            high_s=guess.high_s,
            measured_s=measured_s,
        )

    def _predictor(self, device: str, precision: Precision) -> Predictor:
        if (device, precision) not in self._predictors:
            provider = next(one.provider for one in self._first.devices if one.name == device)
            profile = self._first.profiles[device]
            made = Predictor(profile, precision=precision, provider=provider)
            self._predictors[device, precision] = made
        return self._predictors[device, precision]

    def _ratios(self) -> Mapping[tuple[str, Precision], float]:
        """Measured to predicted, per device and precision; only where enough shards tell."""
        found: dict[tuple[str, Precision], list[float]] = defaultdict(list)
        for one in self._compared.values():
            found[one.device, one.shard.precision].append(one.measured_s / one.predicted_s)
        return {key: median(ratios) for key, ratios in found.items()
                if len(ratios) >= _LEAST_CALIBRATED}  # fmt: skip

    def plan_again(self) -> None:
        """With what is known by now."""
        profiles, ratios = dict(self._first.profiles), self._ratios()
        slower: dict[tuple[str, Precision], float] = {}
        for (name, precision), ratio in ratios.items():
            if precision == "fp32":
                profiles[name] = scaled_profile(profiles[name], 1 / ratio)
            else:
                slower[name, precision] = ratio / ratios.get((name, "fp32"), 1.0)
        measured: dict[MeasuredKey, float] = {
            (device, shard.strategy, shard.precision, ",".join(shard.after),
             ",".join(shard.until)): one.measured_s
            for (device, shard), one in self._compared.items()
        }  # fmt: skip
        scenario = replace(self._first, profiles=profiles, measured=measured, slower=slower)
        self._found = search(scenario, self._goal)


def stages_of(candidate: Candidate) -> Iterator[StagePlan]:
    """Stages of a candidate, of a farm those of its members."""
    yield from candidate.stages
    for member in candidate.members:
        yield from stages_of(member)


def _shards(candidate: Candidate, bench: Bench) -> list[ShardName]:
    """Those of its shards that this machine can time."""
    return [
        ShardName(stage.strategy, stage.after, stage.until, stage.precision)
        for stage in stages_of(candidate)
        if stage.device in bench.here and stage.precision != "fp16"
    ]


def _strategy(report: PlanReport) -> str:
    return report.chosen.stages[0].strategy if report.chosen and report.chosen.stages else ""


def _near_first(cuts: Sequence[Cut], chosen: Candidate | None) -> list[int]:
    """Indices of cuts by distance in work from where the chosen plan cuts; else in model order."""
    at = [
        cut.work_flop_before
        for stage in (chosen.stages if chosen else ())
        for cut in cuts
        if stage.until and cut.names == stage.until
    ]
    if not at:
        return list(range(len(cuts)))

    def distance(index: int) -> tuple[int, int]:
        return abs(cuts[index].work_flop_before - at[0]), cuts[index].op_count_before

    return sorted(range(len(cuts)), key=distance)
