"""How many frames each member of a farm can be given.

In:  what one frame costs each member, and costs the source for it.  Out: frames per second.  Pure.
The most frames in all, where no member works more than it can and neither the source's processor
nor its way out to the others does: a linear program, solved exactly by the simplex method.
Source: Bland, "New finite pivoting rules for the simplex method", 1977.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.spec.tensors import Array

_ZERO = 1e-12


@dataclass(frozen=True, slots=True)
class Member:
    """Seconds per frame that this member gets."""

    interval_s: float
    """Of its own slowest part."""
    source_s: float
    """Of the source's processor."""
    sending_s: float
    """Of the source's way out: frames and activations that leave it."""


def member_rates(members: Sequence[Member]) -> list[float]:
    """Frames per second of each member, so that their sum is the largest possible."""
    count = len(members)
    rates = np.array([1.0 / member.interval_s for member in members])
    # In shares of each member's own rate, so that all numbers are of the same size.
    limits = np.vstack([
        np.eye(count),
        [rate * member.source_s for rate, member in zip(rates, members, strict=True)],
        [rate * member.sending_s for rate, member in zip(rates, members, strict=True)],
    ])  # fmt: skip
    if (limits.sum(axis=1) <= 1.0 + _ZERO).all():
        return [float(rate) for rate in rates]
    used = _maximised(rates / rates.max(), limits)
    return [float(rate * share) for rate, share in zip(rates, used, strict=True)]


def _maximised(gain: Array, limits: Array) -> Array:
    """The x >= 0 of largest ``gain @ x`` with ``limits @ x <= 1``; shapes (n,) and (m, n)."""
    rows, count = limits.shape
    tableau = np.hstack([limits, np.eye(rows), np.ones((rows, 1))])
    cost = np.concatenate([-gain, np.zeros(rows + 1)])
    basis = list(range(count, count + rows))
    while (entering := np.flatnonzero(cost[:-1] < -_ZERO)).size:
        column = int(entering[0])
        slope = tableau[:, column]
        ratios = np.full(rows, np.inf)
        np.divide(tableau[:, -1], slope, out=ratios, where=slope > _ZERO)
        least = ratios.min()
        row = min(np.flatnonzero(ratios <= least + _ZERO), key=lambda one: basis[one])
        tableau[row] /= tableau[row, column]
        for other in range(rows):
            if other != row:
                tableau[other] -= tableau[other, column] * tableau[row]
        cost -= cost[column] * tableau[row]
        basis[row] = column
    result = np.zeros(count + rows)
    result[basis] = tableau[:, -1]
    return np.clip(result[:count], 0.0, 1.0)
