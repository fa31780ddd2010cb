"""What cold weights cost is measured, not assumed."""

from pathlib import Path

import msgspec
import pytest

from edgekit.errors import ConfigError
from edgekit.planner.launches import launches_of
from edgekit.planner.predict import Predictor
from edgekit.profiler.holdout import made_up
from edgekit.profiler.weight_reads import weight_reads
from edgekit.spec.base import load
from edgekit.spec.profile import DeviceProfile, WeightRead

_PROFILES = Path(__file__).parents[2] / "device_profiles"


@pytest.mark.integration
def test_a_byte_of_weights_never_gets_cheaper_as_the_footprint_grows() -> None:
    """More weights than a cache holds are read anew every inference."""
    found = weight_reads(budget_s=0.5)
    costs = [one.s_per_byte for one in found]
    assert costs == sorted(costs)
    assert all(0 <= cost < 1e-8 for cost in costs)
    footprints = [one.footprint_bytes for one in found]
    assert footprints == sorted(set(footprints))


def test_cold_weights_add_to_large_shards_only() -> None:
    """A network whose weights stay in the caches costs what its kernels cost."""
    profile = load(_PROFILES / "raspberry-pi-4.toml", DeviceProfile)
    network = made_up(3)
    workload, ops = network.workload(), range(len(network.ops))
    dear = WeightRead(footprint_bytes=1 << 10, s_per_byte=1e-9)
    beyond = WeightRead(footprint_bytes=1 << 40, s_per_byte=1e-9)
    free = WeightRead(footprint_bytes=1 << 39, s_per_byte=0.0)
    bare = Predictor(profile).predict(workload, ops).time_s
    warm = Predictor(msgspec.structs.replace(profile, weight_read=(free, beyond)))
    assert warm.predict(workload, ops).time_s == pytest.approx(bare)
    everywhere = Predictor(msgspec.structs.replace(profile, weight_read=(dear,)))
    launches = launches_of(workload, ops, everywhere.habits)
    # The same cost at every footprint is part of the kernels' own times already.
    assert everywhere.cold_weights_s(launches) == 0
    far = WeightRead(footprint_bytes=1 << 30, s_per_byte=1e-9)
    rising = (WeightRead(footprint_bytes=1 << 10, s_per_byte=0.0), far)
    cold = Predictor(msgspec.structs.replace(profile, weight_read=rising))
    assert cold.cold_weights_s(launches) > 0


def test_a_negative_cost_is_refused() -> None:
    """It would make a large shard faster than its parts."""
    with pytest.raises(ConfigError, match="cost"):
        WeightRead(footprint_bytes=1 << 20, s_per_byte=-1e-12)
