"""The steady rate of a link from arrivals: exact where it can be told, 0 where it cannot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.transport.dispersion import mean_rate, steady_rate

rates = st.floats(10.0, 1e6)


def train(count: int, rate: float, *, burst: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """``count`` arrivals at ``rate``, the first ``burst`` of them a thousand times as fast."""
    gaps = np.full(count, 1 / rate)
    gaps[:burst] /= 1000
    return np.cumsum(gaps), np.arange(count, dtype=np.float64)


@given(st.integers(8, 500), rates)
def test_evenly_spaced_arrivals_give_their_rate(count: int, rate: float) -> None:
    for measure in (steady_rate, lambda t, p: mean_rate(t, p, head=0.3)):
        assert measure(*train(count, rate)) == pytest.approx(rate, rel=1e-6)


@given(st.integers(40, 400), rates, st.floats(0.0, 0.6))
def test_a_token_bucket_at_the_head_does_not_show(count: int, rate: float, share: float) -> None:
    """Up to 60 % of the packets may come at line speed: they take no time."""
    times_s, positions = train(count, rate, burst=round(share * count))
    assert steady_rate(times_s, positions) == pytest.approx(rate, rel=1e-6)


@given(st.integers(8, 40), st.integers(1, 16), rates)
def test_arrivals_in_clumps_give_the_rate_of_whole_clumps(
    clump_count: int, size: int, rate: float
) -> None:
    """The kernel cuts batches apart, network cards gather interrupts, Wi-Fi aggregates."""
    times_s = np.repeat(np.arange(1, clump_count + 1) * size / rate, size)
    positions = np.arange(len(times_s), dtype=np.float64)
    assert steady_rate(times_s, positions) == pytest.approx(rate, rel=1e-6)


@given(st.integers(60, 300), rates, st.floats(0.55, 0.9))
def test_one_stall_of_the_receiver_does_not_show(count: int, rate: float, place: float) -> None:
    """Arrivals queue meanwhile, then come at once."""
    times_s, positions = train(count, rate)
    start = round(place * count)
    end = start + count // 20
    times_s[start:end] = times_s[end]
    assert steady_rate(times_s, positions) == pytest.approx(rate, rel=0.01)
    assert mean_rate(times_s, positions, head=0.3) == pytest.approx(rate, rel=0.05)


def test_packets_lost_in_the_receiver_count_as_carried() -> None:
    """They used the link: their places are skipped, their time is not."""
    times_s, positions = train(200, 1000.0)
    kept = np.random.default_rng(3).random(200) < 0.7
    assert steady_rate(times_s[kept], positions[kept]) == pytest.approx(1000.0, rel=0.01)


def test_packets_lost_on_the_way_do_not_count() -> None:
    """A queue that overflows keeps the link as busy as before."""
    times_s, positions = train(200, 1000.0)
    assert steady_rate(times_s[:150], positions[:150]) == pytest.approx(1000.0)


@pytest.mark.parametrize(
    "times_s",
    [[], [1.0], [1.0, 2.0, 3.0], [5.0] * 50, [3.0, 2.0, 1.0, 0.0], [1.0, 2.0, 0.5, 3.0, 4.0]],
    ids=["nothing", "one", "three", "one instant", "backwards", "clock set back"],
)
def test_what_cannot_be_told_is_zero(times_s: list[float]) -> None:
    times, positions = np.array(times_s), np.arange(len(times_s), dtype=np.float64)
    assert steady_rate(times, positions) == 0.0
    assert mean_rate(times, positions, head=0.3) == 0.0


@given(st.lists(st.floats(0, 1e9), max_size=60), st.floats(0.0, 0.9))
def test_any_row_of_arrivals_gives_a_finite_rate(times_s: list[float], head: float) -> None:
    times, positions = np.array(sorted(times_s)), np.arange(len(times_s), dtype=np.float64)
    for rate in (steady_rate(times, positions), mean_rate(times, positions, head=head)):
        assert np.isfinite(rate)
        assert rate >= 0.0
