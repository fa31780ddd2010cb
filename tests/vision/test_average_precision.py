"""The yardstick itself, on cases that can be worked out by hand."""

import numpy as np
import pytest
from average_precision import average_precision

from edgekit.spec.messages import Detection

TRUTH = {0: np.array([[0, 0, 10, 10], [20, 20, 30, 30]]), 1: np.array([[0, 0, 10, 10]])}


def found(*items: tuple[int, float, tuple[float, float, float, float]]) -> dict:
    frames: dict[int, list[Detection]] = {0: [], 1: []}
    for frame, score, box in items:
        frames[frame].append(Detection(label="x", score=score, box=box))
    return frames


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([], (0, 0)),
        ([(0, 0.9, (0, 0, 10, 10)), (0, 0.8, (20, 20, 30, 30)), (1, 0.7, (0, 0, 10, 10))], (1, 1)),
        ([(0, 0.9, (0, 0, 10, 10))], (1 / 3, 1 / 3)),
        # A second answer about the same object is wrong: precision 1, 1/2, 2/3 at recall 1/3, 2/3.
        (
            [(0, 0.9, (0, 0, 10, 10)), (0, 0.8, (0, 0, 10, 9)), (1, 0.7, (0, 0, 10, 10))],
            (1 / 3 + 2 / 9, 2 / 3),
        ),
        ([(0, 0.9, (0, 0, 10, 4.9))], (0, 0)),  # overlap below a half
        ([(1, 0.9, (20, 20, 30, 30))], (0, 0)),  # right place, wrong frame
    ],
)
def test_average_precision_by_hand(items: list, expected: tuple[float, float]) -> None:
    assert average_precision(found(*items), TRUTH) == pytest.approx(expected)
