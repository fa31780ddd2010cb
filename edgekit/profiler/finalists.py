"""Time shards in the runtime of this machine, before a plan is final.

In:  ONNX files.  Out: seconds per run.  A shard that the runtime refuses is an
error here, not on the device. The files take turns, so that a change of clock or load hits all of
them alike; runs that something else disturbed do not count (``probe_session.undisturbed_mean``).
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit.profiler.probe_session import interleaved_times_s
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import random_inputs

_LEAST_RUNS = 6
_AT_ONCE = 6
"""Sessions held in memory together."""
_LEAST_S = 0.15
"""Spent on each shard at least."""

Tell = Callable[[int], None]
"""Called with how many are done."""


def time_shards(
    paths: Sequence[Path],
    *,
    threads: int = 1,
    budget_s: float = 10.0,
    tell: Tell | None = None,
) -> list[float]:
    """Seconds of one inference of each shard on random inputs; about ``budget_s`` for all.

    Raises: ModelError naming a shard that the runtime refuses; DeviceError if one fails.
    """
    times_s: list[float] = []
    for start in range(0, len(paths), _AT_ONCE):
        group = paths[start : start + _AT_ONCE]
        share_s = max(_LEAST_S * len(group), budget_s * len(group) / len(paths))
        runs = [_run(path, threads) for path in group]
        # One thread's own time leaves out the turns of others on its processor.
        clock = time.thread_time if threads == 1 else time.perf_counter
        times_s += interleaved_times_s(runs, budget_s=share_s, least_count=_LEAST_RUNS, clock=clock)
        if tell is not None:
            tell(len(times_s))
    return times_s


def _run(path: Path, threads: int) -> Callable[[], object]:
    session = OrtSession(path, threads=threads)
    inputs = random_inputs(session.inputs)
    return lambda: session.run(inputs)
