"""Answers leave at once, or together, and none is lost without being counted."""

import threading

from edgekit.agent.answer_publisher import AnswerPublisher
from edgekit.errors import LinkError
from edgekit.spec.messages import AnswerReport, parse_answers


def report(frame: int) -> AnswerReport:
    return AnswerReport(
        stream="main", run="r", frame=frame, detections=(), captured_unix_s=0.0, age_ms=1.0
    )


class Wire:
    """Collects payloads; can hold the publishing thread inside the first of them."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.arrived, self.go_on = threading.Event(), threading.Event()

    def publish(self, payload: bytes) -> None:
        self.payloads.append(payload)
        self.arrived.set()
        assert self.go_on.wait(5.0)

    def frames(self) -> list[list[int]]:
        return [[r.frame for r in parse_answers(p, origin="wire")] for p in self.payloads]


def test_a_single_answer_is_published_without_waiting_for_others() -> None:
    """At a camera's pace nothing may be added to the latency."""
    wire = Wire()
    publisher = AnswerPublisher(wire.publish, period_s=60.0)
    publisher.offer(report(0))
    assert wire.arrived.wait(5.0)
    wire.go_on.set()
    publisher.close()
    assert wire.frames() == [[0]]


def test_answers_that_come_meanwhile_leave_together_and_in_order() -> None:
    """One message each would cost the board more than the answers."""
    wire = Wire()
    publisher = AnswerPublisher(wire.publish, period_s=0.0)
    publisher.offer(report(0))
    assert wire.arrived.wait(5.0)
    for frame in (1, 2, 3):
        publisher.offer(report(frame))
    wire.go_on.set()
    publisher.close()
    assert wire.frames() == [[0], [1, 2, 3]]


def test_closing_publishes_what_waits() -> None:
    wire = Wire()
    wire.go_on.set()
    publisher = AnswerPublisher(wire.publish, period_s=60.0)
    for frame in range(10):
        publisher.offer(report(frame))
    publisher.close()
    publisher.close()
    assert [frame for frames in wire.frames() for frame in frames] == list(range(10))


def test_answers_that_find_no_broker_are_counted_one_by_one() -> None:
    """A message that is refused holds several answers."""

    def refuse(payload: bytes) -> None:
        raise LinkError("the queue is full", hint="wait")

    publisher = AnswerPublisher(refuse, period_s=0.0)
    for frame in range(7):
        publisher.offer(report(frame))
    publisher.close()
    assert publisher.unpublished_count == 7
