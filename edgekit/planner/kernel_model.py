"""Interpolate kernel times between measured ones: a roofline, corrected by what was measured near.

In:  measured KernelTimes and two roofs.  Out: seconds with a spread, for any key and sizes.
Per family of kernels a Gaussian process over the logarithms of the sizes learns by which factor
the measured times exceed the roofline. Near a measured kernel it answers that kernel's own time;
far from all of them it falls back to the family's mean, and its spread widens.
How far a size reaches differs by size and family (channels matter at once, pixels slowly): the
profiler finds those reaches once (``fitted_reaches``) and stores them with the table.
Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2, 5.1,
5.4.2 (leave one out in closed form).
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.planner.kernel_keys import KernelFacts, kernel_facts
from edgekit.spec.profile import KernelTime
from edgekit.spec.tensors import Array

_REACH = 8.0
"""Distance, in factors of two, over which efficiencies stay alike, unless the profile knows."""
_REACHES = (1 / 8, 256.0)
_STEPS = (0.5, 2.0, 0.25, 4.0)
_MOST_SWEEPS = 4
_NOISE = 0.03
"""Standard deviation of the logarithm of one measurement."""
_WEIGHTY_S = 2e-5
"""Errors of kernels shorter than this matter less, in proportion."""
_CLOCK_S = 3e-7
"""Standard deviation of a measured time besides that."""
_FLOOR_S = 3e-7
"""What the smallest kernel takes, so that its roofline is not zero."""
_NEAR_BYTES = 4 << 20
"""What one kernel touches beyond this comes from memory, not from a cache."""
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


@dataclass(frozen=True, slots=True)
class _Point:
    kernel: KernelTime
    features: tuple[float, ...]
    excess: float
    """Logarithm of the measured time over the roofline."""


@dataclass(frozen=True)
class _Family:
    points: Array
    """Features over their reaches, shape (n, features)."""
    inverse: Array
    """Of the points' covariance, shape (n, n)."""
    weights: Array
    reaches: Array
    left_out: Array
    """Of each point, its excess over what the others predict (closed form)."""
    mean: float
    scale: float


class KernelModel:
    """Times of kernels on one device at one precision."""

    def __init__(
        self,
        kernels: Sequence[KernelTime],
        *,
        flop_per_s: float,
        bytes_per_s: float,
        far_bytes_per_s: float = 0.0,
        reaches: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self._flop_per_s = flop_per_s
        self._bytes_per_s = bytes_per_s
        self._far_bytes_per_s = far_bytes_per_s or bytes_per_s
        self._points: dict[str, list[_Point]] = defaultdict(list)
        for kernel in kernels:
            facts = kernel_facts(kernel.key, kernel.sizes)
            excess = math.log(kernel.time_s / self.roofline_s(facts))
            self._points[facts.family].append(_Point(kernel, facts.features, excess))
        known = reaches or {}
        self._families = {
            name: _fitted(points, known.get(name)) for name, points in self._points.items()
        }
        self._known: dict[tuple[str, tuple[int, ...]], KernelEstimate] = {}

    def fitted_reaches(self) -> dict[str, tuple[float, ...]]:
        """Per family and feature, the reaches that predict each kernel best from all the others.

        Takes a second or two: for the profiler, once.
        """
        return {name: _best_reaches(points) for name, points in self._points.items()}

    def surprises(self) -> dict[tuple[str, tuple[int, ...]], float]:
        """Per measured kernel, by which logarithm it is slower than all the others let expect.

        Where that is much, the measurement was likely disturbed.
        """
        found = {}
        for name, points in self._points.items():
            family = self._families[name]
            for point, left_out in zip(points, family.left_out, strict=True):
                found[point.kernel.key, point.kernel.sizes] = float(left_out)
        return found

    def roofline_s(self, facts: KernelFacts) -> float:
        """The slower of the two roofs, and what the smallest kernel takes."""
        near_bytes = min(facts.traffic_bytes, _NEAR_BYTES)
        far_bytes = facts.traffic_bytes - near_bytes
        moving_s = near_bytes / self._bytes_per_s + far_bytes / self._far_bytes_per_s
        return _FLOOR_S + max(facts.work_flop / self._flop_per_s, moving_s)

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
        near = _covariance(np.array([facts.features]) / family.reaches, family.points, family.scale)
        excess = family.mean + float(near[0] @ family.weights)
        explained = float(near[0] @ family.inverse @ near[0])
        variance = max(0.0, family.scale**2 - explained) + _NOISE**2
        return KernelEstimate(roofline_s * math.exp(excess), math.sqrt(variance), True)


def _fitted(points: Sequence[_Point], reaches: Sequence[float] | None) -> _Family:
    """The family as a Gaussian process; unknown or unfitting ``reaches`` are all alike."""
    features = np.array([point.features for point in points])
    if reaches is None or len(reaches) != features.shape[1]:
        reaches = (_REACH,) * features.shape[1]
    scaled = features / np.array(reaches)
    excess = np.array([point.excess for point in points])
    mean, scale = float(np.median(excess)), max(0.1, float(np.std(excess)))
    inverse = _inverse(scaled, scale, _noise(points))
    weights = inverse @ (excess - mean)
    left_out = weights / np.diag(inverse)
    return _Family(scaled, inverse, weights, np.array(reaches), left_out, mean, scale)


def _best_reaches(points: Sequence[_Point]) -> tuple[float, ...]:
    """One reach after the other by factors of two, as long as that lowers the left-out error."""
    features = np.array([point.features for point in points])
    excess = np.array([point.excess for point in points])
    worth = np.minimum(1.0, np.array([point.kernel.time_s for point in points]) / _WEIGHTY_S)
    scale, noise = max(0.1, float(np.std(excess))), _noise(points)

    def error(reaches: Array) -> float:
        inverse = _inverse(features / reaches, scale, noise)
        left_out = inverse @ (excess - np.median(excess)) / np.diag(inverse)
        return float(np.average(np.abs(left_out), weights=worth))

    best = np.full(features.shape[1], _REACH)
    lowest = error(best)
    for _ in range(_MOST_SWEEPS):
        before = lowest
        for column in range(len(best)):
            for step in _STEPS:
                tried = best.copy()
                tried[column] = np.clip(tried[column] * step, *_REACHES)
                if (found := error(tried)) < lowest:
                    best, lowest = tried, found
        if lowest == before:
            break
    return tuple(float(one) for one in best)


def _noise(points: Sequence[_Point]) -> Array:
    """Variance of each measured logarithm: of a short time the clock tells little."""
    times_s = np.array([point.kernel.time_s for point in points])
    variance: Array = _NOISE**2 + (_CLOCK_S / times_s) ** 2
    return variance


def _inverse(scaled: Array, scale: float, noise: Array) -> Array:
    covariance = _covariance(scaled, scaled, scale)
    covariance[np.diag_indices_from(covariance)] += noise
    inverse: Array = np.linalg.inv(covariance)
    return inverse


def _covariance(one: Array, other: Array, scale: float) -> Array:
    """Matern 3/2 between ``one``, shape (n, features), and ``other``, (m, features): (n, m)."""
    squares = np.zeros((len(one), len(other)))
    for column in range(one.shape[1]):
        gaps = one[:, column, None] - other[None, :, column]
        squares += gaps * gaps
    distances = math.sqrt(3.0) * np.sqrt(squares)
    covariance: Array = scale**2 * (1.0 + distances) * np.exp(-distances)
    return covariance
