"""What a frame costs to send: real bytes of a given picture, and said to be assumed without one."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.errors import ConfigError
from edgekit.profiler.frame_cost import (
    assumed_costs,
    costs_of_image,
    costs_of_video,
    measure_frame,
    natural_frame,
)
from tests.world import data


def test_every_codec_has_bytes_and_times_and_raw_costs_none() -> None:
    """Raw pixels need no coding, all others do."""
    raw, *coded = measure_frame(natural_frame(64, 48))
    assert raw.nbytes == 64 * 48 * 3 and raw.encode_s == raw.decode_s == 0
    assert [one.codec for one in coded] == ["png", "jpeg-90", "webp-80"]
    assert all(0 < one.nbytes < raw.nbytes for one in coded)
    assert all(one.encode_s > 0 and one.decode_s > 0 for one in coded)


def test_the_assumed_frame_is_like_a_natural_one() -> None:
    """Bits per pixel within the range of real videos (0.6 to 2.3 as JPEG); noise takes ten."""
    found = assumed_costs(640, 480)
    jpeg = next(one for one in found.costs if one.codec == "jpeg-90")
    assert 0.6 < 8 * jpeg.nbytes / (640 * 480) < 2.3
    assert "assumed" in found.note and "--video" in found.note
    assert np.array_equal(natural_frame(64, 48), natural_frame(64, 48))


def test_a_picture_is_sized_by_itself(tmp_path: Path) -> None:
    picture = tmp_path / "yard.png"
    cv2.imwrite(str(picture), natural_frame(80, 60))
    found = costs_of_image(picture)
    assert found.costs[0].nbytes == 80 * 60 * 3
    assert found.note.startswith("frames of 80x60 px") and "assumed" not in found.note


def test_a_generated_scene_is_a_video_too() -> None:
    """Any source will do."""
    found = costs_of_video("scene:yard?seed=1&size=320x200&fps=30&frames=30")
    assert found.costs[0].nbytes == 320 * 200 * 3


@pytest.mark.parametrize("size", [(8, 480), (640, 100_000)])
def test_a_size_that_no_camera_has_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="a frame of"):
        assumed_costs(*size)


def test_a_file_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 cut off")
    for path in (broken, tmp_path / "missing.jpg"):
        with pytest.raises(ConfigError, match="cannot read the image"):
            costs_of_image(path)


@pytest.mark.integration
def test_a_real_video_counts_by_its_median_frame() -> None:
    found = costs_of_video(str(data("video/vtest_pedestrians/vtest.mp4")))
    jpeg = next(one for one in found.costs if one.codec == "jpeg-90")
    assert jpeg.nbytes < found.costs[0].nbytes / 5
