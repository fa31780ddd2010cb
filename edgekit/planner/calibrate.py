"""Fit the two numbers that kernel times leave open to whole shards that were measured.

In:  a DeviceProfile with kernel times, and measured shards.  Out: the profile with ``in_network``
(by which factor kernels take longer among others) and ``launch_overhead`` (what each costs
besides).  Pure.
Launching a kernel with weights and a large result costs more than launching a tiny one, which is
all that can be measured by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from edgekit.planner.predict import Predictor
from edgekit.spec.profile import DeviceProfile
from edgekit.spec.tensors import Array
from edgekit.spec.workload import Workload

_MOST_LAUNCH_S = 1e-3
_FACTORS = (0.2, 5.0)
_ROUNDS = 20
_ALIKE = 0.01
"""Relative errors below this count the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredShard:
    """Operators of a model, and how long they took together."""

    workload: Workload
    ops: Sequence[int]
    time_s: float


def calibrated(profile: DeviceProfile, measured: Sequence[MeasuredShard]) -> DeviceProfile:
    """``profile`` with both numbers by least absolute relative errors; as it is if nothing was
    measured."""
    return fit(profile, shard_terms(profile, measured))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTerms:
    """What one measured shard says: time = factor x kernels + launches x overhead + fixed."""

    kernels_s: float
    launch_count: int
    fixed_s: float
    time_s: float


def shard_terms(
    profile: DeviceProfile, measured: Sequence[MeasuredShard]
) -> tuple[ShardTerms, ...]:
    """The terms of each shard, before any fit: they are the same for every selection of shards."""
    predictor = Predictor(msgspec.structs.replace(profile, in_network=1.0, launch_overhead="0 s"))
    terms = []
    for one in measured:
        found = predictor.predict(one.workload, one.ops)
        fixed_s = profile.session_overhead_s
        terms.append(
            ShardTerms(
                kernels_s=found.time_s - fixed_s,
                launch_count=found.launch_count,
                fixed_s=fixed_s,
                time_s=one.time_s,
            )
        )
    return tuple(terms)


def fit(profile: DeviceProfile, terms: Sequence[ShardTerms]) -> DeviceProfile:
    """``profile`` with the factor and the overhead that suit ``terms`` best."""
    if not terms:
        return profile
    kernels = np.array([one.kernels_s / one.time_s for one in terms])
    launches = np.array([one.launch_count / one.time_s for one in terms])
    wanted = np.array([1 - one.fixed_s / one.time_s for one in terms])
    factor, launch_s = _least_deviations(np.stack([kernels, launches], 1), wanted)
    if not 0 <= launch_s <= _MOST_LAUNCH_S:
        launch_s = min(max(0.0, launch_s), _MOST_LAUNCH_S)
        factor = np.median((wanted - launch_s * launches) / kernels)
    return msgspec.structs.replace(
        profile,
        in_network=round(float(np.clip(factor, *_FACTORS)), 4),
        launch_overhead=f"{1e6 * launch_s:.4g} us",
    )


def _least_deviations(terms: Array, wanted: Array) -> tuple[float, float]:
    """Coefficients of the two columns of ``terms``, shape (n, 2), for ``wanted``, shape (n,).

    Reweighted least squares: a few shards that are far off say little about the others.
    """
    weights = np.ones(len(wanted))
    factor, launch_s = 1.0, 0.0
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)
        found, *_ = np.linalg.lstsq(terms * root[:, None], wanted * root, rcond=None)
        factor, launch_s = float(found[0]), float(found[1])
        weights = 1.0 / np.maximum(np.abs(terms @ found - wanted), _ALIKE)
    return factor, launch_s
