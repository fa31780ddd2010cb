"""Footage with a clock. Times are checked as order and as lower bounds, never as upper ones."""

import threading
import time

import numpy as np
import pytest

from edgekit.errors import ConfigError
from edgekit.vision.sources import EndOfSource, open_source
from edgekit.vision.sources.memory import MemorySource
from edgekit.vision.sources.paced import PacedSource

IMAGES = [np.full((4, 4, 3), n, np.uint8) for n in range(200)]


def paced(*, fps: float, skip_late: bool) -> PacedSource:
    return PacedSource(MemorySource(IMAGES, live=skip_late), fps=fps, skip_late=skip_late)


def test_frames_do_not_come_before_they_are_due() -> None:
    source = paced(fps=50, skip_late=False)
    frames = [source.read() for _ in range(6)]
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4, 5]
    assert frames[5].captured_ns - frames[0].captured_ns >= 0.099e9


def test_the_capture_time_is_when_the_frame_was_due_not_when_it_was_decoded() -> None:
    source = paced(fps=20, skip_late=False)
    source.read()
    before = time.perf_counter_ns()
    assert source.read().captured_ns - before >= 0.04e9


def test_a_late_reader_of_a_live_source_gets_the_newest_frame() -> None:
    """Like a camera: what was not fetched is gone, and the numbers show the gap."""
    source = paced(fps=50, skip_late=True)
    assert source.read().number == 0
    time.sleep(0.2)
    late = source.read()
    assert late.number >= 9
    assert (late.image == late.number).all()
    assert source.read().number > late.number


def test_a_late_reader_of_every_frame_moves_the_clock() -> None:
    source = paced(fps=50, skip_late=False)
    source.read()
    time.sleep(0.2)
    first, second = source.read(), source.read()
    assert (first.number, second.number) == (1, 2)
    assert second.captured_ns - first.captured_ns >= 0.015e9


def test_a_reader_that_stood_still_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspended laptop would otherwise have to decode minutes of video to catch up."""
    monkeypatch.setattr("edgekit.vision.sources.paced._STALL_S", 0.1)
    source = paced(fps=50, skip_late=True)
    source.read()
    time.sleep(0.3)
    assert source.read().number == 1


def test_closing_ends_a_wait_at_once() -> None:
    source = paced(fps=0.01, skip_late=True)
    source.read()
    threading.Timer(0.05, source.close).start()
    with pytest.raises(EndOfSource):
        source.read()


def test_the_end_of_the_footage_is_the_end() -> None:
    source = PacedSource(MemorySource(IMAGES[:2]), fps=500, skip_late=True)
    with pytest.raises(EndOfSource):
        for _ in range(3):
            source.read()


def test_live_footage_is_paced_and_pace_can_be_asked_for() -> None:
    """The defaults of each kind, seen from outside."""
    scene = "scene:yard?size=64x40&fps=20&frames=4"
    cases = {scene: True, f"{scene}&mode=every": False, f"{scene}&mode=every&pace=1": True}
    for uri, is_paced in cases.items():
        source = open_source(uri)
        stamps = [source.read().captured_ns for _ in range(4)]
        assert source.info.live == ("every" not in uri)
        if is_paced:
            assert stamps[3] - stamps[0] >= 0.149e9
    assert open_source(scene, mode="every").info.live is False
    assert open_source(f"{scene}&mode=every", mode="live").info.live is True


def test_live_footage_without_a_frame_rate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nameless = MemorySource(IMAGES, fps=0.0)
    monkeypatch.setattr("edgekit.vision.sources.opening._footage", lambda *_: nameless)
    with pytest.raises(ConfigError, match="add fps=30"):
        open_source("file:x.mp4?mode=live")
