"""A recording is whole or not there."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.errors import ConfigError, DeviceError
from edgekit.vision import video_writer
from edgekit.vision.video_writer import VideoWriter

IMAGE = np.zeros((48, 64, 3), np.uint8)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_can_be_read(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps=10, size_px=(64, 48)) as writer:
        for _ in range(7):
            writer.write(IMAGE)
        assert files(tmp_path) == [".a.part.mp4"], "nothing at the path before it is whole"
    assert files(tmp_path) == ["a.mp4"]
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == writer.frame_count == 7
    assert capture.get(cv2.CAP_PROP_FPS) == 10


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"old")
    with (
        pytest.raises(RuntimeError),
        VideoWriter(tmp_path / "a.mp4", fps=10, size_px=(64, 48)) as writer,
    ):
        writer.write(IMAGE)
        raise RuntimeError
    assert files(tmp_path) == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"old"


def test_a_recording_without_frames_leaves_no_file(tmp_path: Path) -> None:
    VideoWriter(tmp_path / "a.mp4", fps=10, size_px=(64, 48)).close()
    assert files(tmp_path) == []


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", fps=10, size_px=(64, 48))
    writer.write(IMAGE)
    writer.close()
    writer.close()
    writer.discard()
    assert files(tmp_path) == ["a.mp4"]


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    """OpenCV would leave it out without a word."""
    with (
        VideoWriter(tmp_path / "a.mp4", fps=10, size_px=(64, 48)) as writer,
        pytest.raises(ConfigError, match="64x48, got one of 32x48"),
    ):
        writer.write(IMAGE[:, :32])
    with (
        VideoWriter(tmp_path / "a.mp4", fps=10, size_px=(64, 48)) as writer,
        pytest.raises(DeviceError, match="uint8"),
    ):
        writer.write(IMAGE.astype(np.float32))


def test_a_file_that_lost_frames_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: OpenCV reports nothing, so the file is read back."""
    monkeypatch.setattr(video_writer, "_frame_count", lambda path: 1)
    writer = VideoWriter(tmp_path / "a.mp4", fps=10, size_px=(64, 48))
    writer.write(IMAGE)
    writer.write(IMAGE)
    with pytest.raises(DeviceError, match="1 of 2 frames"):
        writer.close()
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "fps", "size", "message"),
    [
        ("a.avi", 10, (64, 48), r"\.mp4"),
        ("a", 10, (64, 48), r"\.mp4"),
        ("absent/a.mp4", 10, (64, 48), "no such folder"),
        ("folder.mp4", 10, (64, 48), "it is a folder"),
        ("a.mp4", 0, (64, 48), "0 frames per second"),
        ("a.mp4", float("nan"), (64, 48), "nan frames per second"),
        ("a.mp4", 10, (0, 48), "0x48"),
    ],
)
def test_a_recording_that_cannot_be_is_refused_before_the_first_frame(
    tmp_path: Path, name: str, fps: float, size: tuple[int, int], message: str
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ConfigError, match=message):
        VideoWriter(tmp_path / name, fps=fps, size_px=size)
    assert files(tmp_path) == ["folder.mp4"]


def test_a_codec_that_is_missing_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed:
        def isOpened(self) -> bool:
            return False

        def release(self) -> None:
            """Nothing to free."""

    monkeypatch.setattr(video_writer, "_open_writer", lambda *_: Closed())
    with pytest.raises(DeviceError, match="cannot write the video"):
        VideoWriter(tmp_path / "a.mp4", fps=10, size_px=(64, 48))
    assert files(tmp_path) == []
