"""Interpolate kernel times between measured ones: a roofline, corrected by what was measured near.

In:  measured KernelTimes and two roofs.  Out: seconds with a spread, for any key and sizes.
Per family of kernels a Gaussian process over the logarithms of the sizes learns by which factor
the measured times exceed the roofline. Near a measured kernel it answers that kernel's own time;
far from all of them it falls back to the family's mean, and its spread widens.
Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 2.2.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.planner.kernel_keys import KernelFacts, kernel_facts
from edgekit.spec.profile import KernelTime
from edgekit.spec.tensors import Array

_LENGTHS = (1.0, 2.0, 4.0, 8.0)
"""Distances, in factors of two, over which efficiencies stay alike; the best one is chosen."""
_NOISE = 0.04
"""Standard deviation of the logarithm of one measurement."""
_FLOOR_S = 5e-7
"""What the smallest kernel takes, so that its roofline is not zero."""
_UNKNOWN_SPREAD = 0.7
"""Standard deviation of the logarithm for a family of which nothing was measured."""


@dataclass(frozen=True, slots=True)
class KernelEstimate:
    """Seconds of one kernel, and how unsure that is."""

    time_s: float
    spread: float
    """Standard deviation of the logarithm of the time."""
    is_known: bool
    """False where nothing of this family was measured: the bare roofline."""


@dataclass(frozen=True)
class _Family:
    points: Array
    """Features, shape (n, features)."""
    inverse: Array
    """Of the points' covariance, shape (n, n)."""
    weights: Array
    mean: float
    scale: float
    length: float


class KernelModel:
    """Times of kernels on one device at one precision."""

    def __init__(
        self, kernels: Sequence[KernelTime], *, flop_per_s: float, bytes_per_s: float
    ) -> None:
        self._flop_per_s = flop_per_s
        self._bytes_per_s = bytes_per_s
        grouped: dict[str, list[tuple[KernelFacts, float]]] = defaultdict(list)
        for kernel in kernels:
            facts = kernel_facts(kernel.key, kernel.sizes)
            excess = math.log(kernel.time_s / self.roofline_s(facts))
            grouped[facts.family].append((facts, excess))
        self._families = {name: _fitted(points) for name, points in grouped.items()}
        self._known: dict[tuple[str, tuple[int, ...]], KernelEstimate] = {}

    def roofline_s(self, facts: KernelFacts) -> float:
        """The slower of the two roofs, and what the smallest kernel takes."""
        return _FLOOR_S + max(
            facts.work_flop / self._flop_per_s, facts.traffic_bytes / self._bytes_per_s
        )

    def estimate(self, key: str, sizes: tuple[int, ...]) -> KernelEstimate:
        """Time of one kernel; remembered, since plans ask for the same ones again and again."""
        found = self._known.get((key, sizes))
        if found is None:
            found = self._known[key, sizes] = self._estimate(kernel_facts(key, sizes))
        return found

    def _estimate(self, facts: KernelFacts) -> KernelEstimate:
        family = self._families.get(facts.family)
        roofline_s = self.roofline_s(facts)
        if family is None:
            return KernelEstimate(roofline_s, _UNKNOWN_SPREAD, False)
        distances = _distances(np.array([facts.features]), family.points)[0]
        near = _covariance(distances, family.scale, family.length)
        excess = family.mean + float(near @ family.weights)
        explained = float(near @ family.inverse @ near)
        variance = max(0.0, family.scale**2 - explained) + _NOISE**2
        return KernelEstimate(roofline_s * math.exp(excess), math.sqrt(variance), True)


def _fitted(points: Sequence[tuple[KernelFacts, float]]) -> _Family:
    """The family whose length predicts each point best from the others (closed form)."""
    features = np.array([facts.features for facts, _ in points])
    excess = np.array([value for _, value in points])
    mean = float(np.median(excess))
    scale = max(0.1, float(np.std(excess)))
    best: tuple[float, _Family] | None = None
    distances = _distances(features, features)
    for length in _LENGTHS:
        covariance = _covariance(distances, scale, length)
        covariance[np.diag_indices_from(covariance)] += _NOISE**2
        inverse = np.linalg.inv(covariance)
        weights = inverse @ (excess - mean)
        left_out = weights / np.diag(inverse)
        error = float(np.mean(np.abs(left_out)))
        family = _Family(features, inverse, weights, mean, scale, length)
        if best is None or error < best[0]:
            best = (error, family)
    if best is None:
        raise ValueError("no lengths to try")
    return best[1]


def _distances(one: Array, other: Array) -> Array:
    """Between ``one``, shape (n, features), and ``other``, (m, features). Returns: (n, m)."""
    total = np.zeros((len(one), len(other)))
    for column in range(one.shape[1]):
        gaps = one[:, column, None] - other[None, :, column]
        total += gaps * gaps
    return np.sqrt(total)


def _covariance(distances: Array, scale: float, length: float) -> Array:
    """Exponential covariance (Matern 1/2): efficiencies have steps, not waves."""
    covariance: Array = scale**2 * np.exp(-distances / length)
    return covariance
