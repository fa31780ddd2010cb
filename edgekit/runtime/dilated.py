"""Time dilation: this machine's session made ``factor`` times slower, to stand for a weaker board.

In:  a session, a factor.  Out: a session whose every run takes ``factor`` times what the inner one
takes on this machine while nobody disturbs it. That time is found once, at the first run, by
running again and again: a neighbour only ever adds to it, so the fast runs count. From then on
every frame takes equally long, as it would on a board of its own; unlike with a CPU quota, no frame
is fast and the next one stopped, and unlike with a factor on each run's own time, the caches that
went cold while this one slept are not charged to a board that would not have slept.
"""

import time

from edgekit.errors import ConfigError
from edgekit.runtime.session import Session
from edgekit.spec.tensors import Array, TensorSpec

_BURSTS, _BURST_S, _PAUSE_S = 4, 0.15, 0.2
"""A neighbour's turn on a processor is over after some tenths of a second."""
_QUANTILE = 0.1


class DilatedSession:
    """A session that takes ``factor`` times as long."""

    def __init__(self, inner: Session, *, factor: float) -> None:
        if factor < 1.0:
            raise ConfigError(f"dilation must be at least 1, got {factor}", hint="use 1.0 for none")
        self._inner = inner
        self._factor = factor
        self._undisturbed_s = 0.0

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
        while (left_s := due_s - time.perf_counter()) > 0:
            time.sleep(left_s)
        return outputs


def undisturbed_s(session: Session, inputs: dict[str, Array]) -> float:
    """Thread CPU time of one run while nobody disturbs it, from runs back to back [s].

    With more than one runtime thread the calling thread's share stands for all of them.
    """
    times_s: list[float] = []
    for burst in range(_BURSTS):
        if burst:
            time.sleep(_PAUSE_S)
        until_s = time.perf_counter() + _BURST_S
        while True:
            began_s = time.thread_time()
            session.run(inputs)
            times_s.append(time.thread_time() - began_s)
            if time.perf_counter() > until_s:
                break
    return sorted(times_s)[int(_QUANTILE * len(times_s))]
