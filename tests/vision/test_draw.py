"""Pictures for people."""

import numpy as np
import pytest

from edgekit.spec.messages import Detection
from edgekit.vision.draw import color_of, draw_detections


def detection(box: tuple[float, float, float, float], label: str = "person") -> Detection:
    return Detection(label=label, score=0.87, box=box)


def test_the_input_is_not_changed() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    drawn = draw_detections(image, [detection((10, 10, 60, 60))], caption="frame 1")
    assert not image.any()
    assert drawn.any()
    assert drawn.shape == image.shape


def test_nothing_to_draw_gives_an_equal_copy() -> None:
    image = np.full((20, 20, 3), 7, np.uint8)
    drawn = draw_detections(image, [])
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image


def test_a_box_has_its_labels_colour_on_its_edges_only() -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    drawn = draw_detections(image, [detection((100, 100, 300, 300))])
    assert tuple(drawn[200, 100]) == color_of("person")
    assert tuple(drawn[299, 150]) == color_of("person")
    assert not drawn[110:290, 110:290].any()


def test_a_small_object_stays_visible_inside_its_box() -> None:
    """6x6 px: a thick line or a label would hide it."""
    image = np.zeros((400, 400, 3), np.uint8)
    drawn = draw_detections(image, [detection((200, 200, 206, 206), "helmet")])
    assert not drawn[200:206, 200:206].any()
    assert tuple(drawn[198, 200]) == color_of("helmet")


def test_colours_are_stable_bright_and_apart_for_frequent_labels() -> None:
    assert color_of("person") == color_of("person")
    colors = [color_of(label) for label in ("person", "helmet", "face", "car", "bicycle")]
    assert len(set(colors)) == 5
    assert all(max(color) == 255 for color in colors)


@pytest.mark.parametrize("size", [(1, 1), (5, 400), (400, 5), (1080, 1920)])
@pytest.mark.parametrize(
    "box", [(0, 0, 0, 0), (-50, -50, 5000, 5000), (3, 3, 2, 2), (399.6, 0.2, 400.4, 1.0)]
)
def test_no_size_of_picture_or_box_breaks_it(
    size: tuple[int, int], box: tuple[float, float, float, float]
) -> None:
    image = np.zeros((*size, 3), np.uint8)
    labels = ("person", "", "Müller ☃", "x" * 300)
    drawn = draw_detections(image, [detection(box, label) for label in labels], caption="ü" * 50)
    assert drawn.shape == image.shape
