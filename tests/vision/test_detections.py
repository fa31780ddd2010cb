"""The value that decoders return."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekit.errors import ModelError
from edgekit.spec.base import to_json
from edgekit.spec.card import ModelCard, OutputCard
from edgekit.vision.detections import Detections

CARD = ModelCard(name="x", labels=("person", "car"), output=OutputCard(decoder="yolox"))


def detections(boxes: object, scores: object, classes: object) -> Detections:
    return Detections(
        boxes_px=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        class_ids=np.array(classes, np.int64),
    )


@pytest.mark.parametrize(
    ("field", "value", "got"),
    [
        ("boxes_px", np.zeros((2, 5), np.float32), r"float32\[2, 5\]"),
        ("boxes_px", np.zeros((3, 4), np.float32), r"float32\[3, 4\]"),
        ("boxes_px", np.zeros((2, 4), np.float64), r"float64\[2, 4\]"),
        ("class_ids", np.zeros(2, np.int32), r"int32\[2\]"),
        ("class_ids", np.zeros((2, 1), np.int64), r"int64\[2, 1\]"),
        ("scores", np.zeros((2, 1), np.float32), r"float32\[2, 1\]"),
        ("scores", np.float32(1), r"float32\[\]"),
    ],
)
def test_a_wrong_shape_or_dtype_is_refused_at_birth(field: str, value: object, got: str) -> None:
    good = {
        "boxes_px": np.zeros((2, 4), np.float32),
        "scores": np.zeros(2, np.float32),
        "class_ids": np.zeros(2, np.int64),
    }
    with pytest.raises(ModelError, match=rf"{field} must be .*got {got}|must be .*got"):
        Detections(**{**good, field: value})  # type: ignore[arg-type]


def test_messages_come_best_first_with_ties_by_class_then_box() -> None:
    found = detections(
        [[9, 0, 10, 10], [1, 0, 10, 10], [0, 0, 5, 5], [3, 3, 4, 4]],
        [0.5, 0.5, 0.5, 0.9],
        [1, 1, 0, 1],
    )
    assert [(d.label, d.score, d.box[0]) for d in found.to_spec(CARD)] == [
        ("car", 0.9, 3.0),
        ("person", 0.5, 0.0),
        ("car", 0.5, 1.0),
        ("car", 0.5, 9.0),
    ]


def test_a_class_without_a_label_is_numbered() -> None:
    assert detections([[0, 0, 1, 1]], [1], [7]).to_spec(CARD)[0].label == "class 7"


def test_numbers_are_short_in_json() -> None:
    message = detections([[0.1, 1 / 3, 100.55555, 7]], [0.123456789], [0]).to_spec(CARD)
    assert json.loads(to_json(message[0], indent=0)) == {
        "label": "person",
        "score": 0.1235,
        "box": [0.1, 0.33, 100.56, 7.0],
    }


@given(arrays(np.float32, (6, 5), elements=st.floats(0, 1000, width=32)))
def test_messages_survive_json_and_do_not_depend_on_the_row_order(rows: np.ndarray) -> None:
    boxes, scores, classes = rows[:, :4], rows[:, 4] / 1000, np.arange(6) % 2
    messages = detections(boxes, scores, classes).to_spec(CARD)
    order = np.array([3, 1, 5, 0, 2, 4])
    assert detections(boxes[order], scores[order], classes[order]).to_spec(CARD) == messages
    for message in messages:
        assert json.loads(to_json(message, indent=0))["box"] == list(message.box)
