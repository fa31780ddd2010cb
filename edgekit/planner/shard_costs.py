"""Seconds of every shard of one variant on one device at one precision, by prefix sums.

In:  a Geometry and a Predictor.  Out: a matrix of seconds (node, node), and details of one shard.
Pure. Adds up what ``predict.Predictor`` adds up: kernels, the runtime's overhead per kernel and per
session, what the cuts change in the launches (``borders``), the handing over of tensors, and
weights that others push out of the caches. Equal to the predictor's answer wherever two borders do
not reach into each other; a test holds the two together.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from edgekit.planner.borders import borders_of, whole_launches
from edgekit.planner.geometry import Geometry
from edgekit.planner.kernel_keys import kernel_facts
from edgekit.planner.launches import Launch
from edgekit.planner.predict import Predictor, widening_of
from edgekit.spec.planning import Roof
from edgekit.spec.profile import Ceiling, DeviceProfile, Precision
from edgekit.spec.tensors import Array
from edgekit.units import parse_bandwidth

_TIME, _ALONE, _TOGETHER, _COMPUTE, _MEMORY = range(5)


@dataclass(frozen=True, slots=True)
class ShardDetail:
    """What is known of one shard besides its seconds."""

    widening: float
    """The factor to either end of the interval."""
    roof: Roof


@dataclass(frozen=True)
class _Named:
    """A profile as a key: profiles hold tables, which do not hash."""

    profile: DeviceProfile

    def __hash__(self) -> int:
        return hash(self.profile.name)


def predictor_of(profile: DeviceProfile, precision: Precision, provider: str) -> Predictor:
    """Remembered: plans are made again and again with the same devices."""
    return _predictor(_Named(profile), precision, provider)


@lru_cache(maxsize=64)
def _predictor(named: _Named, precision: Precision, provider: str) -> Predictor:
    return Predictor(named.profile, precision=precision, provider=provider)


class ShardCosts:
    """Of one variant, on one kind of device, at one precision."""

    def __init__(self, geometry: Geometry, predictor: Predictor, roof: Ceiling) -> None:
        self._geometry, self._predictor, self._roof = geometry, predictor, roof
        self._profile = predictor.profile
        self._launches = whole_launches(geometry.workload, predictor.habits)
        self._borders = borders_of(geometry.workload, predictor.habits, geometry.sets[1:-1])

    def _row(self, launch: Launch) -> Array:
        """Time, variances, and the time under either roof, of one launch."""
        kernel_s, spread = self._predictor.launch_s(launch)
        time_s = kernel_s + self._profile.launch_overhead_s
        compute_s = launch.work_flop / self._roof.flop_per_s
        memory_s = launch.traffic_bytes / self._bytes_per_s
        is_compute = compute_s >= memory_s
        return np.array([
            time_s, (kernel_s * spread) ** 2, kernel_s * spread,
            kernel_s * is_compute, kernel_s * (not is_compute),
        ])  # fmt: skip

    @cached_property
    def _bytes_per_s(self) -> float:
        return parse_bandwidth(self._profile.cache_bandwidth or self._profile.memory_bandwidth)

    @cached_property
    def _sums(self) -> Array:
        """Per node, the rows of all launches above it, shape (nodes, 5)."""
        per_op = np.zeros((len(self._geometry.workload.ops), 5))
        for launch in self._launches:
            per_op[launch.op] += self._row(launch)
        total: Array = self._geometry.above @ per_op
        return total

    @cached_property
    def _at_border(self) -> tuple[Array, Array]:
        """Per node and operator, what that operator takes more if a shard ends or begins there.

        Shape (nodes, operators, 5) each. By operator, since one that lies beyond the other end of
        the shard does not count.
        """
        known: dict[tuple[str, tuple[int, ...], tuple[str, ...]], Array] = {}
        shape = (2, len(self._geometry.sets), len(self._geometry.workload.ops), 5)
        changes = np.zeros(shape)
        for node, border in enumerate(self._borders, start=1):
            for side, launches in enumerate((border.ending, border.beginning)):
                for launch, count in launches:
                    key = (launch.key, launch.sizes, launch.epilogue)
                    if key not in known:
                        known[key] = self._row(launch)
                    changes[side, node, launch.op] += count * known[key]
        return changes[0], changes[1]

    @cached_property
    def time_s(self) -> Array:
        """Shape (nodes, nodes); infinite where there is no shard."""
        ending, beginning = self._at_border
        kernels_s, above = self._sums[:, _TIME], self._geometry.above
        total_s = (
            kernels_s[None, :]
            - kernels_s[:, None]
            + (1.0 - above) @ ending[:, :, _TIME].T
            + beginning[:, :, _TIME] @ above.T
            + self._profile.session_overhead_s
            + self._cold_weights_s
        )
        if np.isfinite(self._predictor.copy_bytes_per_s):
            total_s = total_s + self._geometry.handed_bytes / self._predictor.copy_bytes_per_s
        result: Array = np.where(self._geometry.is_shard, total_s, np.inf)
        return result

    def detail(self, begin: int, end: int) -> ShardDetail:
        """Interval and roof of one shard."""
        ending, beginning = self._at_border
        above = self._geometry.above
        row = self._sums[end] - self._sums[begin]
        row = row + (1.0 - above[begin]) @ ending[end] + above[end] @ beginning[begin]
        total_s = float(self.time_s[begin, end])
        overhead_s = total_s - row[_COMPUTE] - row[_MEMORY]
        shares = {"compute": row[_COMPUTE], "memory": row[_MEMORY], "overhead": overhead_s}
        roof: Roof = max(("compute", "memory", "overhead"), key=lambda name: shares[name])
        widening = widening_of(total_s, max(0.0, row[_ALONE]), max(0.0, row[_TOGETHER]))
        return ShardDetail(widening=widening, roof=roof)

    @cached_property
    def _cold_weights_s(self) -> Array:
        """As ``Predictor.cold_weights_s``, for every shard at once."""
        nodes = len(self._geometry.sets)
        result = np.zeros((nodes, nodes))
        if not self._profile.weight_read:
            return result
        facts = [kernel_facts(launch.key, launch.sizes) for launch in self._launches]
        owner = np.array([launch.op for launch in self._launches])
        weights = np.array([float(one.weight_bytes) for one in facts])
        traffic = np.array([float(one.traffic_bytes) for one in facts])
        heavy = weights > 0
        above = self._geometry.above[:, owner] @ weights
        widest = self._geometry.widest(traffic - weights, owner)
        together_s = self._weight_read_s(above[None, :] - above[:, None] + widest)
        alone_s = self._weight_read_s(traffic[heavy])
        inside = self._geometry.above[:, owner[heavy]]
        for begin in range(nodes):
            extra_s = np.maximum(0.0, together_s[begin][:, None] - alone_s[None, :])
            result[begin] = (extra_s * inside) @ (weights[heavy] * (1.0 - inside[begin]))
        return result

    def _weight_read_s(self, footprint_bytes: Array) -> Array:
        known = self._profile.weight_read
        return np.interp(
            np.log(np.maximum(1.0, footprint_bytes)),
            np.log([one.footprint_bytes for one in known]),
            [one.s_per_byte for one in known],
        )
