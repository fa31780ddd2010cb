"""A frame becomes the tensor that the card describes."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import ConfigError, DeviceError
from edgekit.spec.card import InputCard
from edgekit.vision.cards import builtin_card
from edgekit.vision.preprocess import preprocess

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)


@settings(max_examples=40, deadline=None)
@given(
    st.builds(
        InputCard,
        resize=st.sampled_from(["letterbox", "stretch"]),
        anchor=st.sampled_from(["top-left", "center"]),
        pad_value=st.integers(0, 255),
        color=st.sampled_from(["bgr", "rgb"]),
        scale=st.sampled_from([1.0, 1 / 255]),
        mean=st.tuples(*[st.floats(-200, 200)] * 3),
        std=st.tuples(*[st.floats(0.1, 200)] * 3),
    ),
    st.integers(1, 80),
    st.integers(1, 80),
)
def test_the_tensor_is_the_formula_on_the_resized_image(
    card: InputCard, height: int, width: int
) -> None:
    """(pixel * scale - mean) / std per channel, pixels from cv2's bilinear resize."""
    tensor = preprocess(IMAGE, card, height_px=height, width_px=width)
    assert tensor.shape == (1, 3, height, width)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    new_height, new_width = height, width
    if card.resize == "letterbox":
        ratio = min(height / 90, width / 160)
        new_height, new_width = max(1, round(90 * ratio)), max(1, round(160 * ratio))
    top = (height - new_height) // 2 if card.anchor == "center" else 0
    left = (width - new_width) // 2 if card.anchor == "center" else 0
    canvas = np.full((height, width, 3), card.pad_value, np.uint8)
    resized = cv2.resize(IMAGE, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    canvas[top : top + new_height, left : left + new_width] = resized
    if card.color == "rgb":
        canvas = canvas[:, :, ::-1]
    expected = (canvas.astype(np.float64) * card.scale - card.mean) / np.array(card.std)
    np.testing.assert_allclose(tensor[0], expected.transpose(2, 0, 1), rtol=1e-6, atol=1e-6)


def test_an_image_of_the_input_size_is_not_resampled() -> None:
    tensor = preprocess(IMAGE, InputCard(), height_px=90, width_px=160)
    np.testing.assert_array_equal(tensor[0], IMAGE.transpose(2, 0, 1))


def test_the_image_is_not_changed() -> None:
    before = IMAGE.copy()
    preprocess(IMAGE, InputCard(), height_px=32, width_px=32)
    np.testing.assert_array_equal(IMAGE, before)


def test_a_view_that_is_not_contiguous_gives_the_same_tensor() -> None:
    """Crops and flipped frames are views."""
    view = IMAGE[::2, ::-1]
    expected = preprocess(view.copy(), InputCard(), height_px=32, width_px=48)
    np.testing.assert_array_equal(
        preprocess(view, InputCard(), height_px=32, width_px=48), expected
    )


@pytest.mark.parametrize(
    ("name", "pixel", "expected"),
    [
        ("yolox", (10, 20, 30), (10, 20, 30)),
        ("light_person", (10, 20, 30), (10, 20, 30)),
        ("yunet", (10, 20, 30), (10, 20, 30)),
        ("fastestdet", (51, 102, 255), (0.2, 0.4, 1.0)),
        ("ultralytics", (51, 102, 255), (1.0, 0.4, 0.2)),
        ("ultraface", (255, 127, 63), (-0.5, 0.0, 1.0)),
        ("nanodet", (255, 0, 123), (2.64, -2.0357, -0.0116)),
    ],
)
def test_built_in_cards_follow_the_verified_recipes(
    name: str, pixel: tuple[int, ...], expected: tuple[float, ...]
) -> None:
    """Expected values worked out by hand from the recipe of each family."""
    image = np.full((32, 32, 3), pixel, np.uint8)
    tensor = preprocess(image, builtin_card(name).input, height_px=32, width_px=32)
    np.testing.assert_allclose(tensor[0, :, 5, 5], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((4, 4), np.uint8), r"uint8\[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8\[4, 4, 4\]"),
        (np.zeros((4, 4, 3), np.float32), r"float32\[4, 4, 3\]"),
        (None, "NoneType"),
    ],
)
def test_anything_but_a_colour_image_is_refused(image: Any, got: str) -> None:
    with pytest.raises(DeviceError, match=rf"uint8\[H, W, 3\].*got {got}"):
        preprocess(image, InputCard(), height_px=32, width_px=32)


def test_an_image_without_pixels_and_an_input_without_size_are_refused() -> None:
    with pytest.raises(ConfigError):
        preprocess(np.zeros((0, 4, 3), np.uint8), InputCard(), height_px=32, width_px=32)
    with pytest.raises(ConfigError, match="--input"):
        preprocess(IMAGE, InputCard(), height_px=0, width_px=0)
