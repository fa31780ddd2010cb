"""Rates, quantiles and medians of the last answers."""

import pytest
from canned import report
from hypothesis import given
from hypothesis import strategies as st

from edgekit.dashboard.window import TREND_COUNT, AnswerWindow


def _fed(count: int, every_s: float, start_s: float = 100.0) -> AnswerWindow:
    window = AnswerWindow()
    for frame in range(count):
        window.hear(report(frame, age_ms=40.0 + frame % 10), start_s + every_s * frame)
    return window


def test_the_rate_is_that_of_the_last_seconds() -> None:
    """Twenty answers a second read as 20."""
    window = _fed(200, 0.05)
    assert window.rate_per_s(100 + 199 * 0.05) == pytest.approx(20.0)


def test_the_rate_of_a_slow_pipeline_is_not_rounded_away() -> None:
    """One answer in two seconds is 0.5 a second, also between two answers."""
    window = _fed(5, 2.0)
    assert window.rate_per_s(108.0) == pytest.approx(0.5)
    assert window.rate_per_s(109.9) == pytest.approx(0.5)


def test_the_rate_falls_to_zero_soon_after_the_answers_stop() -> None:
    """A dead stream must not look alive for the length of the window."""
    window = _fed(200, 0.05)
    last_s = 100 + 199 * 0.05
    assert window.rate_per_s(last_s + 0.5) < 20
    assert window.rate_per_s(last_s + 1.3) == 0.0


def test_nothing_heard_is_nothing_known() -> None:
    """No division by zero, no invented zero latency."""
    window = AnswerWindow()
    assert window.rate_per_s(5.0) == 0.0 and window.age_s(5.0) is None
    assert window.latency_ms(5.0) is None and window.path(5.0) is None
    assert window.trend(5.0) == () and window.silent_s(5.0) == 0.0


def test_many_answers_at_one_moment_have_no_infinite_rate() -> None:
    """A broker that comes back delivers a queue at once."""
    window = AnswerWindow()
    for frame in range(10):
        window.hear(report(frame), 7.0)
    assert window.rate_per_s(7.0) == 0.0


def test_latency_is_taken_over_the_window_only() -> None:
    """What was slow ten seconds ago does not matter now."""
    window = AnswerWindow()
    window.hear(report(0, age_ms=5000.0), 0.0)
    window.hear(report(1, age_ms=50.0), 10.0)
    latency_ms = window.latency_ms(10.0)
    assert latency_ms is not None and latency_ms.p95 == 50.0


def test_age_grows_while_nothing_is_answered() -> None:
    """The newest answer was 50 ms old when it came; two seconds later it is 2.05 s old."""
    window = AnswerWindow()
    window.hear(report(age_ms=50.0), 3.0)
    assert window.age_s(5.0) == pytest.approx(2.05)


def test_the_path_gives_medians_and_what_is_left() -> None:
    """Stages, hops and rest add up to the age."""
    window = AnswerWindow()
    for frame, first_ms in enumerate((19.0, 20.0, 90.0)):
        window.hear(report(frame, age_ms=first_ms + 30.0, stages=(first_ms, 15.0), hop_ms=5.0), 1.0)
    path = window.path(1.0)
    assert path is not None
    assert [stage.ms for stage in path.stages] == [20.0, 15.0]
    assert path.hops[0].ms == 5.0 and path.hops[0].bytes == 519_168
    assert path.rest_ms == pytest.approx(10.0)


def test_the_path_mixes_no_frames_that_went_another_way() -> None:
    """After a new cut, the old pipeline's times are another pipeline's."""
    window = AnswerWindow()
    window.hear(report(0, stages=(500.0, 500.0)), 1.0)
    alone = report(1)
    window.hear(type(alone)(**{**_fields(alone), "stages": alone.stages[:1], "hops": ()}), 1.1)
    path = window.path(1.2)
    assert path is not None and [stage.ms for stage in path.stages] == [20.0] and path.hops == ()


def test_a_gap_in_the_trend_is_shown_as_no_answers() -> None:
    """Silence is a value."""
    window = _fed(20, 0.05, start_s=100.0)
    trend = window.trend(104.0)
    assert [point.answers_count for point in trend] == [20, 0, 0, 0]
    assert trend[0].p50_ms is not None and trend[1].p50_ms is None


def test_memory_is_bounded_by_what_is_shown() -> None:
    """A day of silence or a flood of answers is a minute of trend and a window of reports."""
    window = _fed(20_000, 0.0001)
    assert len(window._heard) <= 4096 and len(window._second_ages_ms) <= 4096
    assert len(window.trend(100_000.0)) == TREND_COUNT


@given(
    st.lists(
        st.tuples(
            st.floats(0, 30), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
        ),
        max_size=40,
    )
)
def test_no_numbers_break_the_window(steps: list[tuple[float, float, bool]]) -> None:
    """Devices may send any finite number; moments never go back, but may stand still."""
    window, now_s = AnswerWindow(), 0.0
    for step_s, age_ms, is_answer in steps:
        now_s += step_s
        if is_answer:
            window.hear(report(age_ms=age_ms), now_s)
        assert window.rate_per_s(now_s) >= 0.0
        window.latency_ms(now_s), window.path(now_s), window.age_s(now_s)
        seconds = [point.second for point in window.trend(now_s)]
        assert seconds == sorted(set(seconds)) and len(seconds) <= TREND_COUNT


def _fields(message) -> dict[str, object]:
    return {name: getattr(message, name) for name in message.__struct_fields__}
