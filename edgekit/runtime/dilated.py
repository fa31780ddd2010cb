"""Time dilation: this machine's session made ``factor`` times slower, to stand for a weaker board.

In:  a session, a factor.  Out: a session whose every run takes ``factor`` times what the inner one
takes on this machine while nobody disturbs it. That time is found at the first run, by running
again and again: a neighbour only ever adds to it, so the fast runs count; and it is looked at again
while this session waits anyway, for a machine may be disturbed for seconds on end. Every frame then
takes equally long, as it would on a board of its own; unlike with a CPU quota, no frame is fast and
the next one stopped, and unlike with a factor on each run's own time, the caches that went cold
while this one slept are not charged to a board that would not have slept.
"""

import time

from edgekit.errors import ConfigError
from edgekit.runtime.session import Session
from edgekit.spec.tensors import Array, TensorSpec

_BURSTS, _BURST_S, _PAUSE_S = 4, 0.15, 0.2
"""At the first run. A neighbour's turn on a processor is mostly over after some tenths of a
second."""
_QUANTILE = 0.1
_LOOKS, _RUNS_A_LOOK, _ROOM = 60, 3, 20
"""Later: how many frames' waits are used, runs in each after one that warms the caches, and how
many runs the wait must have room for."""


class DilatedSession:
    """A session that takes ``factor`` times as long."""

    def __init__(self, inner: Session, *, factor: float) -> None:
        if factor < 1.0:
            raise ConfigError(f"dilation must be at least 1, got {factor}", hint="use 1.0 for none")
        self._inner = inner
        self._factor = factor
        self._undisturbed_s = 0.0
        self._looks = 0

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Those of the inner session."""
        return self._inner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Those of the inner session."""
        return self._inner.outputs

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Run, then wait until the time is up. The first run takes longer: it is timed."""
        started_s = time.perf_counter()
        outputs = self._inner.run(inputs)
        if not self._undisturbed_s:
            self._undisturbed_s = undisturbed_s(self._inner, inputs)
        due_s = started_s + self._undisturbed_s * self._factor
        if due_s - time.perf_counter() > _ROOM * self._undisturbed_s and self._looks < _LOOKS:
            self._looks += 1
            self._undisturbed_s = min(self._undisturbed_s, _look_s(self._inner, inputs))
        while (left_s := due_s - time.perf_counter()) > 0:
            time.sleep(left_s)
        return outputs


def undisturbed_s(session: Session, inputs: dict[str, Array]) -> float:
    """Thread CPU time of one run while nobody disturbs it, from runs back to back [s].

    With more than one runtime thread the calling thread's share stands for all of them.
    """
    found_s = []
    for burst in range(_BURSTS):
        if burst:
            time.sleep(_PAUSE_S)
        until_s = time.perf_counter() + _BURST_S
        times_s = [_timed_s(session, inputs)]
        while time.perf_counter() < until_s:
            times_s.append(_timed_s(session, inputs))
        found_s.append(sorted(times_s)[int(_QUANTILE * len(times_s))])
    return min(found_s)


def _look_s(session: Session, inputs: dict[str, Array]) -> float:
    """A short look at the same: the middle one of a few runs, the caches warm."""
    session.run(inputs)
    times_s = sorted(_timed_s(session, inputs) for _ in range(_RUNS_A_LOOK))
    return times_s[_RUNS_A_LOOK // 2]


def _timed_s(session: Session, inputs: dict[str, Array]) -> float:
    began_s = time.thread_time()
    session.run(inputs)
    return time.thread_time() - began_s
