"""What kernel times leave open is found from whole shards."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.planner.calibrate import MeasuredShard, calibrated, fit, shard_terms
from edgekit.planner.predict import Predictor
from edgekit.spec.profile import Ceiling, DeviceProfile
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import KernelShape, OpCost, Workload


def _profile() -> DeviceProfile:
    return DeviceProfile(
        name="board",
        source="measured",
        reference="somebody",
        processor="some",
        memory="1 GB",
        memory_bandwidth="10 GB/s",
        cache_bandwidth="40 GB/s",
        ceiling=(Ceiling(precision="fp32", compute="10 Gflop/s"),),
        runtime="onnxruntime 1.0",
        session_overhead="20 us",
    )


def _chain(count: int, channels: int) -> Workload:
    """``count`` pointwise convolutions, one after the other."""
    shape = (1, channels, 20, 20)
    names = [f"t{index}" for index in range(count + 1)]
    return Workload(
        model="chain",
        model_sha256="",
        inputs=("t0",),
        outputs=(names[-1],),
        tensors=tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name in names),
        ops=tuple(
            OpCost(
                name=f"op{index}",
                op_type="Conv",
                inputs=(names[index],),
                outputs=(names[index + 1],),
                work_flop=0,
                traffic_bytes=0,
                weight_bytes=0,
                parameter_count=0,
                kernel=KernelShape(
                    key="Conv 1x1 s1 d1 dense", sizes=(channels, channels, 20, 20, 1)
                ),
            )
            for index in range(count)
        ),
    )


def _measured(profile: DeviceProfile, spoil: float = 1.0) -> list[MeasuredShard]:
    """Shards that take what ``profile`` says; the last one ``spoil`` times as long."""
    predictor = Predictor(profile)
    chains = [_chain(count, width) for count, width in ((3, 8), (9, 16), (4, 64), (12, 32), (6, 8))]
    shards = [
        MeasuredShard(
            workload=chain,
            ops=range(len(chain.ops)),
            time_s=predictor.predict(chain, range(len(chain.ops))).time_s,
        )
        for chain in chains
    ]
    last = shards[-1]
    shards[-1] = MeasuredShard(workload=last.workload, ops=last.ops, time_s=spoil * last.time_s)
    return shards


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.5, 2.0), launch_us=st.floats(0.5, 20.0))
def test_a_device_that_differs_by_both_numbers_gives_them_back(
    factor: float, launch_us: float
) -> None:
    """The two are told apart because shards differ in how large their kernels are."""
    truth = msgspec.structs.replace(
        _profile(), in_network=factor, launch_overhead=f"{launch_us} us"
    )
    found = calibrated(_profile(), _measured(truth))
    assert found.in_network == pytest.approx(factor, rel=1e-3)
    assert found.launch_overhead_s == pytest.approx(1e-6 * launch_us, rel=1e-2)


def test_one_disturbed_shard_changes_little() -> None:
    """Absolute errors, not squares: others may have used the processor meanwhile."""
    truth = msgspec.structs.replace(_profile(), in_network=1.1, launch_overhead="3 us")
    found = calibrated(_profile(), _measured(truth, spoil=1.8))
    assert found.in_network == pytest.approx(1.1, rel=0.02)


def test_an_overhead_is_never_negative() -> None:
    """Kernels that run faster together than alone show in the factor."""
    profile = _profile()
    quick = [
        MeasuredShard(workload=one.workload, ops=one.ops, time_s=max(2.1e-5, 0.6 * one.time_s))
        for one in _measured(profile)
    ]
    found = calibrated(profile, quick)
    assert found.launch_overhead_s >= 0
    assert 0.2 <= found.in_network <= 5


def test_nothing_measured_changes_nothing() -> None:
    """A profile without networks stays as it was."""
    assert calibrated(_profile(), []) == _profile()
    assert fit(_profile(), shard_terms(_profile(), [])) == _profile()
