"""Every frame of a video file, once, in order; a damaged file is never a short one in silence."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.errors import ConfigError
from edgekit.vision.sources import EndOfSource, Source, open_source
from edgekit.vision.sources.video_file import VideoFileSource
from edgekit.vision.video_writer import VideoWriter

COUNT = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 frames of 64x48, each with its own brightness."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with VideoWriter(path, fps=10, size_px=(64, 48)) as writer:
        for number in range(COUNT):
            writer.write(np.full((48, 64, 3), 15 + 20 * number, np.uint8))
    return path


def shade(image: np.ndarray) -> int:
    """Which frame of the clip an image shows."""
    return round((float(image.mean()) - 15) / 20)


def read_all(source: Source) -> list[tuple[int, int]]:
    """(number, what the image shows) of every frame."""
    frames = []
    with pytest.raises(EndOfSource):
        while True:
            frame = source.read()
            frames.append((frame.number, shade(frame.image)))
    return frames


def test_every_frame_comes_once_with_its_number(clip: Path) -> None:
    source = open_source(f"file:{clip}")
    assert source.info.frame_count == COUNT
    assert (source.info.width_px, source.info.height_px) == (64, 48)
    assert (source.info.fps, source.info.live, source.info.kind) == (10.0, False, "file")
    assert read_all(source) == [(n, n) for n in range(COUNT)]
    assert source.problem == ""


def test_frames_are_bgr_uint8_with_rising_times(clip: Path) -> None:
    source = open_source(str(clip))
    frames = [source.read() for _ in range(3)]
    assert all(frame.image.shape == (48, 64, 3) for frame in frames)
    assert all(frame.image.dtype == np.uint8 for frame in frames)
    assert frames[0].captured_ns < frames[1].captured_ns < frames[2].captured_ns
    assert frames[0].captured_unix_s <= frames[2].captured_unix_s


def test_the_end_stays_the_end(clip: Path) -> None:
    source = open_source(str(clip))
    read_all(source)
    with pytest.raises(EndOfSource):
        source.read()


def test_frames_limits_the_number_of_frames(clip: Path) -> None:
    source = open_source(f"file:{clip}?frames=5")
    assert source.info.frame_count == 5
    assert read_all(source) == [(n, n) for n in range(5)]


def test_a_limit_beyond_the_end_changes_nothing(clip: Path) -> None:
    source = open_source(f"file:{clip}?frames=500")
    assert source.info.frame_count == COUNT
    assert len(read_all(source)) == COUNT


def test_a_loop_starts_again_with_numbers_going_on(clip: Path) -> None:
    source = open_source(f"file:{clip}?loop=1&frames=30")
    assert source.info.frame_count == 30
    assert read_all(source) == [(n, n % COUNT) for n in range(30)]


@pytest.mark.parametrize("start", [0, 1, 5, 11, 12, 40])
def test_a_later_start_gives_the_same_frames_as_reading_up_to_it(clip: Path, start: int) -> None:
    """An agent that restarts goes on where the other one was, also within frames=N."""
    expected = [(n, n) for n in range(COUNT)]
    assert read_all(open_source(str(clip), start_frame=start)) == expected[start:]
    limited = open_source(f"{clip}?frames=8", start_frame=start)
    assert read_all(limited) == expected[start:8]
    looped = open_source(f"{clip}?loop=1&frames=50", start_frame=start)
    assert read_all(looped) == [(n, n % COUNT) for n in range(start, 50)]


def test_closing_ends_it_from_any_thread(clip: Path) -> None:
    source = open_source(f"{clip}?loop=1")
    reader = threading.Thread(target=read_all, args=(source,))
    reader.start()
    source.close()
    reader.join(timeout=10)
    assert not reader.is_alive()
    with pytest.raises(EndOfSource):
        source.read()
    source.close()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_cut_short_is_refused_or_reported(tmp_path: Path, clip: Path, share: float) -> None:
    """The index of an mp4 lies at its end: without it the file cannot be opened at all."""
    short = tmp_path / "short.mp4"
    short.write_bytes(clip.read_bytes()[: int(clip.stat().st_size * share)])
    with pytest.raises(ConfigError, match=r"short\.mp4 is not a video"):
        open_source(str(short))


class CutShort:
    """A capture whose container promises more frames than it gives."""

    def __init__(self, path: Path, *, failing: set[int]) -> None:
        self._inner = cv2.VideoCapture(str(path))
        self._failing = failing
        self._grabs = -1

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def grab(self) -> bool:
        self._grabs += 1
        return self._grabs not in self._failing and self._inner.grab()


def damaged(clip: Path, monkeypatch: pytest.MonkeyPatch, failing: set[int]) -> Source:
    real = cv2.VideoCapture
    fake = CutShort(clip, failing=failing)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *arguments: fake)
    source = VideoFileSource(str(clip), uri="clip")
    monkeypatch.setattr(cv2, "VideoCapture", real)
    return source


def test_an_early_end_is_reported(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = damaged(clip, monkeypatch, set(range(4, 100)))
    assert len(read_all(source)) == 4
    assert "ends after 4 of 12 frames" in source.problem


def test_a_damaged_spot_is_passed_over_and_reported(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV says "no frame" in the middle of a file; the rest of it must not be lost."""
    source = damaged(clip, monkeypatch, {3, 4})
    frames = read_all(source)
    assert len(frames) == COUNT
    assert "damaged after frame 2" in source.problem


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no video"), (b"", "is empty"), (b"not a video" * 99, "can decode")],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        open_source(f"file:{path}")


def test_a_folder_is_pointed_to_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="images:"):
        open_source(f"file:{tmp_path}")


def test_a_negative_start_is_refused(clip: Path) -> None:
    with pytest.raises(ConfigError, match="start_frame"):
        open_source(str(clip), start_frame=-1)
