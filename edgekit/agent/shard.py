"""One shard of a plan, ready to run on this device.

In: the tensors that entered the device.  Out: the tensors that leave it, and the time it took.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass
from statistics import median

from edgekit.bundle.chain import advance, leaving_of
from edgekit.errors import ModelError
from edgekit.runtime.session import Session
from edgekit.spec.plan import Plan
from edgekit.spec.tensors import Array

_WINDOW_S = 5.0


@dataclass(frozen=True, slots=True)
class StageLoad:
    """What a stage did over the last window."""

    frames_in: int
    stage_ms: float
    utilization: float


class ShardRunner:
    """A session with the names that a plan gives to what enters and leaves it."""

    def __init__(self, session: Session, plan: Plan, index: int) -> None:
        placement = plan.placements[index]
        entering = {spec.name: spec for spec in placement.inputs}
        for spec in session.inputs:
            given = entering.get(spec.name)
            if given is None or given.dtype != spec.dtype:
                raise ModelError(
                    f"shard {index} needs {spec}, but the plan brings {sorted(entering)}",
                    hint="build the bundle again",
                )
        self._leaving = [spec.name for spec in leaving_of(plan, index)]
        self._session = session
        self._entering = entering

    def check(self, tensors: dict[str, Array]) -> str:
        """Why these tensors cannot enter this shard, or an empty string."""
        for name, spec in self._entering.items():
            array = tensors.get(name)
            if array is None:
                return f"tensor {name!r} is missing"
            if array.shape != spec.shape or array.dtype.name != spec.dtype:
                return f"tensor {name!r} is {array.dtype.name}{array.shape}, expected {spec}"
        return ""

    def run(self, tensors: dict[str, Array]) -> dict[str, Array]:
        """Tensors that leave this device for the next one (or for the decoder).

        Raises: DeviceError if the runtime fails.
        """
        return advance(self._session, tensors, self._leaving)


class StageMeter:
    """Times of the last frames of one stage, for telemetry. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames_in = 0
        self._recent: deque[tuple[float, float]] = deque()

    def add(self, duration_s: float) -> None:
        """A frame was processed in ``duration_s``, just now."""
        with self._lock:
            self._frames_in += 1
            self._recent.append((time.perf_counter(), duration_s))

    def load(self) -> StageLoad:
        """Median time and utilisation over the last five seconds."""
        with self._lock:
            now_s = time.perf_counter()
            while self._recent and self._recent[0][0] < now_s - _WINDOW_S:
                self._recent.popleft()
            durations_s = [duration_s for _, duration_s in self._recent]
            if not durations_s:
                return StageLoad(self._frames_in, 0.0, 0.0)
            span_s = max(now_s - self._recent[0][0] + self._recent[0][1], 1e-9)
            return StageLoad(
                self._frames_in,
                round(1e3 * median(durations_s), 3),
                round(min(1.0, sum(durations_s) / span_s), 4),
            )
