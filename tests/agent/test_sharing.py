"""A device that shares its frames: it answers some itself, sends the others on, and loses none."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage_world import Pair, images, plan_of, sharing_plan

from edgekit.agent.ledger import Ledger
from edgekit.agent.recorder import Recorder
from edgekit.agent.sharing import Turns
from edgekit.agent.source_stage import Answered
from edgekit.bundle.chain import leaving_of
from edgekit.errors import ConfigError
from edgekit.spec.plan import FRAME_CUT
from edgekit.vision.sources import Frame
from edgekit.vision.sources.memory import MemorySource


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def brightness(answered: Answered) -> float:
    """The width of the one box, which tells the frame."""
    (box,) = [detection.box for detection in answered.detections]
    return box[2] - box[0]


def who(answered: Answered) -> str:
    return answered.stages[-1].device


def test_both_devices_answer_by_their_speed_and_every_frame_is_answered_once(
    stack: ExitStack,
) -> None:
    """20 ms here and 5 ms there: about a fifth is answered here, and all of it rightly."""
    pair = Pair(MemorySource(images(150)), stack, delay_s=0.005, own_delay_s=0.02)
    pair.start_peer()
    pair.start()
    pair.wait(pair.is_closed, 30.0)
    assert pair.ledger.snapshot(0.0).dropped == {}
    assert sorted(one.frame.number for one in pair.answers) == list(range(150))
    widths = {one.frame.number: brightness(one) for one in pair.answers}
    ordered = [widths[number] for number in range(150)]
    assert ordered == sorted(ordered)
    counts = Counter(map(who, pair.answers))
    assert counts["b"] > counts["a"] > 0
    assert all(bool(one.hops) == (who(one) == "b") for one in pair.answers)


def test_while_the_hop_is_down_the_device_goes_on_alone(stack: ExitStack) -> None:
    """Frames that were under way to the other one are answered here; later it takes part again."""
    pair = Pair(MemorySource(images(120)), stack, delay_s=0.005, own_delay_s=0.01)
    pair.start()  # nobody listens yet
    pair.wait(lambda: len(pair.answers) >= 10)
    assert {who(one) for one in pair.answers} == {"a"}
    pair.start_peer()
    pair.wait(lambda: any(who(one) == "b" for one in pair.answers))
    pair.stop_peer()
    pair.wait(pair.is_closed, 30.0)
    assert pair.ledger.snapshot(0.0).dropped == {}
    assert sorted(one.frame.number for one in pair.answers) == list(range(120))


def test_a_slow_device_leaves_frames_to_a_quick_one_that_has_room(stack: ExitStack) -> None:
    """Work that is not pressing is not done in the slow way: frames come slower than the quick one
    answers, so the slow one keeps out of it after it has learnt what both take."""

    class Slow(MemorySource):
        def read(self) -> Frame:
            time.sleep(0.03)
            return super().read()

    pair = Pair(Slow(images(60)), stack, delay_s=0.002, own_delay_s=0.2)
    pair.start_peer()
    pair.start()
    pair.wait(pair.is_closed, 30.0)
    assert Counter(map(who, pair.answers))["a"] <= 4


def test_a_live_source_loses_no_frame_without_a_reason(stack: ExitStack) -> None:
    """The newest frame wins; what both were too busy for is counted as superseded."""
    pair = Pair(MemorySource(images(200), live=True), stack, delay_s=0.01, own_delay_s=0.03)
    pair.start_peer()
    pair.start()
    pair.wait(pair.is_closed, 30.0)
    accounts = pair.ledger.snapshot(0.0)
    assert set(accounts.dropped) <= {"superseded"}
    assert accounts.answered + sum(accounts.dropped.values()) == accounts.captured == 200


def test_stopping_in_the_middle_accounts_for_every_frame(stack: ExitStack) -> None:
    pair = Pair(MemorySource(images(250)), stack, delay_s=0.01, own_delay_s=0.03)
    pair.start_peer()
    pair.start()
    pair.wait(lambda: len(pair.answers) > 5)
    pair.stage.stop()
    accounts = pair.ledger.snapshot(0.0)
    assert accounts.in_flight == 0
    assert accounts.answered + sum(accounts.dropped.values()) == accounts.captured


# ---- the preference ------------------------------------------------------------------------
def test_nothing_is_preferred_before_both_ways_are_known() -> None:
    """So both are tried."""
    turns = Turns()
    assert turns.prefers_here is None
    turns.answered_here(0.02)
    assert turns.prefers_here is None
    turns.sent(1, now_s=0.0)
    turns.returned(1, now_s=0.005)
    assert turns.prefers_here is False


def test_the_more_is_under_way_there_the_sooner_a_frame_is_answered_here() -> None:
    """5 ms a frame there, 18 ms here: four frames there are worth one here."""
    turns = Turns()
    turns.answered_here(0.018)
    turns.sent(0, now_s=0.0)
    turns.returned(0, now_s=0.005)
    preferred = []
    for frame in range(1, 6):
        preferred.append(turns.prefers_here)
        turns.sent(frame, now_s=1.0)
    assert preferred == [False, False, False, True, True]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), max_size=40))
def test_what_is_under_way_never_goes_astray(events: list[tuple[int, bool, bool]]) -> None:
    """Frames sent twice, returned twice, returned without having been sent."""
    turns, now_s = Turns(), 0.0
    turns.answered_here(0.01)
    for frame, is_sent, is_answer in events:
        now_s += 0.003
        if is_sent:
            turns.sent(frame, now_s=now_s)
        else:
            turns.returned(frame, now_s=now_s, is_answer=is_answer)
        assert turns.prefers_here in (None, True, False)


def test_means_are_kept_by_several_threads() -> None:
    turns = Turns()

    def work(start: int) -> None:
        for frame in range(start, start + 200):
            turns.sent(frame, now_s=0.0)
            turns.returned(frame, now_s=0.01)
            turns.answered_here(0.5)

    threads = [threading.Thread(target=work, args=(1000 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert turns.prefers_here is False


# ---- plans and recordings ------------------------------------------------------------------
def test_the_shard_of_a_device_that_shares_is_a_whole_model() -> None:
    plan = sharing_plan()
    assert plan.sends_frames and plan.shares_frames and not plan.forwards_frames
    assert leaving_of(plan, 0) == leaving_of(plan, 1) == plan.model_outputs
    assert not plan_of("a", "b").sends_frames


def test_frames_leave_the_device_that_films_them_and_no_other() -> None:
    plan = plan_of("a", "b", "c")
    with pytest.raises(ConfigError, match="did not film"):
        msgspec.structs.replace(plan, cuts=(plan.cuts[0], FRAME_CUT))


def test_a_recording_is_in_the_order_of_the_camera(tmp_path: Path) -> None:
    """However far answers overtake each other: frame 0 comes last but two here."""
    ledger = Ledger()
    recorder = Recorder(tmp_path / "v.mp4", fps=10, oldest_open=ledger.oldest_open)
    for number in range(12):
        ledger.capture(number)
    ledger.drop(6, "superseded")
    for number in (2, 1, 4, 3, 7, 5, 9, 8, 10, 0, 11):
        image = np.full((64, 64, 3), 20 * number, np.uint8)
        frame = Frame(number=number, image=image, captured_ns=0, captured_unix_s=0.0)
        ledger.answer(number, now_s=0.0, latency_s=0.0)
        recorder.offer(Answered(frame=frame, detections=(), age_s=0, stages=(), hops=()))
    recorder.close()
    video, seen = cv2.VideoCapture(str(tmp_path / "v.mp4")), []
    while (read := video.read())[0]:
        seen.append(float(read[1].mean()))
    assert len(seen) == 11
    assert seen == sorted(seen)
