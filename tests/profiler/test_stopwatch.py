"""Times are medians of many runs, and warm-up does not count."""

import pytest

from edgekit.profiler.stopwatch import measure_session, summarize_times
from edgekit.runtime.echo import EchoSession
from edgekit.spec.tensors import TensorSpec

SPEC = TensorSpec(name="x", dtype="float32", shape=(1,))


def test_median_and_spread_of_known_times() -> None:
    """One slow run must not move the figure that is quoted."""
    timing = summarize_times([1.0] * 9 + [100.0])
    assert (timing.median_s, timing.p10_s, timing.p90_s, timing.run_count) == (1.0, 1.0, 1.0, 10)
    with pytest.raises(ValueError, match="no times"):
        summarize_times([])


def test_warm_up_runs_are_not_counted() -> None:
    """The first runs of a session allocate."""
    calls = []
    session = EchoSession((SPEC,), (SPEC,), function=lambda inputs: calls.append(1) or inputs)
    assert measure_session(session, {}, run_count=4, warm_up_count=3).run_count == 4
    assert len(calls) == 7
