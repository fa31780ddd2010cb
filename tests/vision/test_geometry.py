"""Where a frame lies in the input, and the way back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import ConfigError
from edgekit.spec.card import InputCard
from edgekit.vision.geometry import Geometry, geometry_for

SIDES = st.integers(1, 4000)
CARDS = st.builds(
    InputCard,
    resize=st.sampled_from(["letterbox", "stretch"]),
    anchor=st.sampled_from(["top-left", "center"]),
)


def made(card: InputCard, *sizes: int) -> Geometry:
    return geometry_for(
        card,
        source_height_px=sizes[0],
        source_width_px=sizes[1],
        height_px=sizes[2],
        width_px=sizes[3],
    )


@given(CARDS, SIDES, SIDES, st.integers(32, 1280), st.integers(32, 1280), st.data())
def test_a_box_returns_to_where_it_was(
    card: InputCard, height: int, width: int, to_height: int, to_width: int, data: st.DataObject
) -> None:
    """Within 1e-3 px, as far as the scale leaves float32 digits for it."""
    geometry = made(card, height, width, to_height, to_width)
    share = st.floats(0, 1)
    box = np.array(
        [[data.draw(share) * width, data.draw(share) * height, width, height]], np.float32
    )
    back = geometry.to_source(geometry.to_model(box))
    digits = 2.0**-22 * max(to_height, to_width) / min(geometry.scale_x, geometry.scale_y)
    np.testing.assert_allclose(back, box, atol=max(1e-3, digits))


@given(CARDS, SIDES, SIDES, SIDES, SIDES)
def test_the_resized_frame_lies_inside_the_input(
    card: InputCard, height: int, width: int, to_height: int, to_width: int
) -> None:
    geometry = made(card, height, width, to_height, to_width)
    assert 1 <= geometry.resized_height_px <= to_height - geometry.top_px
    assert 1 <= geometry.resized_width_px <= to_width - geometry.left_px
    if card.resize == "letterbox":  # touches two sides
        touches = geometry.resized_height_px == to_height, geometry.resized_width_px == to_width
        assert any(touches)


def test_a_letterbox_keeps_the_aspect_and_sits_where_the_card_says() -> None:
    corner = made(InputCard(anchor="top-left"), 360, 480, 416, 416)
    assert (corner.resized_height_px, corner.resized_width_px) == (312, 416)
    assert (corner.top_px, corner.left_px) == (0, 0)
    centre = made(InputCard(anchor="center"), 360, 480, 416, 416)
    assert (centre.top_px, centre.left_px) == (52, 0)
    assert centre.to_source(np.array([[0, 52, 416, 364]], np.float32)).tolist() == [
        [0, 0, 480, 360]
    ]


def test_stretching_fills_the_input_and_scales_each_axis() -> None:
    geometry = made(InputCard(resize="stretch"), 480, 640, 240, 320 * 2)
    assert (geometry.scale_y, geometry.scale_x) == (0.5, 1.0)
    assert geometry.to_model(np.array([[10, 10, 20, 20]], np.float32)).tolist() == [[10, 5, 20, 10]]


def test_boxes_are_clipped_at_the_edges_of_the_source() -> None:
    geometry = made(InputCard(), 100, 200, 50, 50)
    clipped = geometry.clip(np.array([[-5, -5, 500, 500]], np.float32))
    assert clipped.tolist() == [[0, 0, 200, 100]]


@pytest.mark.parametrize("sizes", [(0, 1, 1, 1), (1, 1, 0, 416), (1, 1, 416, -1)])
def test_a_size_that_is_not_positive_is_refused(sizes: tuple[int, ...]) -> None:
    """A free dimension of the model shows as 0."""
    with pytest.raises(ConfigError, match="--input"):
        made(InputCard(), *sizes)
