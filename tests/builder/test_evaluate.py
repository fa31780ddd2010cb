import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.builder.evaluate import average_precision_50
from edgekit.errors import ConfigError
from edgekit.spec.messages import Detection

LABELS = ("helmet", "person")


def box(label: str, x: float, size: float = 10.0, score: float = 1.0) -> Detection:
    return Detection(label=label, score=score, box=(x, 0.0, x + size, size))


def test_the_truth_itself_scores_one() -> None:
    """Boxes equal to the truth are a perfect answer."""
    frames = [[box("helmet", 0), box("person", 50)], [box("person", 20)]]
    assert average_precision_50(frames, frames, LABELS) == pytest.approx(
        {"helmet": 1.0, "person": 1.0}
    )


def test_nothing_found_scores_zero_and_nothing_there_is_nan() -> None:
    """A label that never occurs has no precision: 0 or 1 would both be a lie."""
    result = average_precision_50([[]], [[box("person", 0)]], LABELS)
    assert result["person"] == 0.0
    assert math.isnan(result["helmet"])
    assert math.isnan(average_precision_50([], [], LABELS)["person"])


def test_half_of_the_boxes_found_scores_about_one_half() -> None:
    """By COCO's 101 recall points: 51 of them are reached."""
    truth = [[box("person", 0)], [box("person", 0)]]
    result = average_precision_50([truth[0], []], truth, ["person"])
    assert result["person"] == pytest.approx(51 / 101)


@pytest.mark.parametrize(("shift", "expected"), [(3.0, 1.0), (3.4, 0.0)])
def test_a_box_counts_from_an_overlap_of_one_half(shift: float, expected: float) -> None:
    """Two boxes 10 wide overlap by half (IoU) at a shift of 10 / 3."""
    result = average_precision_50([[box("person", shift)]], [[box("person", 0)]], ["person"])
    assert result["person"] == pytest.approx(expected)


def test_a_false_alarm_costs_only_when_it_scores_higher() -> None:
    """Average precision judges the order of scores."""
    truth = [[box("person", 0)]]
    right = box("person", 0, score=0.6)
    above = average_precision_50([[right, box("person", 80, score=0.9)]], truth, ["person"])
    below = average_precision_50([[right, box("person", 80, score=0.3)]], truth, ["person"])
    assert above["person"] == pytest.approx(0.5)
    assert below["person"] == pytest.approx(1.0)


def test_two_answers_for_one_box_are_one_right_and_one_wrong() -> None:
    """Double boxes are what NMS is for; they must not be rewarded."""
    truth = [[box("person", 0)], [box("person", 0)]]
    double = [box("person", 0, score=0.9), box("person", 0.5, score=0.8)]
    result = average_precision_50([double, [box("person", 0, score=0.5)]], truth, ["person"])
    assert 0.5 < result["person"] < 0.9


def test_the_label_must_match() -> None:
    """A person called a helmet is wrong for both."""
    result = average_precision_50(
        [[box("helmet", 0)]], [[box("person", 0), box("helmet", 60)]], LABELS
    )
    assert result == {"helmet": 0.0, "person": 0.0}


def test_boxes_of_other_sizes_are_neither_right_nor_wrong() -> None:
    """Precision for small objects must not fall because a large one was found as well."""
    truth = [[box("person", 0, size=8), box("person", 50, size=40)]]
    both = average_precision_50(truth, truth, ["person"], area_px2=(0, 144))
    only_small = average_precision_50([truth[0][:1]], truth, ["person"], area_px2=(0, 144))
    only_large = average_precision_50([truth[0][1:]], truth, ["person"], area_px2=(0, 144))
    assert both["person"] == only_small["person"] == pytest.approx(1.0)
    assert only_large["person"] == 0.0


def test_frames_must_pair_up() -> None:
    """A missing frame would shift every later one unnoticed."""
    with pytest.raises(ConfigError, match="1 frames of detections for 2 frames of truth"):
        average_precision_50([[]], [[], []], LABELS)


def test_a_label_may_not_repeat() -> None:
    """Two columns of one name would hide one of them."""
    with pytest.raises(ConfigError, match="repeat"):
        average_precision_50([[]], [[]], ["person", "person"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1)), max_size=6), min_size=1))
def test_precision_lies_between_zero_and_one(frames: list[list[tuple[int, float]]]) -> None:
    """Whatever the boxes: duplicates, ties, empty frames."""
    found = [[box("person", x, score=score) for x, score in frame] for frame in frames]
    truth = [[box("person", 7 * index)] for index in range(len(frames))]
    assert -1e-9 <= average_precision_50(found, truth, ["person"])["person"] <= 1 + 1e-9
