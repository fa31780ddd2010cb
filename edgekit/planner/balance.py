"""Choose the cuts for a fleet: automatically, none, or those that were asked for.

In: a Workload and a Fleet in frame order.  Out: one Cut per border between neighbouring devices.
Pure and deterministic. The automatic rule makes the slowest stage (or hop, where the fleet names
the link) as short as it can. Predictions within 1 % of the best are a tie, for no measurement could
tell them apart; ties go to fewer bytes in all, then to the earlier cuts.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import PlanError
from edgekit.planner.cuts import legal_cuts, names_in, partition, resolve_cut
from edgekit.planner.dag import Dag
from edgekit.planner.kernel_groups import inner_names
from edgekit.spec.fleet import Fleet
from edgekit.spec.plan import Cut
from edgekit.spec.workload import Workload

NOMINAL_FLOP_PER_S = 10e9
"""What a device of relative speed 1.0 is taken to sustain: about one Cortex-A76 core in fp32. Only
weighs stages against hops; a measured device profile will replace it."""
_TIE = 1.01
_MAX_SEARCHED = 4000
_MAX_CANDIDATES = 400


def choose_cuts(workload: Workload, fleet: Fleet, rule: str | Sequence[str]) -> tuple[Cut, ...]:
    """The cuts of ``workload`` for ``fleet``, from its first device to its last.

    ``rule`` is "auto" (every device gets a shard), "none" (the first device, which owns the camera,
    runs the whole model), or one ``TENSOR[,TENSOR]`` per border.
    Raises: PlanError if a cut is not legal, or their number does not fit the fleet.
    """
    rules = (rule,) if isinstance(rule, str) else tuple(rule)
    if rules == ("none",):
        return ()
    if rules == ("auto",):
        return _balanced(workload, fleet)
    if {"auto", "none"} & set(rules):
        raise PlanError(
            f"the cuts {' '.join(rules)} mix a rule with tensors",
            hint="give --cut auto or --cut none alone, or one --cut TENSOR per border",
        )
    borders = len(fleet.device) - 1
    if len(rules) != borders:
        raise PlanError(
            f"{len(fleet.device)} devices have {borders} borders between them, but {len(rules)} "
            "cuts are given",
            hint="give one --cut TENSOR[,TENSOR] per border, from the first device to the last",
        )
    cuts = tuple(resolve_cut(workload, names_in(workload, text)) for text in rules)
    partition(workload, cuts)
    return cuts


def stage_s(work_flop: int, relative_speed: float) -> float:
    """Predicted time of a stage [s]."""
    return work_flop / (NOMINAL_FLOP_PER_S * relative_speed)


def hop_s(fleet: Fleet, border: int, nbytes: int) -> float:
    """Predicted time of the hop across ``border`` [s]: half a round trip, then the bytes.

    Returns: 0 where the fleet does not name the link.
    """
    link = fleet.link_between(fleet.device[border].name, fleet.device[border + 1].name)
    return link.rtt_s / 2 + nbytes / link.bandwidth_bytes_per_s if link else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chain:
    """Cuts for the first devices, ending at one candidate; or, at the end, for all of them."""

    slowest_s: float
    nbytes: int
    path: tuple[int, ...]


def _shortest(chain: _Chain) -> tuple[float, int, tuple[int, ...]]:
    return chain.slowest_s, chain.nbytes, chain.path


def _lightest(chain: _Chain) -> tuple[int, tuple[int, ...]]:
    return chain.nbytes, chain.path


def _balanced(workload: Workload, fleet: Fleet) -> tuple[Cut, ...]:
    """First the shortest possible slowest stage, then the fewest bytes that tie with it."""
    if len(fleet.device) == 1:
        return ()
    dag = Dag(workload)
    candidates = _candidates(workload, dag, len(fleet.device))
    search = _Search(workload, fleet, candidates, [dag.ops_before(cut) for cut in candidates])
    shortest = search.best(_shortest, limit_s=float("inf"))
    lightest = search.best(_lightest, limit_s=shortest.slowest_s * _TIE)
    return tuple(candidates[index] for index in lightest.path)


class _Search:
    """Dynamic programming over candidate cuts, one step per device."""

    def __init__(
        self, workload: Workload, fleet: Fleet, candidates: Sequence[Cut], sets: Sequence[int]
    ) -> None:
        self._workload, self._fleet = workload, fleet
        self._candidates, self._sets = candidates, sets

    def best(self, rank: Callable[[_Chain], Any], *, limit_s: float) -> _Chain:
        """The first chain by ``rank`` of which no stage or hop takes longer than ``limit_s``.

        Raises: PlanError if the model has too few cuts for the fleet.
        """
        reached = {-1: _Chain(slowest_s=0.0, nbytes=0, path=())}
        for border in range(len(self._fleet.device) - 1):
            reached = self._one_border_more(border, reached, rank, limit_s)
        speed = self._fleet.device[-1].relative_speed
        finished = []
        for index, chain in reached.items():
            left = self._workload.work_flop - self._candidates[index].work_flop_before
            slowest_s = max(chain.slowest_s, stage_s(left, speed))
            if slowest_s <= limit_s:
                finished.append(dataclasses.replace(chain, slowest_s=slowest_s))
        if not finished:
            raise PlanError(
                f"a model of {len(self._workload.ops)} operators cannot be cut into "
                f"{len(self._fleet.device)} shards",
                hint="use fewer devices",
            )
        return min(finished, key=rank)

    def _one_border_more(
        self,
        border: int,
        reached: dict[int, _Chain],
        rank: Callable[[_Chain], Any],
        limit_s: float,
    ) -> dict[int, _Chain]:
        """The best chain to every candidate that can be the cut at ``border``."""
        speed = self._fleet.device[border].relative_speed
        extended: dict[int, _Chain] = {}
        for index, cut in enumerate(self._candidates):
            hop = hop_s(self._fleet, border, cut.nbytes)
            options = []
            for before, chain in reached.items():
                above = self._sets[before] if before >= 0 else 0
                done = self._candidates[before].work_flop_before if before >= 0 else 0
                if above == self._sets[index] or above & ~self._sets[index]:
                    continue
                work_s = stage_s(cut.work_flop_before - done, speed)
                slowest_s = max(chain.slowest_s, work_s, hop)
                if slowest_s <= limit_s:
                    nbytes, path = chain.nbytes + cut.nbytes, (*chain.path, index)
                    options.append(_Chain(slowest_s=slowest_s, nbytes=nbytes, path=path))
            if options:
                extended[index] = min(options, key=rank)
        return extended


def _candidates(workload: Workload, dag: Dag, device_count: int) -> list[Cut]:
    """Legal cuts outside merged kernels; for three devices or more, at most 400 of them."""
    cuts = legal_cuts(workload, max_count=_MAX_SEARCHED).cuts
    inside = inner_names(dag)
    outside = [cut for cut in cuts if not inside & set(cut.names)]
    chosen = outside if len(outside) >= device_count - 1 else list(cuts)
    if device_count == 2 or len(chosen) <= _MAX_CANDIDATES:
        return chosen
    bucket_flop = max(1, workload.work_flop // _MAX_CANDIDATES)
    cheapest: dict[int, Cut] = {}
    for cut in chosen:
        bucket = cut.work_flop_before // bucket_flop
        if bucket not in cheapest or cut.nbytes < cheapest[bucket].nbytes:
            cheapest[bucket] = cut
    return list(cheapest.values())
