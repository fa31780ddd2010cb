"""A scaled device is faster in everything by one factor, and still a valid profile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import PlanError
from edgekit.planner.predict import Predictor
from edgekit.planner.what_if import scaled_profile, with_bandwidth
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.profile import Ceiling, DeviceProfile, KernelTime
from tests.graphs import workload

PROFILE = DeviceProfile(
    name="board",
    source="measured",
    reference="a test",
    processor="1x core",
    memory="1 GiB",
    memory_bandwidth="4 GB/s",
    copy_bandwidth="2 GB/s",
    launch_overhead="10 us",
    session_overhead="50 us",
    runtime="onnxruntime 1.31.1",
    ceiling=(Ceiling(precision="fp32", compute="10 Gflop/s", sustained="8 Gflop/s"),),
    kernel=(KernelTime(key="Relu", sizes=(100,), time_s=1e-5),),
)


@given(st.floats(0.05, 20))
def test_everything_scales_by_one_factor(factor: float) -> None:
    """So a plan for a slower copy of a device is the plan of one with longer times."""
    ops = [("Gelu", ["image"], ["a"]), ("Tanh", ["a"], ["b"])]
    model = workload(ops, outputs=["b"], elements={"a": 10_000_000, "b": 10_000_000})
    before = Predictor(PROFILE).predict(model, [0, 1]).time_s
    after = Predictor(scaled_profile(PROFILE, factor)).predict(model, [0, 1]).time_s
    assert after == pytest.approx(before / factor, rel=1e-3)


def test_memory_does_not_grow_with_speed() -> None:
    assert scaled_profile(PROFILE, 4).memory_bytes == PROFILE.memory_bytes
    assert scaled_profile(PROFILE, 4).ceiling[0].sustained_flop_per_s == 32e9


def test_a_device_without_speed_is_refused() -> None:
    with pytest.raises(PlanError, match="0 times as fast"):
        scaled_profile(PROFILE, 0)


def test_a_faster_link_is_faster_both_ways_and_leaves_the_others_alone() -> None:
    """Uplink and downlink keep their ratio; the round trip is not bandwidth."""
    slow = Link(source="a", target="b", bandwidth="10 Mbit/s", bandwidth_back="2 Mbit/s")
    other = Link(source="b", target="c", bandwidth="10 Mbit/s")
    fleet = Fleet(name="f", device=tuple(Device(name=one) for one in "abc"), link=(slow, other))
    changed = with_bandwidth(fleet, slow, 3)
    assert changed.link[0].toward("b") == pytest.approx(30e6 / 8)
    assert changed.link[0].toward("a") == pytest.approx(6e6 / 8)
    assert changed.link[0].rtt == slow.rtt
    assert changed.link[1] == other
