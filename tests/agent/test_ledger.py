"""The accounts of a stream add up, whatever happens in whatever order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent.ledger import Ledger

EVENTS = st.lists(
    st.tuples(st.sampled_from(["capture", "answer", "drop", "drop_all"]), st.integers(0, 8)),
    max_size=60,
)


@given(EVENTS)
def test_captured_is_answered_plus_dropped_plus_in_flight_after_any_events(
    events: list[tuple[str, int]],
) -> None:
    """The promise that no frame is lost silently is this equation."""
    ledger, captured = Ledger(), set()
    for kind, frame in events:
        if kind == "capture" and frame not in captured:
            captured.add(frame)
            ledger.capture(frame)
        elif kind == "answer":
            ledger.answer(frame, now_s=1.0, latency_s=0.1)
        elif kind == "drop":
            ledger.drop(frame, "superseded")
        elif kind == "drop_all":
            ledger.drop_all("stopped")
        accounts = ledger.snapshot(1.0)
        ended = accounts.answered + sum(accounts.dropped.values())
        assert accounts.captured == len(captured) == ended + accounts.in_flight


def test_a_repeated_answer_counts_once() -> None:
    """After a reconnect an activation may be answered twice."""
    ledger = Ledger()
    ledger.capture(3)
    assert ledger.answer(3, now_s=0.0, latency_s=0.1)
    assert not ledger.answer(3, now_s=0.1, latency_s=0.2)
    assert not ledger.drop(3, "hop_lost")
    assert ledger.snapshot(0.2).answered == 1


def test_capturing_a_frame_number_twice_is_an_error() -> None:
    """Two open frames with one number could not be told apart."""
    ledger = Ledger()
    ledger.capture(0)
    with pytest.raises(ValueError, match="captured twice"):
        ledger.capture(0)


def test_the_books_close_only_when_the_source_ended_and_nothing_is_in_flight() -> None:
    """A summary must not be written before the last answer."""
    ledger = Ledger()
    ledger.capture(0)
    ledger.end_source()
    assert not ledger.snapshot(0.0).is_closed
    ledger.answer(0, now_s=0.0, latency_s=0.1)
    assert ledger.snapshot(0.0).is_closed


def test_rate_and_latency_forget_what_is_older_than_the_window() -> None:
    """A page that shows yesterday's latency as today's is lying."""
    ledger = Ledger()
    for frame in range(10):
        ledger.capture(frame)
        ledger.answer(frame, now_s=frame * 0.1, latency_s=0.5 if frame < 5 else 0.1)
    assert ledger.snapshot(0.9).fps == pytest.approx(10.0)
    assert ledger.snapshot(5.75).latency_ms.p99 == pytest.approx(100.0)
    assert ledger.snapshot(100.0).fps == 0.0
