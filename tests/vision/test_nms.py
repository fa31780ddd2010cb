"""Class-wise suppression, clipping and order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.spec.card import InputCard, OutputCard
from edgekit.vision import nms
from edgekit.vision.detections import Detections
from edgekit.vision.geometry import geometry_for

GEOMETRY = geometry_for(
    InputCard(), source_height_px=200, source_width_px=300, height_px=200, width_px=300
)


def suppress(boxes: list, scores: list[float], classes: list[int], **card: object) -> Detections:
    return nms.suppress(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.int64),
        card=OutputCard(decoder="yolox", **card),  # type: ignore[arg-type]
        geometry=GEOMETRY,
    )


def test_of_overlapping_boxes_of_one_class_the_best_stays() -> None:
    found = suppress(
        [[10, 10, 50, 50], [12, 12, 52, 52], [100, 10, 140, 50]], [0.5, 0.9, 0.3], [0] * 3
    )
    np.testing.assert_allclose(found.scores, [0.9, 0.3])
    assert found.boxes_px.tolist() == [[12, 12, 52, 52], [100, 10, 140, 50]]


def test_boxes_of_other_classes_do_not_suppress() -> None:
    """A helmet sits on a head."""
    found = suppress([[10, 10, 50, 50]] * 3, [0.5, 0.9, 0.7], [0, 1, 0])
    assert found.class_ids.tolist() == [1, 0]


def test_of_equal_scores_the_first_row_stays() -> None:
    """Otherwise the answer would depend on the sort of the library."""
    found = suppress([[10, 10, 50, 50], [11, 10, 51, 50]], [0.5, 0.5], [0, 0])
    assert found.boxes_px.tolist() == [[10, 10, 50, 50]]


def test_boxes_outside_the_source_or_without_area_are_left_out() -> None:
    boxes = [
        [-50, 10, -10, 40],
        [10, 10, 10, 50],
        [310, 10, 350, 50],
        [40, 40, 20, 20],
        [0, 0, 5, 5],
    ]
    assert len(suppress(boxes, [0.9] * 5, [0] * 5)) == 1


def test_suppression_looks_at_whole_boxes_and_clips_afterwards() -> None:
    found = suppress([[-100, 10, 20, 50], [0, 10, 20, 50]], [0.9, 0.8], [0, 0])
    assert len(found) == 2
    assert found.boxes_px.tolist() == [[0, 10, 20, 50], [0, 10, 20, 50]]


def test_at_most_max_detections_stay_and_they_are_the_best() -> None:
    boxes = [[10 * i, 0, 10 * i + 8, 8] for i in range(20)]
    found = suppress(boxes, [i / 20 for i in range(20)], [0] * 20, max_detections=3)
    np.testing.assert_allclose(found.scores, [19 / 20, 18 / 20, 17 / 20])


def test_a_flood_of_candidates_is_cut_to_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nms, "MAX_CANDIDATES", 5)
    boxes = [[10 * i, 0, 10 * i + 8, 8] for i in range(20)]
    found = suppress(boxes, [i / 20 for i in range(20)], [0] * 20)
    np.testing.assert_allclose(found.scores, [i / 20 for i in (19, 18, 17, 16, 15)])


def test_no_candidates_give_no_detections() -> None:
    assert len(suppress([], [], [])) == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.tuples(*[st.floats(-50, 350, width=32)] * 4),
            st.integers(0, 100).map(lambda n: n / 100),
            st.integers(0, 2),
        ),
        max_size=25,
    )
)
def test_suppression_agrees_with_the_definition(rows: list) -> None:
    """Greedy class-wise NMS written out by hand, on any boxes."""
    boxes = [
        [min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 1, max(b[1], b[3]) + 1]
        for b, _, _ in rows
    ]
    kept: list[int] = []
    clipped = GEOMETRY.clip(np.array(boxes, np.float32).reshape(-1, 4))
    for i in sorted(range(len(rows)), key=lambda i: (-np.float32(rows[i][1]), i)):
        if not (clipped[i, 2:] > clipped[i, :2]).all():
            continue
        rivals = [k for k in kept if rows[k][2] == rows[i][2]]
        overlaps = [_iou(boxes[i], boxes[k]) for k in rivals]
        if any(abs(overlap - 0.45) < 1e-3 for overlap in overlaps):
            return  # on the edge either answer is right
        if all(overlap <= 0.45 for overlap in overlaps):
            kept.append(i)
    found = suppress(boxes, [s for _, s, _ in rows], [c for _, _, c in rows])
    assert sorted(map(tuple, found.boxes_px.tolist())) == sorted(map(tuple, clipped[kept].tolist()))


def _iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union
