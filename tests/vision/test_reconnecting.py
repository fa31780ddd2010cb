"""Cameras and streams that vanish and come back, with a fake capture."""

import threading
import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from edgekit.errors import DeviceError
from edgekit.vision.sources import EndOfSource
from edgekit.vision.sources.capture import SharedCapture
from edgekit.vision.sources.device import DeviceSource
from edgekit.vision.sources.reconnecting import BackOff, ReconnectingSource

QUICK = BackOff(first_s=0.001, cap_s=0.005)


class FakeCapture:
    """Gives ``frames`` frames, then none. Remembers misuse."""

    def __init__(self, frames: int, *, image: object = None) -> None:
        self.left = frames
        self.image = np.zeros((6, 8, 3), np.uint8) if image is None else image
        self.released = 0
        self.used_after_release = False

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        self.used_after_release |= self.released > 0
        self.left -= 1
        return self.left >= 0

    def retrieve(self) -> tuple[bool, object]:
        return True, self.image

    def get(self, prop: int) -> float:
        return {cv2.CAP_PROP_FRAME_WIDTH: 8.0, cv2.CAP_PROP_FRAME_HEIGHT: 6.0}.get(prop, 0.0)

    def release(self) -> None:
        self.released += 1


class Plug:
    """A camera socket: each entry is what one attempt to open finds."""

    def __init__(self, *finds: "FakeCapture | None") -> None:
        self.finds = list(finds)
        self.attempts = 0

    def open(self) -> FakeCapture:
        self.attempts += 1
        found = self.finds.pop(0) if self.finds else None
        if found is None:
            raise DeviceError("there is no camera /dev/video0", hint="plug one in")
        return found


def camera(plug: Plug, *, first_number: int = 0) -> ReconnectingSource:
    def connect() -> DeviceSource:
        return DeviceSource(plug.open, uri="v4l2:///dev/video0", kind="camera", live=True)

    return ReconnectingSource(connect, first_number=first_number, back_off=QUICK)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


def test_an_unplugged_camera_is_opened_again_and_numbers_go_on() -> None:
    plug = Plug(FakeCapture(3), None, None, FakeCapture(2), None, FakeCapture(9))
    source = camera(plug)
    assert [source.read().number for _ in range(8)] == list(range(8))
    assert plug.attempts == 6
    assert source.problem == ""


def test_while_there_is_no_picture_the_problem_says_why_and_what_to_try() -> None:
    plug = Plug(FakeCapture(1))
    source = camera(plug)
    source.read()
    reader = threading.Thread(target=pytest.raises, args=(EndOfSource, source.read))
    reader.start()
    wait_for(lambda: plug.attempts > 3)
    assert source.problem.startswith("no picture: there is no camera /dev/video0. Try: plug one in")
    source.close()
    reader.join(timeout=10)
    assert not reader.is_alive()


def test_the_lost_capture_is_released() -> None:
    """A device file held open could not be opened again."""
    first = FakeCapture(1)
    source = camera(Plug(first, FakeCapture(5)))
    source.read(), source.read()
    assert first.released >= 1
    assert not first.used_after_release


def test_a_camera_that_is_absent_at_the_start_is_an_error_at_once() -> None:
    with pytest.raises(DeviceError, match="plug one in"):
        camera(Plug())


def test_a_few_bad_frames_are_not_a_lost_camera() -> None:
    class Hiccup(FakeCapture):
        def grab(self) -> bool:
            return super().grab() and self.left not in (5, 4)

    plug = Plug(Hiccup(8))
    source = camera(plug)
    assert [source.read().number for _ in range(6)] == list(range(6))
    assert plug.attempts == 1


def test_numbering_can_start_later() -> None:
    assert camera(Plug(FakeCapture(3)), first_number=40).read().number == 40


def test_waits_double_up_to_a_cap_and_are_jittered() -> None:
    back_off = BackOff(first_s=0.25, cap_s=5.0)
    for attempt, full_s in ((1, 0.25), (2, 0.5), (4, 2.0), (9, 5.0), (10_000, 5.0)):
        waits = {back_off.wait_s(attempt) for _ in range(20)}
        assert len(waits) > 1
        assert all(full_s / 2 <= wait <= full_s for wait in waits)


def test_closing_during_a_blocked_read_returns_at_once_and_releases_afterwards() -> None:
    """OpenCV may crash if a capture is released under a reader."""
    blocked, may_go = threading.Event(), threading.Event()

    class Blocking(FakeCapture):
        def grab(self) -> bool:
            blocked.set()
            assert may_go.wait(10)
            return super().grab()

    capture = Blocking(5)
    source = camera(Plug(capture))
    reader = threading.Thread(target=pytest.raises, args=(EndOfSource, source.read))
    reader.start()
    assert blocked.wait(10)
    source.close()
    assert capture.released == 0
    may_go.set()
    reader.join(timeout=10)
    assert capture.released >= 1
    assert not capture.used_after_release


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1), (6, 8, 3), (6, 8, 4)])
def test_grey_and_bgra_frames_become_bgr(shape: tuple[int, ...]) -> None:
    capture = SharedCapture(FakeCapture(1, image=np.full(shape, 9, np.uint8)))
    image = capture.retrieve()
    assert image is not None
    assert image.shape == (6, 8, 3)
    assert image.flags.c_contiguous


def test_many_closes_race_with_reads_without_misuse() -> None:
    for _ in range(50):
        capture = FakeCapture(1_000_000)
        shared = SharedCapture(capture)

        def read(shared: SharedCapture = shared) -> None:
            with pytest.raises(EndOfSource):
                while True:
                    shared.grab()

        reader = threading.Thread(target=read)
        reader.start()
        closers = [threading.Thread(target=shared.close) for _ in range(3)]
        for closer in closers:
            closer.start()
        for thread in (reader, *closers):
            thread.join(timeout=10)
            assert not thread.is_alive()
        assert capture.released >= 1
        assert not capture.used_after_release
