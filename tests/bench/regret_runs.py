"""Find the plan that is fastest when it is run, and compare the planner's choice with it.

In:  the plans worth running, and what builds and runs one.  Out: every Measured run, the winner,
the regret.
Runs take turns. The winner of the first half of the rounds is compared with the choice on fresh
rounds, both run equally often: the best of many noisy figures is too good, a second look is not.
A run in which a device was not as slow as the fleet file says (its neighbours on this machine
disturbed it) is done again.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median, quantiles

import msgspec

from edgekit.builder.build import build_bundle
from edgekit.builder.forwarding import Forwarding
from edgekit.bundle.bundle import Bundle
from edgekit.errors import EdgeKitError
from edgekit.planner.scenario import RAW_FRAME
from edgekit.spec.base import Spec
from edgekit.spec.codec import CodecRequest, parse_request
from edgekit.spec.fleet import Fleet
from edgekit.spec.fusion import FusionRule, parse_strategy
from tests.bench.paper_world import Pictures, card_of, model_of
from tests.bench.regret_plans import Combination, devices_of
from tests.testbed.agents import StreamRun, run_stream
from tests.testbed.plain import Bed

_TRIES = 3
_LEAST_FRAMES, _MOST_FRAMES = 120, 10_000
_SLOWER, _FASTER, _SLACK_MS = 1.05, 0.97, 0.5
"""By how much a stage may take longer or shorter than its shard alone, and what a frame costs."""


class Measured(Spec, frozen=True, kw_only=True):
    """One run."""

    plan: str
    round: int
    fps: float
    stage_ms: tuple[float, ...] = ()
    """Lower quartile of each stage."""
    expected_ms: tuple[float, ...] = ()
    """Its shard alone."""
    is_disturbed: bool = False
    problem: str = ""


Run = Callable[[Combination, int], list[Measured]]
"""Runs a plan in a round: every try, the last one counts."""


class Runner:
    """Builds plans of one network, each once, and runs them through the agents of a bed."""

    def __init__(
        self, bed: Bed, dataset: str, network: str, pictures: Pictures, home: Path, seconds: float
    ) -> None:
        self._bed, self._pictures, self._home, self._seconds = bed, pictures, home, seconds
        self._dataset, self._network = dataset, network
        self._bundles: dict[str, Bundle] = {}

    def __call__(self, plan: Combination, round_number: int) -> list[Measured]:
        """One round of a plan; again where it was disturbed."""
        found: list[Measured] = []
        while not found or (found[-1].is_disturbed and len(found) < _TRIES):
            found.append(self._once(plan, round_number))
        return found

    def _once(self, plan: Combination, round_number: int) -> Measured:
        count = int(min(max(self._seconds / plan.bound_s, _LEAST_FRAMES), _MOST_FRAMES))
        try:
            done = run_stream(self._bed, self._bundle(plan), self._pictures.source(count))
        except EdgeKitError as error:
            return Measured(
                plan=str(plan),
                round=round_number,
                fps=0.0,
                is_disturbed=True,
                problem=error.what,
            )
        stages_ms, expected_ms = _stages_ms(done, plan), _expected_ms(plan)
        return Measured(
            plan=str(plan),
            round=round_number,
            fps=done.fps,
            stage_ms=stages_ms,
            expected_ms=expected_ms,
            is_disturbed=is_disturbed(stages_ms, expected_ms),
        )

    def _bundle(self, plan: Combination) -> Bundle:
        if str(plan) not in self._bundles:
            out = self._home / f"bundle-{len(self._bundles)}"
            self._bundles[str(plan)] = built(
                plan, self._bed.fleet, self._dataset, self._network, out
            )
        return self._bundles[str(plan)]


def built(plan: Combination, fleet: Fleet, dataset: str, network: str, out: Path) -> Bundle:
    """The bundle of a plan. Raises: EdgeKitError if it cannot be built."""
    near, far = devices_of(fleet)
    names = [name for name, strategy in ((near, plan.near), (far, plan.far)) if strategy]
    by_name = {device.name: device for device in fleet.device}
    names = names[-1:] if plan.is_shared else names
    working = msgspec.structs.replace(
        fleet,
        device=tuple(by_name[name] for name in names),
        link=tuple(one for one in fleet.link if {one.source, one.target} <= set(names)),
        source="",
        sink="",
    )
    strategies = {near: plan.near, far: plan.far}
    own = msgspec.structs.replace(by_name[near], fusion=plan.near, fusion_at={})
    codec = CodecRequest() if plan.codec == RAW_FRAME else parse_request(plan.codec)
    forwarding = Forwarding(device=near, codec=codec, own=own if plan.near else None)
    return build_bundle(
        model_of(dataset, network),
        fleet=working,
        rule=(",".join(plan.cut),) if plan.cut else ("none",),
        fusion=tuple(
            FusionRule(strategy=parse_strategy(strategies[name]), device=name) for name in names
        ),
        forwarding=forwarding if plan.far and not plan.cut else None,
        card=card_of(dataset, network),
        out=out,
    ).bundle


def is_disturbed(stages_ms: Sequence[float], expected_ms: Sequence[float]) -> bool:
    """Whether a device was not as slow as it should be."""
    return any(
        not _FASTER * wanted <= found <= _SLOWER * wanted + _SLACK_MS
        for found, wanted in zip(stages_ms, expected_ms, strict=False)
    )


def _stages_ms(done: StreamRun, plan: Combination) -> tuple[float, ...]:
    """Lower quartile of the time of each stage, in the frame's order."""
    by_shard: dict[int, list[float]] = {}
    for report in done.reports:
        # Of frames that are dealt out, those that are sent on pass the first device in no time.
        stages = report.stages[-1:] if plan.is_shared else report.stages
        for stage in stages:
            by_shard.setdefault(stage.shard, []).append(stage.ms)
    times = [by_shard[shard] for shard in sorted(by_shard)]
    return tuple(quantiles(one, n=4)[0] if len(one) > 1 else one[0] for one in times)


def _expected_ms(plan: Combination) -> tuple[float, ...]:
    if plan.near and plan.far:
        return 1e3 * plan.near_s, 1e3 * plan.far_s
    return (1e3 * plan.near_s,) if plan.near else (0.0, 1e3 * plan.far_s)


def explore(
    finalists: Sequence[Combination], chosen: Combination, run: Run, *, rounds: int
) -> list[Measured]:
    """Every finalist once a round, the choice twice: at the beginning and at the end."""
    others = [one for one in finalists if one.key != chosen.key]
    return [
        measured
        for number in range(rounds)
        for plan in (chosen, *others, chosen)
        for measured in run(plan, number)
    ]


def winner_of(plans: Iterable[Combination], runs: Sequence[Measured]) -> Combination:
    """The plan of the largest median throughput."""
    return max(plans, key=lambda one: fps_of(one, runs))


def compare(
    winner: Combination, chosen: Combination, run: Run, *, first: int, rounds: int
) -> list[Measured]:
    """Fresh rounds of the two, in turns; none where they are the same."""
    if winner.key == chosen.key:
        return []
    return [
        measured
        for number in range(first, first + rounds)
        for plan in (chosen, winner)
        for measured in run(plan, number)
    ]


def counted(runs: Iterable[Measured]) -> list[Measured]:
    """Of several tries in a row of one plan in one round the last one, where it has a figure."""
    kept: list[Measured] = []
    for one in runs:
        if kept and kept[-1].is_disturbed and (kept[-1].plan, kept[-1].round) == (
            one.plan, one.round
        ):  # fmt: skip
            kept.pop()
        kept.append(one)
    return [one for one in kept if one.fps > 0]


def fps_of(plan: Combination, runs: Iterable[Measured], *, since: int = 0) -> float:
    """Median over rounds from ``since`` on; 0 where there is none."""
    own = [one.fps for one in counted(runs) if one.plan == str(plan) and one.round >= since]
    return median(own) if own else 0.0


def noise_percent(plan: Combination, runs: Iterable[Measured]) -> float:
    """Half of the spread between quartiles of the runs of a plan, over their median."""
    own = sorted(one.fps for one in counted(runs) if one.plan == str(plan))
    if len(own) < 2:
        return 0.0
    low, _, high = quantiles(own, n=4)
    return 50 * (high - low) / median(own)


def regret_percent(chosen_fps: float, winner_fps: float) -> float:
    """By how much the choice is behind the better of the two."""
    best = max(chosen_fps, winner_fps)
    return 100 * (1 - chosen_fps / best) if best > 0 else 0.0
