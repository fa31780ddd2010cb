"""All plans of a network on two devices, each with the times of its parts: which are worth running?

In:  Shards, a fleet, how frames may be sent.  Out: Combinations, and the few of them to run.  Pure.
A pipeline is never faster than its slowest part, so the parts, each timed alone, bound every plan
from below. What a frame costs besides (picture, hop, threads) is measured on a few runs and added.
A plan is left out where that estimate is beyond the best one's by more than a margin, or where
another one at the same cut is better in the part that binds and no worse in the others.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec
from edgekit.spec.fleet import Fleet
from edgekit.spec.planning import RAW_FP32, Candidate, FrameCost
from tests.bench.regret_shards import Shards

Part = Literal["near", "link", "far"]
MARGIN = 1.10
TIE = 1.02
"""Strategies of the binding shard this close to the best one are run as well."""


class Combination(Spec, frozen=True, kw_only=True):
    """One plan: who runs which shard, and how long each part of it takes for a frame."""

    cut: tuple[str, ...] = ()
    """Empty: who works runs all of it; if both do, the first answers some frames and sends others.
    """
    near: str = ""
    """Strategy of the first device's shard; empty where it only sends frames."""
    far: str = ""
    """Of the second device's; empty where it has none."""
    codec: str = RAW_FP32.name
    """Of what crosses."""
    near_s: float = 0.0
    link_s: float = 0.0
    far_s: float = 0.0

    @property
    def key(self) -> tuple[tuple[str, ...], str, str, str]:
        """What tells it from all others."""
        return self.cut, self.near, self.far, self.codec if self.far else ""

    @property
    def is_shared(self) -> bool:
        """Whether frames are dealt out: both devices have the whole model."""
        return bool(self.near and self.far) and not self.cut

    @property
    def bound_s(self) -> float:
        """On average, no two answers can lie closer together."""
        return interval_s(self, self.near_s, self.far_s)

    @property
    def binding(self) -> Part:
        """The part that takes the longest."""
        parts: dict[Part, float] = {"near": self.near_s, "link": self.link_s, "far": self.far_s}
        return max(parts, key=lambda part: parts[part])

    def __str__(self) -> str:
        if not self.far:
            return f"whole on the first ({self.near})"
        if self.is_shared:
            return f"shared: {self.near}, and frames to {self.far} by {self.codec}"
        if not self.near:
            return f"frames to the second ({self.far}) by {self.codec}"
        return f"{self.near} until {','.join(self.cut)} -> {self.far} by {self.codec}"


def interval_s(plan: Combination, near_s: float, far_s: float) -> float:
    """Between answers, if a frame keeps the devices busy for so long."""
    if plan.is_shared:
        return 1 / (1 / near_s + 1 / max(plan.link_s, far_s))
    return max(near_s, plan.link_s, far_s)


def devices_of(fleet: Fleet) -> tuple[str, str]:
    """The one that films, and the other one. Raises: ConfigError if there are not two."""
    names = [device.name for device in fleet.device]
    if len(names) != 2:
        raise ConfigError(
            f"fleet {fleet.name!r} has {len(names)} devices", hint="regret is measured on two"
        )
    near = fleet.source_name
    return near, next(name for name in names if name != near)


def combinations(
    shards: Shards, fleet: Fleet, frames: Sequence[FrameCost]
) -> tuple[Combination, ...]:
    """Every plan that agents can run; activations cross raw.

    A first device with a limit on work is one that may not run the whole model.
    """
    near, far = devices_of(fleet)
    slower = {device.name: max(1.0, fleet.slowdown(device)) for device in fleet.device}
    link = fleet.link_between(near, far)
    if link is None:
        raise ConfigError(f"no link joins {near} and {far}", hint="add it to the fleet file")
    bytes_per_s, times_s = link.toward(far), shards.times_s()
    is_limited = any(device.max_macs for device in fleet.device if device.name == near)
    own_strategies = () if is_limited else shards.strategies
    found = [
        Combination(near=one, near_s=slower[near] * times_s[one, (), ()]) for one in own_strategies
    ]
    found += [
        Combination(
            near=own,
            far=one,
            codec=frame.codec,
            # Emulated devices are slow in their shards only.
            near_s=slower[near] * times_s[own, (), ()] if own else frame.encode_s,
            link_s=frame.nbytes / bytes_per_s,
            far_s=slower[far] * times_s[one, (), ()] + frame.decode_s,
        )
        for own in ("", *own_strategies)
        for one in shards.strategies
        for frame in frames
    ]
    found += [
        Combination(
            cut=cut.names,
            near=one,
            far=other,
            near_s=slower[near] * times_s[one, (), cut.names],
            link_s=cut.nbytes / bytes_per_s,
            far_s=slower[far] * times_s[other, cut.names, ()],
        )
        for cut in shards.cut
        for one in shards.strategies
        for other in shards.strategies
    ]
    return tuple(found)


def combination_of(candidate: Candidate, known: Iterable[Combination]) -> Combination:
    """The one that the planner means. Raises: ConfigError if it is not among ``known``."""
    members = candidate.members or (candidate,)
    hops = [hop for member in members for hop in member.hops if hop.carries != "answers"]
    stages = [stage for member in members for stage in member.stages]
    if len(stages) > 2 or len(hops) > 1:
        raise ConfigError(f"{candidate} is no plan for two devices", hint="use a fleet of two")
    strategy = {stage.device: stage.strategy for stage in stages}
    far = hops[0].target if hops else ""
    wanted = Combination(
        cut=() if candidate.members else stages[0].until,
        near=next((one for name, one in strategy.items() if name != far), ""),
        far=strategy.get(far, ""),
        codec=hops[0].codec if hops else "",
    )
    for one in known:
        if one.key == wanted.key:
            return one
    raise ConfigError(
        f"the planner chose {wanted}, which is not among the plans that were timed",
        hint="remove the shards-*.json of an older run",
    )


def estimate_s(plan: Combination, overhead_s: Mapping[Part, float]) -> float:
    """Interval between answers, with what a frame costs besides its parts."""
    least_s = min(overhead_s.values(), default=0.0)
    return interval_s(
        plan,
        plan.near_s + overhead_s.get("near", least_s) if plan.near else plan.near_s,
        plan.far_s + overhead_s.get("far", least_s) if plan.far else 0.0,
    )


def worth_running(
    plans: Sequence[Combination], overhead_s: Mapping[Part, float], *, margin: float = MARGIN
) -> list[Combination]:
    """Plans within ``margin`` of the best estimate, best first; of one cut only the best ones."""
    best_s = min(estimate_s(one, overhead_s) for one in plans)
    kept = [one for same in by_cut(plans) for one in _best_of(same)]
    kept = [one for one in kept if estimate_s(one, overhead_s) <= margin * best_s]
    return sorted(kept, key=lambda one: (estimate_s(one, overhead_s), one.near_s + one.far_s))


def by_cut(plans: Iterable[Combination]) -> Iterator[list[Combination]]:
    """Plans that differ in strategies (and the codec of frames) only."""
    found: dict[tuple[tuple[str, ...], bool, bool], list[Combination]] = {}
    for one in plans:
        found.setdefault((one.cut, bool(one.near), bool(one.far)), []).append(one)
    yield from found.values()


def _best_of(same: Sequence[Combination]) -> list[Combination]:
    """Of one cut: the best shards on both sides, and others that tie with the one that binds."""
    best = min(same, key=lambda one: (one.bound_s, one.near_s + one.link_s + one.far_s))
    limit_s = TIE * best.bound_s
    if best.is_shared:
        return [one for one in same if one.bound_s <= limit_s and one.codec == best.codec]
    if best.binding == "near":
        return [one for one in same if one.near_s <= limit_s and one.far == best.far]
    if best.binding == "far":
        return [one for one in same if one.far_s <= limit_s and one.near == best.near]
    return [best]


def pilots(plans: Sequence[Combination], chosen: Combination) -> list[Combination]:
    """Runs that tell what a frame costs besides: the choice, the best where either side binds."""
    found = [chosen]
    for part in ("near", "far"):
        same = [one for one in plans if one.binding == part and one.cut]
        if same:
            found.append(min(same, key=lambda one: (one.bound_s, one.near_s + one.far_s)))
    return list(dict.fromkeys(found))


def overheads_s(measured: Iterable[tuple[Combination, float]]) -> dict[Part, float]:
    """By binding part, the least that measured intervals lie above the bounds."""
    found: dict[Part, float] = {}
    for plan, measured_s in measured:
        if plan.is_shared:
            continue
        extra_s = max(0.0, measured_s - plan.bound_s)
        found[plan.binding] = min(extra_s, found.get(plan.binding, extra_s))
    return found
