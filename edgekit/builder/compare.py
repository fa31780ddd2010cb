"""How far two sets of outputs are apart, relative to the range of the first.

In: arrays by name.  Out: bit-equal or not, and the largest relative error.  Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.spec.tensors import Array

MAX_RELATIVE_ERROR = 1e-5
"""The promise in fp32 (architecture.md, section 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Between two values of one output."""

    bit_equal: bool
    relative_error: float
    """max |got - want| / max |want|; infinite if shape, type or non-finite values differ."""


def difference(want: Array, got: Array) -> Difference:
    """Compare two arrays of one shape and dtype.

    Returns: bit_equal treats two NaN at one place as equal, and so does relative_error.
    """
    if want.shape != got.shape or want.dtype != got.dtype:
        return Difference(bit_equal=False, relative_error=np.inf)
    if want.tobytes() == got.tobytes():
        return Difference(bit_equal=True, relative_error=0.0)
    exact, other = want.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(exact)
    if not np.array_equal(exact[~finite], other[~finite], equal_nan=True):
        return Difference(bit_equal=False, relative_error=np.inf)
    exact, other = exact[finite], other[finite]
    off = float(np.abs(exact - other).max(initial=0.0))
    scale = float(np.abs(exact).max(initial=0.0))
    relative_error = 0.0 if off == 0 else off / scale if scale else np.inf
    # A NaN in ``got`` alone fails every comparison; make it fail ours too.
    return Difference(
        bit_equal=False, relative_error=np.inf if np.isnan(relative_error) else relative_error
    )


def differences(want: Mapping[str, Array], got: Mapping[str, Array]) -> dict[str, Difference]:
    """Compare outputs by name; one that ``got`` lacks counts as infinitely far."""
    missing = Difference(bit_equal=False, relative_error=np.inf)
    return {
        name: difference(value, got[name]) if name in got else missing
        for name, value in want.items()
    }
