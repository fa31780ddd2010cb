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

from edgekit.errors import PlanError
from edgekit.planner.kernel_model import KernelModel
from edgekit.planner.launches import Habits, Launch, habits_of, launches_of
from edgekit.spec.profile import DeviceProfile, Precision
from edgekit.spec.workload import Workload
from edgekit.units import parse_bandwidth

_SHARED = 0.15
"""Share of the kernels' errors that they have in common: it does not average out."""
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
        self.profile = profile
        self.habits: Habits = habits_of(profile)
        table = [one for one in profile.kernel if not one.key.startswith(_EPILOGUE)]
        bandwidth = parse_bandwidth(profile.cache_bandwidth or profile.memory_bandwidth)
        self.kernels = KernelModel(table, flop_per_s=roof.flop_per_s, bytes_per_s=bandwidth)
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
        kernels_s = sum(time_s for time_s, _, _ in times)
        overhead_s = len(launches) * self.profile.launch_overhead_s
        session_s = self.profile.session_overhead_s + self._handover_s(workload, ops)
        total_s = kernels_s + overhead_s + session_s
        alone = sum((time_s * spread) ** 2 for time_s, spread, _ in times)
        together = sum(time_s * spread for time_s, spread, _ in times)
        deviation_s = math.sqrt((1 - _SHARED) * alone + _SHARED * together**2)
        widening = math.exp(_INTERVAL * deviation_s / total_s) if total_s else 1.0
        return ShardEstimate(
            time_s=total_s,
            low_s=total_s / widening,
            high_s=total_s * widening,
            launch_count=len(launches),
            unknown_count=sum(not known for _, _, known in times),
        )

    def _launch(self, launch: Launch) -> tuple[float, float, bool]:
        found = self.kernels.estimate(launch.key, launch.sizes)
        extra_s = sum(
            self._epilogues_s.get(f"{_EPILOGUE} {name}", 0.0) * launch.out_count
            for name in launch.epilogue
        )
        time_s = self.profile.in_network * (found.time_s + extra_s)
        return time_s, found.spread, found.is_known

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
