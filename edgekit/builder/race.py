"""Which of several sessions is faster: run turn by turn, so that a slow moment hits all alike.

In:  loaded sessions of one interface, and their inputs.  Out: the wall time of each [s].
Taken one after the other, two sessions would meet different clocks, caches and neighbours. Shared
processors change their speed, up to twice, for milliseconds to seconds at a time: medians of
single sessions may then come from different speeds, so what is compared are the ratios of a round.
"""

import time
from collections.abc import Sequence
from statistics import median

from edgekit.runtime.session import Session
from edgekit.spec.tensors import Array

MIN_GAIN = 0.03
"""Interleaved medians of one and the same model differ by up to this share; less is no gain."""

_WARM_UP_COUNT = 2
_ROUNDS = (7, 101)


def race(
    sessions: Sequence[Session], inputs: dict[str, Array], *, budget_s: float = 1.0
) -> tuple[float, ...]:
    """Wall time of one inference of each session, in their order.

    Of the first the median; of the others that, times the median ratio to the first in a round.
    At least 7 rounds and at most 101; between these, as many as fit into ``budget_s``.
    Raises: DeviceError if the runtime fails.
    """
    for _ in range(_WARM_UP_COUNT):
        started_s = time.perf_counter()
        for session in sessions:
            session.run(inputs)
        round_s = time.perf_counter() - started_s
    least, most = _ROUNDS
    round_count = min(max(int(budget_s / max(round_s, 1e-9)), least), most)
    times_s: list[list[float]] = [[] for _ in sessions]
    for _ in range(round_count):
        for session, own_s in zip(sessions, times_s, strict=True):
            started_s = time.perf_counter()
            session.run(inputs)
            own_s.append(time.perf_counter() - started_s)
    first_s = median(times_s[0])
    return tuple(
        first_s * median(own / first for own, first in zip(own_s, times_s[0], strict=True))
        for own_s in times_s
    )


def is_faster(after_s: float, before_s: float) -> bool:
    """True if the gain is more than the noise of the measurement."""
    return after_s < before_s * (1 - MIN_GAIN)
