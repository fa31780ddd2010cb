"""Predict how long a shard takes on a device.

In:  a Workload, the positions of the shard's operators, and a DeviceProfile.  Out: seconds with
an interval.  Pure.
The sum over what the runtime would launch (``launches``): each kernel's time interpolated between
measured ones (``kernel_model``), its epilogue, the runtime's overhead per kernel, and once the
session's own. Without a kernel table every kernel is at its roofline, and the interval says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.errors import PlanError
from edgekit.planner.kernel_keys import kernel_facts
from edgekit.planner.kernel_model import KernelModel
from edgekit.planner.launches import Habits, Launch, habits_of, launches_of
from edgekit.spec.profile import DeviceProfile, Precision
from edgekit.spec.workload import Workload
from edgekit.units import parse_bandwidth

_SHARED = 0.15
"""Share of the kernels' errors that they have in common: it does not average out."""
_NETWORK = 0.04
"""Standard deviation of what whole shards differ from the sum of their kernels."""
_INTERVAL = 1.645
"""Standard deviations on each side for nine cases in ten."""
_EPILOGUE = "Epilogue"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEstimate:
    """Seconds of one inference of a shard."""

    time_s: float
    low_s: float
    high_s: float
    launch_count: int
    unknown_count: int
    """Launches of which the profile measured nothing alike."""


def widening_of(total_s: float, alone: float, together: float) -> float:
    """The factor between a prediction and either end of its interval.

    ``alone`` is the sum over kernels of (time x spread) squared, ``together`` that of time times
    spread.
    """
    whole = (_NETWORK * total_s) ** 2
    deviation_s = math.sqrt((1 - _SHARED) * alone + _SHARED * together**2 + whole)
    return math.exp(_INTERVAL * deviation_s / total_s) if total_s else 1.0


class Predictor:
    """Predicts shards on one device at one precision. Raises: PlanError without that ceiling."""

    def __init__(
        self, profile: DeviceProfile, *, precision: Precision = "fp32", provider: str = "cpu"
    ) -> None:
        roof = profile.roof(precision, provider)
        if roof is None:
            raise PlanError(
                f"profile {profile.name} has no {precision} ceiling of {provider}",
                hint="measure it with `edgekit profile`, or choose another precision",
            )
        profile = profile.seen_by(provider, precision)
        self.profile = profile
        self.habits: Habits = habits_of(profile)
        table = [one for one in profile.kernel if not one.key.startswith(_EPILOGUE)]
        bandwidth = parse_bandwidth(profile.cache_bandwidth or profile.memory_bandwidth)
        self.kernels = KernelModel(
            table,
            flop_per_s=roof.flop_per_s,
            bytes_per_s=bandwidth,
            far_bytes_per_s=profile.memory_bytes_per_s,
            reaches=profile.reach,
        )
        self._epilogues_s = {
            one.key: one.time_s / one.sizes[0]
            for one in profile.kernel
            if one.key.startswith(_EPILOGUE)
        }
        self._copy_bytes_per_s = (
            parse_bandwidth(profile.copy_bandwidth) if profile.copy_bandwidth else math.inf
        )

    def predict(self, workload: Workload, ops: Sequence[int]) -> ShardEstimate:
        """One inference of the operators ``ops`` (positions in ``workload``) as one shard."""
        launches = launches_of(workload, ops, self.habits)
        times = [self._launch(launch) for launch in launches]
        kernels_s = sum(time_s for time_s, _, _ in times) + self.cold_weights_s(launches)
        overhead_s = len(launches) * self.profile.launch_overhead_s
        session_s = self.profile.session_overhead_s + self._handover_s(workload, ops)
        total_s = kernels_s + overhead_s + session_s
        alone = sum((time_s * spread) ** 2 for time_s, spread, _ in times)
        together = sum(time_s * spread for time_s, spread, _ in times)
        widening = widening_of(total_s, alone, together)
        return ShardEstimate(
            time_s=total_s,
            low_s=total_s / widening,
            high_s=total_s * widening,
            launch_count=len(launches),
            unknown_count=sum(not known for _, _, known in times),
        )

    def cold_weights_s(self, launches: Sequence[Launch]) -> float:
        """What weights cost that the rest of the shard pushes out of the caches.

        Every weight is read once an inference; between two readings lies all else of the shard.
        """
        if not self.profile.weight_read:
            return 0.0
        facts = [kernel_facts(launch.key, launch.sizes) for launch in launches]
        weights = sum(one.weight_bytes for one in facts)
        widest = max((one.traffic_bytes - one.weight_bytes for one in facts), default=0.0)
        together_s = self._weight_read_s(weights + widest)
        return sum(
            one.weight_bytes * max(0.0, together_s - self._weight_read_s(one.traffic_bytes))
            for one in facts
            if one.weight_bytes
        )

    def _weight_read_s(self, footprint_bytes: float) -> float:
        """Per byte, between the measured footprints on a logarithmic scale."""
        known = self.profile.weight_read
        return float(
            np.interp(
                math.log(max(1.0, footprint_bytes)),
                [math.log(one.footprint_bytes) for one in known],
                [one.s_per_byte for one in known],
            )
        )

    def _launch(self, launch: Launch) -> tuple[float, float, bool]:
        found = self.kernels.estimate(launch.key, launch.sizes)
        extra_s = sum(
            self._epilogues_s.get(f"{_EPILOGUE} {name}", 0.0) * launch.out_count
            for name in launch.epilogue
        )
        time_s = self.profile.in_network * (found.time_s + extra_s)
        return time_s, found.spread, found.is_known

    def launch_s(self, launch: Launch) -> tuple[float, float]:
        """Seconds of one launch without the runtime's overhead, and the spread of its logarithm."""
        time_s, spread, _ = self._launch(launch)
        return time_s, spread

    @property
    def copy_bytes_per_s(self) -> float:
        """At which tensors enter and leave a shard; infinite where it was not measured."""
        return self._copy_bytes_per_s

    def _handover_s(self, workload: Workload, ops: Sequence[int]) -> float:
        """What enters and leaves the shard lies in memory that no cache holds."""
        inside = set(ops)
        made = {name for position in ops for name in workload.ops[position].outputs}
        read = {name for position in ops for name in workload.ops[position].inputs}
        read_below = {
            name
            for position, op in enumerate(workload.ops)
            if position not in inside
            for name in op.inputs
        }
        border = (read - made) | (made & (read_below | set(workload.outputs)))
        return sum(workload.tensor[name].nbytes for name in border) / self._copy_bytes_per_s
