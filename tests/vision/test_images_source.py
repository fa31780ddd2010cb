"""A folder of pictures as frames."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.errors import ConfigError
from edgekit.vision.sources import EndOfSource, Source, open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(["b.png", "a.JPG", "c.jpeg", "d.png"]):
        data = cv2.imencode(".png", np.full((8 + index, 16, 3), 50 * index, np.uint8))[1]
        (tmp_path / name).write_bytes(data.tobytes())
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def read_all(source: Source) -> list[tuple[int, int]]:
    """(number, height) of every frame."""
    frames = []
    with pytest.raises(EndOfSource):
        while True:
            frame = source.read()
            frames.append((frame.number, frame.image.shape[0]))
    return frames


def test_pictures_come_sorted_by_name_and_may_differ_in_size(folder: Path) -> None:
    source = open_source(f"images:{folder}")
    assert (source.info.frame_count, source.info.height_px, source.info.live) == (4, 9, False)
    assert read_all(source) == [(0, 9), (1, 8), (2, 10), (3, 11)]


def test_grey_and_transparent_pictures_become_bgr(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.full((8, 8), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "2.png"), np.full((8, 8, 4), 7, np.uint8))
    source = open_source(f"images:{tmp_path}")
    for _ in range(2):
        image = source.read().image
        assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)


def test_a_picture_that_cannot_be_decoded_keeps_its_number_and_is_reported(folder: Path) -> None:
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:20])
    source = open_source(f"images:{folder}")
    assert [number for number, _ in read_all(source)] == [0, 2, 3]
    assert "b.png cannot be decoded" in source.problem


def test_loops_starts_and_limits_work_as_for_files(folder: Path) -> None:
    source = open_source(f"images:{folder}?loop=1&frames=9", start_frame=3)
    assert [number for number, _ in read_all(source)] == [3, 4, 5, 6, 7, 8]
    assert read_all(open_source(f"images:{folder}", start_frame=99)) == []


def test_closing_ends_it(folder: Path) -> None:
    source = open_source(f"images:{folder}?loop=1")
    source.read()
    source.close()
    assert read_all(source) == []


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        open_source(f"images:{tmp_path}/absent")
    with pytest.raises(ConfigError, match=r"holds no picture \(\.jpg"):
        open_source(f"images:{tmp_path}")
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="none of the 1 pictures"):
        open_source(f"images:{tmp_path}")
