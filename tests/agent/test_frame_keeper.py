"""Frames kept for calibration: lossless, bounded, spread, and never in the way of the stream."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.agent import frame_keeper
from edgekit.agent.frame_keeper import FrameKeeper
from edgekit.errors import ConfigError, EdgeKitError
from edgekit.spec.agent_config import SourceConfig
from edgekit.vision.sources import EndOfSource, Frame, open_source


def frame(number: int) -> Frame:
    noise = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Frame(image=noise, number=number, captured_ns=0, captured_unix_s=0.0)


def wait(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def offer(keeper: FrameKeeper, numbers: range) -> None:
    """Give the thread time for each, as a camera does."""
    for number in numbers:
        keeper.offer(frame(number))
        wait(keeper._queue.empty)


def pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir())


def test_what_is_kept_is_what_the_camera_gave_and_can_be_calibrated_with(tmp_path: Path) -> None:
    keeper = FrameKeeper(tmp_path / "kept", every_count=2, most_count=10, free_min_bytes=0)
    offer(keeper, range(8))
    keeper.close()
    source = open_source(f"images:{tmp_path / 'kept'}")
    for number in (0, 2, 4, 6):
        assert np.array_equal(source.read().image, frame(number).image)
    with pytest.raises(EndOfSource):
        source.read()


def test_their_number_is_bounded_and_they_are_spread_over_all_that_came(tmp_path: Path) -> None:
    keeper = FrameKeeper(tmp_path, every_count=1, most_count=20, free_min_bytes=0)
    most = 0
    for number in range(400):
        offer(keeper, range(number, number + 1))
        most = max(most, len(pictures(tmp_path)))
    keeper.close()
    numbers = [int(path.stem.split("-")[1]) for path in pictures(tmp_path)]
    assert len(numbers) == 20
    assert most <= 21  # one that is being written has no name yet
    assert min(numbers) < 200 < max(numbers)


def test_a_restarted_agent_goes_on_where_it_was(tmp_path: Path) -> None:
    """It must neither begin again nor throw away what it has."""
    for start in (0, 30):
        keeper = FrameKeeper(tmp_path, every_count=1, most_count=1000, free_min_bytes=0)
        offer(keeper, range(start, start + 30))
        keeper.close()
    numbers = [int(path.stem.split("-")[1]) for path in pictures(tmp_path)]
    assert numbers == list(range(1, 61))
    (tmp_path / ".frame-x.png.1234.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    keeper = FrameKeeper(tmp_path, every_count=1, most_count=10, free_min_bytes=0)
    offer(keeper, range(400))
    keeper.close()
    left = [path.name for path in pictures(tmp_path)]
    assert len(left) == 11
    assert "notes.txt" in left


def test_pictures_that_were_taken_away_make_room(tmp_path: Path) -> None:
    keeper = FrameKeeper(tmp_path, every_count=1, most_count=5, free_min_bytes=0)
    offer(keeper, range(5))
    wait(lambda: len(list(tmp_path.glob("*.png"))) == 5)
    shutil.move(tmp_path, tmp_path.with_suffix(".away"))
    offer(keeper, range(5, 8))
    keeper.close()
    assert len(pictures(tmp_path)) == 3


def test_a_disk_that_is_slow_costs_pictures_not_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(
        frame_keeper,
        "write_atomically",
        lambda data, path: gate.wait(10) and path.write_bytes(data),
    )
    keeper = FrameKeeper(tmp_path, every_count=1, most_count=100, free_min_bytes=0)
    offer(keeper, range(1))
    for number in range(1, 50):  # nobody takes these: all return at once
        keeper.offer(frame(number))
    assert not list(tmp_path.iterdir())
    gate.set()
    keeper.close()
    assert len(pictures(tmp_path)) <= 3


def test_a_full_disk_is_told_and_left_alone_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_keeper, "_RETRY_S", 0.0)
    keeper = FrameKeeper(tmp_path, every_count=1, most_count=10, free_min_bytes=2**60)
    offer(keeper, range(3))
    wait(lambda: keeper.problem)
    assert f"frames are not kept in {tmp_path}: the disk has" in keeper.problem
    assert "Try: copy the pictures away" in keeper.problem
    assert not pictures(tmp_path)
    keeper._free_min_bytes = 0
    offer(keeper, range(3, 6))
    wait(lambda: not keeper.problem)
    keeper.close()
    assert pictures(tmp_path)


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    keeper = FrameKeeper(tmp_path / "taken", every_count=1, most_count=10)
    offer(keeper, range(2))
    wait(lambda: "File exists" in keeper.problem)
    keeper.close()


def test_a_disk_error_leaves_no_half_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(data: bytes, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frame_keeper, "write_atomically", full)
    keeper = FrameKeeper(tmp_path, every_count=1, most_count=10, free_min_bytes=0)
    offer(keeper, range(2))
    wait(lambda: "No space left on device" in keeper.problem)
    keeper.close()
    assert not pictures(tmp_path)


def test_every_picture_is_decodable_at_any_moment(tmp_path: Path) -> None:
    """Somebody may copy them while the agent runs."""
    keeper = FrameKeeper(tmp_path, every_count=1, most_count=5, free_min_bytes=0)
    for number in range(60):
        keeper.offer(frame(number))
        for path in tmp_path.glob("frame-*.png"):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
    keeper.close()


@pytest.mark.parametrize("field", [{"keep_every": 0}, {"keep_most": 0}, {"keep_most": 10**6}])
def test_counts_that_make_no_sense_are_refused(field: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"source.{next(iter(field))}"):
        SourceConfig(uri="0", **field)  # type: ignore[arg-type]
    assert issubclass(ConfigError, EdgeKitError)
