"""How long a loaded shard takes, measured where it will run.

In: a session and its inputs.  Out: a Timing with the median and the spread, in seconds.
"""

import time
from dataclasses import dataclass
from statistics import median

from edgekit.runtime.session import Session
from edgekit.spec.tensors import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Repeated wall times of one piece of work."""

    median_s: float
    p10_s: float
    p90_s: float
    run_count: int


def summarize_times(times_s: list[float]) -> Timing:
    """Median and spread of wall times [s]. Raises: ValueError if there are none."""
    if not times_s:
        raise ValueError("no times to summarize")
    ordered = sorted(times_s)
    last = len(ordered) - 1
    return Timing(
        median_s=median(ordered),
        p10_s=ordered[round(0.1 * last)],
        p90_s=ordered[round(0.9 * last)],
        run_count=len(ordered),
    )


def measure_session(
    session: Session, inputs: dict[str, Array], *, run_count: int = 30, warm_up_count: int = 5
) -> Timing:
    """Wall time of one inference: ``warm_up_count`` runs unseen, then ``run_count`` runs.

    Raises: DeviceError if the runtime fails.
    """
    for _ in range(warm_up_count):
        session.run(inputs)
    times_s = []
    for _ in range(run_count):
        started_s = time.perf_counter()
        session.run(inputs)
        times_s.append(time.perf_counter() - started_s)
    return summarize_times(times_s)
