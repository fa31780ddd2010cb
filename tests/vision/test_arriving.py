"""Random arrivals. Times are checked as order and as lower bounds, never as upper ones."""

import statistics
import time

import numpy as np
import pytest

from edgekit.errors import ConfigError
from edgekit.vision.sources import EndOfSource, open_source
from edgekit.vision.sources.arriving import ArrivingSource
from edgekit.vision.sources.memory import MemorySource

IMAGES = [np.full((4, 4, 3), n, np.uint8) for n in range(250)]


def arrivals_s(source: ArrivingSource, count: int) -> list[float]:
    return [source.read().captured_ns / 1e9 for _ in range(count)]


def test_gaps_are_exponential_with_the_mean_that_was_asked_for() -> None:
    """Mean and deviation of an exponential are equal; 200 gaps are within a quarter of both."""
    times_s = arrivals_s(ArrivingSource(MemorySource(IMAGES), fps=400, seed=3), 201)
    gaps_s = np.diff(times_s)
    assert (gaps_s > 0).all()
    assert statistics.mean(gaps_s) == pytest.approx(1 / 400, rel=0.25)
    assert statistics.stdev(gaps_s) == pytest.approx(1 / 400, rel=0.25)


def test_a_frame_does_not_wait_for_its_reader() -> None:
    """What queues in front of a slow pipeline has arrived, and ages."""
    source = ArrivingSource(MemorySource(IMAGES), fps=200, seed=1)
    source.read()
    time.sleep(0.2)
    now_ns = time.perf_counter_ns()
    frames = [source.read() for _ in range(10)]
    assert [frame.number for frame in frames] == list(range(1, 11))
    assert frames[0].captured_ns < now_ns - 0.1e9


def test_equal_seeds_give_equal_gaps() -> None:
    one, other = (
        np.diff(arrivals_s(ArrivingSource(MemorySource(IMAGES), fps=500, seed=7), 20))
        for _ in range(2)
    )
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_closing_ends_a_wait() -> None:
    source = ArrivingSource(MemorySource(IMAGES), fps=0.001)
    source.close()
    with pytest.raises(EndOfSource):
        source.read()


def test_a_scene_can_arrive_at_random_and_a_camera_cannot() -> None:
    source = open_source("scene:yard?arrivals=poisson&fps=100&frames=3&size=160x128")
    assert isinstance([source.read() for _ in range(3)], list)
    source.close()
    with pytest.raises(ConfigError, match="arrivals of its own"):
        open_source("0?arrivals=poisson")
    with pytest.raises(ConfigError, match="pace=0"):
        open_source("scene:yard?arrivals=poisson&pace=0")
