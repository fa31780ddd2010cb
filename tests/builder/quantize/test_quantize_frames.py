"""Calibration frames: enough of them, and such that show something."""

from pathlib import Path

import numpy as np
import pytest

from edgekit.builder.quantize.frames import MIN_FRAMES, calibration_frames, image_input
from edgekit.errors import ConfigError, ModelError
from edgekit.spec.card import InputCard
from edgekit.spec.tensors import TensorSpec
from tests.builder.quantize.quantize_nets import loaded_net, pictures, write_pictures
from tests.graphs import residual_model, saved

INPUT = TensorSpec(name="image", dtype="float32", shape=(1, 3, 32, 32))


def taken(folder: Path, images: list[np.ndarray], at_most: int = 48) -> tuple:
    write_pictures(folder, images)
    return calibration_frames(f"images:{folder}", InputCard(), INPUT, at_most=at_most).tensors


def test_frames_are_spread_evenly_over_the_whole_source(tmp_path: Path) -> None:
    """The first minute of a video shows one scene."""
    images = pictures(60)
    for number, image in enumerate(images):
        image[0, 0] = number
    tensors = taken(tmp_path, images, at_most=20)
    assert [int(tensor[0, 0, 0, 0]) for tensor in tensors] == list(range(0, 60, 3))


def test_too_few_frames_are_refused_with_the_number_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"gives 5 calibration frames, {MIN_FRAMES} are needed"):
        taken(tmp_path, pictures(5))


def test_pictures_of_one_colour_are_refused(tmp_path: Path) -> None:
    """Their ranges are those of a lens cap."""
    flat = [np.full((32, 32, 3), 3 * number, np.uint8) for number in range(20)]
    with pytest.raises(ConfigError, match=r"20 of 20 .* one colour"):
        taken(tmp_path, flat)


def test_one_picture_many_times_is_not_many_pictures(tmp_path: Path) -> None:
    """A still camera, or a copied file."""
    with pytest.raises(ConfigError, match=r"only 2 calibration frames .* differ"):
        taken(tmp_path, pictures(2) * 12)


def test_a_model_that_reads_no_colour_picture_is_refused(tmp_path: Path) -> None:
    """Its frames could only be guessed."""
    from edgekit.builder.load import load_model

    assert image_input(loaded_net(tmp_path)).shape == (1, 3, 32, 32)
    other = load_model(saved(residual_model(), tmp_path / "other.onnx"))
    with pytest.raises(ModelError, match="not one colour picture"):
        image_input(other)
