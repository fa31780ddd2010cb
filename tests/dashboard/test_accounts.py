"""The accounts of a stream add up whatever happens to the agent that films it."""

from canned import counts, telemetry
from hypothesis import given
from hypothesis import strategies as st

from edgekit.dashboard.accounts import AGENT_RESTARTED, STOPPED, StreamAccounts, adds_up


def _heard(*messages) -> StreamAccounts:
    accounts = StreamAccounts()
    for message in messages:
        accounts.hear(message)
    return accounts


def test_the_newest_message_of_a_run_counts() -> None:
    """Counts in telemetry are totals of the run, not increments."""
    total = _heard(
        telemetry(sequence=1, stream=counts(10, 8, {"superseded": 1}, 1)),
        telemetry(sequence=2, stream=counts(30, 27, {"superseded": 2}, 1)),
    ).total()
    assert (total.captured_count, total.answered_count, total.in_flight_count) == (30, 27, 1)
    assert total.dropped == {"superseded": 2}


def test_frames_in_flight_when_the_agent_died_are_dropped_as_restarted() -> None:
    """A killed agent cannot account for them; the page must."""
    total = _heard(
        telemetry(run="old", sequence=9, stream=counts(50, 45, {"superseded": 2}, 3)),
        telemetry(run="new", sequence=1, stream=counts(4, 3, {}, 1)),
    ).total()
    assert (total.captured_count, total.answered_count, total.in_flight_count) == (54, 48, 1)
    assert total.dropped == {AGENT_RESTARTED: 3, "superseded": 2}


def test_a_run_that_accounted_for_all_frames_adds_no_loss() -> None:
    """A clean stop already dropped what was in flight."""
    total = _heard(
        telemetry(run="old", stream=counts(50, 48, {"stopped": 2}, 0)),
        telemetry(run="new", stream=counts(5, 5)),
    ).total()
    assert total.dropped == {"stopped": 2}


def test_a_restarted_agent_that_films_nothing_yet_ends_the_old_run() -> None:
    """It comes back idle, and may stay so."""
    total = _heard(
        telemetry(run="old", stream=counts(50, 46, {}, 4)),
        telemetry(run="new", state="idle", epoch=0, stream=None),
    ).total()
    assert total.dropped == {AGENT_RESTARTED: 4} and total.in_flight_count == 0


def test_a_new_deployment_in_the_same_run_begins_a_new_segment() -> None:
    """A commit makes a new pipeline with new counts, in the same process."""
    total = _heard(
        telemetry(epoch=1, sequence=1, stream=counts(50, 46, {}, 4)),
        telemetry(epoch=2, sequence=2, stream=counts(3, 2, {}, 1)),
    ).total()
    assert (total.captured_count, total.answered_count) == (53, 48)
    assert total.dropped == {STOPPED: 4} and total.in_flight_count == 1


def test_counts_that_shrink_within_an_epoch_begin_a_new_segment() -> None:
    """Nobody un-captures a frame: another pipeline must be counting."""
    total = _heard(
        telemetry(sequence=1, stream=counts(50, 46, {}, 4)),
        telemetry(sequence=2, stream=counts(3, 2, {}, 1)),
    ).total()
    assert total.captured_count == 53 and total.dropped == {STOPPED: 4}


def test_late_and_repeated_messages_change_nothing() -> None:
    """MQTT delivers at least once."""
    first = telemetry(sequence=1, stream=counts(10, 9, {}, 1))
    second = telemetry(sequence=2, stream=counts(20, 19, {}, 1))
    assert _heard(first, second, first, second).total() == _heard(first, second).total()


def test_a_stream_that_moves_to_another_device_keeps_its_past() -> None:
    """A new plan may give the camera to another board."""
    total = _heard(
        telemetry("edge-a", stream=counts(50, 49, {}, 1)),
        telemetry("edge-a", sequence=2, stream=None),
        telemetry("edge-b", run="b", stream=counts(10, 10)),
    ).total()
    assert total.captured_count == 60 and total.dropped == {STOPPED: 1}


def test_a_hundred_restarts_are_summed_in_bounded_memory() -> None:
    """A board that crashes in a loop must not fill the viewer's memory."""
    accounts = _heard(
        *(telemetry(run=f"run-{n}", stream=counts(10, 8, {"superseded": 1}, 1)) for n in range(100))
    )
    total = accounts.total()
    assert total.captured_count == 1000 and total.answered_count == 800
    assert total.dropped[AGENT_RESTARTED] == 99 and total.in_flight_count == 1
    assert len(accounts._segments) <= 32


def test_only_possible_and_complete_counts_add_up() -> None:
    """A message that contradicts itself must not reach the sum."""
    assert adds_up(counts(10, 7, {"a": 1, "b": 1}, 1))
    assert not adds_up(counts(10, 7, {"a": 1}, 1))
    assert not adds_up(counts(0, -1, {}, 1))
    assert not adds_up(counts(1, 2, {"a": -1}, 0))


class _Agent:
    """A source agent with a ledger, which may be killed, redeployed, and half heard."""

    def __init__(self) -> None:
        self.run, self.epoch, self.sequence = 0, 1, 0
        self.begin()
        self.true_captured = self.true_answered = 0

    def begin(self) -> None:
        self.captured = self.answered = 0
        self.dropped: dict[str, int] = {}

    @property
    def in_flight(self) -> int:
        return self.captured - self.answered - sum(self.dropped.values())

    def do(self, event: str) -> None:
        if event == "capture":
            self.captured += 1
            self.true_captured += 1
        elif event in ("answer", "superseded", "hop_lost") and self.in_flight:
            if event == "answer":
                self.answered += 1
                self.true_answered += 1
            else:
                self.dropped[event] = self.dropped.get(event, 0) + 1
        elif event == "kill":
            self.run, self.sequence = self.run + 1, 0
            self.begin()
        elif event == "redeploy":
            self.epoch += 1
            self.begin()

    def telemetry(self, *, films: bool = True):
        self.sequence += 1
        stream = counts(self.captured, self.answered, dict(self.dropped), self.in_flight)
        return telemetry(
            run=f"run-{self.run}",
            epoch=self.epoch,
            sequence=self.sequence,
            stream=stream if films else None,
        )


_OFTEN = ("capture", "capture", "answer", "answer", "superseded", "hop_lost", "tell", "tell")
_SELDOM = ("tell-twice", "tell-late", "lose", "blank", "kill", "redeploy")
_EVENTS = st.lists(st.sampled_from(_OFTEN + _SELDOM), max_size=120)


@given(_EVENTS)
def test_the_sum_adds_up_through_kills_redeployments_and_lost_messages(events: list[str]) -> None:
    """captured = answered + dropped + in flight, after every message, and captured only grows."""
    agent, accounts, told = _Agent(), StreamAccounts(), []
    seen_captured = 0
    for event in events:
        agent.do(event)
        if event == "lose":
            agent.telemetry()
        elif event == "blank":
            accounts.hear(agent.telemetry(films=False))
        elif event.startswith("tell"):
            told.append(agent.telemetry())
            accounts.hear(told[-1])
            if event == "tell-twice":
                accounts.hear(told[-1])
            elif event == "tell-late" and len(told) > 1:
                accounts.hear(told[-2])
        total = accounts.total()
        whole = total.answered_count + total.dropped_count + total.in_flight_count
        assert total.captured_count == whole
        assert all(count > 0 for count in total.dropped.values())
        assert total.in_flight_count <= agent.true_captured
        assert total.captured_count >= seen_captured
        seen_captured = total.captured_count
        assert seen_captured <= agent.true_captured
        assert total.answered_count <= agent.true_answered


@given(_EVENTS)
def test_a_viewer_that_heard_every_last_word_knows_the_truth(events: list[str]) -> None:
    """If each run's last telemetry arrives, no captured or answered frame is missing."""
    agent, accounts = _Agent(), StreamAccounts()
    for event in events:
        if event in ("kill", "redeploy"):
            accounts.hear(agent.telemetry())
        agent.do(event)
    accounts.hear(agent.telemetry())
    total = accounts.total()
    assert total.captured_count == agent.true_captured
    assert total.answered_count == agent.true_answered
    assert total.in_flight_count == agent.in_flight
