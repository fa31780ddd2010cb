"""The trade-off: candidates of which none is beaten in everything at once.

In:  Candidates.  Out: those worth showing.  Pure.
"""

import math
from collections.abc import Sequence

from edgekit.spec.planning import Candidate

_SAME = 1e-9
"""Relative; figures this close are one figure."""


def pareto_front(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Undominated in latency, interval, energy, accuracy and bytes; by latency, then interval.

    Of candidates equal in all five, the first stays. An unknown energy counts as the worst.
    """
    kept: list[tuple[tuple[float, ...], Candidate]] = []
    for candidate in sorted(candidates, key=criteria):
        row = criteria(candidate)
        if not any(_covers(other, row) for other, _ in kept):
            kept.append((row, candidate))
    return tuple(candidate for _, candidate in kept)


def criteria(candidate: Candidate) -> tuple[float, ...]:
    """What a candidate is judged by; less is better in each."""
    return (
        candidate.latency.time_s,
        candidate.interval_s,
        math.inf if candidate.energy_j is None else candidate.energy_j,
        candidate.accuracy_drop_pp,
        float(candidate.link_bytes),
    )


def _covers(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether ``one`` is at least as good in everything."""
    return all(a <= b * (1 + _SAME) for a, b in zip(one, other, strict=True))
