"""Comparing outputs: bit-equal, near, or far; never fooled by NaN."""

import numpy as np
import pytest

from edgekit.builder.compare import difference, differences

X = np.array([1.0, -2.0, 4.0], np.float32)


@pytest.mark.parametrize(
    ("got", "bit_equal", "relative_error"),
    [
        (X.copy(), True, 0.0),
        (X + np.float32(0.5), False, 0.125),
        (X * 0, False, 1.0),
        (X.astype(np.float64), False, np.inf),
        (X[:2], False, np.inf),
        (np.array([1, np.nan, 4], np.float32), False, np.inf),
        (np.array([1, np.inf, 4], np.float32), False, np.inf),
    ],
)
def test_the_error_is_relative_to_the_range_of_the_first(
    got: np.ndarray, bit_equal: bool, relative_error: float
) -> None:
    """And infinite where no ratio makes sense."""
    found = difference(X, got)
    assert (found.bit_equal, found.relative_error) == (bit_equal, relative_error)


def test_nan_at_the_same_place_is_equal() -> None:
    """A model may give NaN on random input, whole and split alike."""
    both = np.array([np.nan, 1.0])
    assert difference(both, both.copy()).bit_equal
    near = difference(both, np.array([np.nan, 1.5]))
    assert near.relative_error == 0.5
    assert difference(np.array([1.0]), np.array([np.nan])).relative_error == np.inf


def test_zero_against_anything_else_is_infinitely_far() -> None:
    """There is no range to be relative to."""
    zero = np.zeros(2)
    assert difference(zero, zero + 1e-9).relative_error == np.inf
    assert difference(zero, -zero).relative_error == 0.0


def test_a_missing_output_is_infinitely_far() -> None:
    """Silence is not equality."""
    assert differences({"a": X}, {})["a"].relative_error == np.inf


def test_empty_arrays_are_equal() -> None:
    """No detections, for instance."""
    assert difference(np.zeros((0, 4)), np.zeros((0, 4))).bit_equal
