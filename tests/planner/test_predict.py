"""Shards are priced by what a runtime launches for them, and a guess says that it is one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import PlanError
from edgekit.planner.kernel_keys import kernel_facts
from edgekit.planner.kernel_model import KernelModel
from edgekit.planner.launches import Habits, launches_of
from edgekit.planner.predict import Predictor
from edgekit.spec.profile import Ceiling, DeviceProfile, KernelTime
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import KernelShape, OpCost, Workload

BLOCKED = Habits(fused=frozenset({"Conv+Relu", "Conv+Add", "Conv+Add+Relu", "Sigmoid*x"}), block=8)
CONV = "Conv 3x3 s1 d1 dense"


def op(kind: str, inputs: str, output: str, key: str, sizes: tuple[int, ...]) -> OpCost:
    return OpCost(
        name=output, op_type=kind, inputs=tuple(inputs.split()), outputs=(output,), work_flop=100,
        traffic_bytes=100, weight_bytes=0, parameter_count=0,
        kernel=KernelShape(key=key, sizes=sizes),
    )  # fmt: skip


def conv(source: str, output: str, channels: int = 16) -> OpCost:
    return op("Conv", source, output, CONV, (channels, channels, 8, 8, 1))


def same(kind: str, inputs: str, output: str) -> OpCost:
    words = {"Add": "Add same", "Mul": "Mul same"}
    return op(kind, inputs, output, words.get(kind, kind), (16, 64))


def workload(*ops: OpCost, outputs: str = "y", channels: int = 16) -> Workload:
    names = {name for one in ops for name in (*one.inputs, *one.outputs)}
    return Workload(
        model="m", model_sha256="0", ops=ops, inputs=("x",), outputs=tuple(outputs.split()),
        tensors=tuple(
            TensorSpec(name=name, dtype="float32", shape=(1, channels, 8, 8))
            for name in sorted(names)
        ),
    )  # fmt: skip


def launched(model: Workload, ops: list[int] | None = None, habits: Habits = BLOCKED) -> list[str]:
    """Operators launched, with what they apply to their results."""
    chosen = range(len(model.ops)) if ops is None else ops
    return ["+".join((one.key.split()[0], *one.epilogue)) for one in
            launches_of(model, list(chosen), habits)]  # fmt: skip


def test_an_activation_is_part_of_the_convolution_before_it() -> None:
    """And the blocked layout costs a copy at either end."""
    model = workload(conv("x", "a"), same("Relu", "a", "y"))
    assert launched(model) == ["ReorderInput", "Conv+Relu", "ReorderOutput"]


def test_a_cut_between_them_parts_the_two() -> None:
    """The tensor at the cut must exist."""
    model = workload(conv("x", "a"), same("Relu", "a", "y"))
    assert launched(model, [0]) == ["ReorderInput", "Conv", "ReorderOutput"]
    assert launched(model, [1]) == ["Relu"]


def test_a_second_reader_parts_them_too() -> None:
    """The convolution's own result is needed."""
    model = workload(conv("x", "a"), same("Relu", "a", "b"), same("Add", "a b", "y"))
    assert "Conv+Relu" not in launched(model)


def test_a_residual_sum_is_part_of_one_of_its_convolutions() -> None:
    """With the activation behind it."""
    model = workload(
        conv("x", "a"), conv("a", "b"), same("Add", "b a", "c"), same("Relu", "c", "y")
    )
    assert launched(model) == ["ReorderInput", "Conv", "Conv+Add+Relu", "ReorderOutput"]


def test_a_sum_with_a_plain_tensor_is_not() -> None:
    """The runtime leaves its layout for it, and comes back."""
    model = workload(conv("x", "a"), same("Add", "a x", "b"), conv("b", "y"))
    assert launched(model) == [
        "ReorderInput", "Conv", "ReorderOutput", "Add", "ReorderInput", "Conv", "ReorderOutput"
    ]  # fmt: skip


def test_a_gated_value_is_one_operator_in_the_same_layout() -> None:
    """x * sigmoid(x)."""
    model = workload(conv("x", "a"), same("Sigmoid", "a", "s"), same("Mul", "a s", "y"))
    assert launched(model) == ["ReorderInput", "Conv", "QuickGelu", "ReorderOutput"]


def test_odd_channel_counts_stay_in_the_models_layout() -> None:
    """58 channels are no whole blocks of 4: no copies, another kernel."""
    model = workload(conv("x", "y", channels=58), channels=58)
    (launch,) = launches_of(model, [0], BLOCKED)
    assert launch.key == f"{CONV} plain"


def test_without_a_layout_of_its_own_a_runtime_copies_nothing() -> None:
    """A cautious default for devices that were never measured."""
    model = workload(conv("x", "a"), same("Relu", "a", "y"))
    assert launched(model, habits=Habits()) == ["Conv+Relu"]


def kernel(sizes: tuple[int, ...], time_s: float) -> KernelTime:
    return KernelTime(key=f"{CONV} plain", sizes=sizes, time_s=time_s)


def profile(*kernels: KernelTime, **fields: str) -> DeviceProfile:
    return DeviceProfile(
        name="x", source="measured", reference="r", processor="p", memory="1 GB", runtime="o",
        memory_bandwidth="10 GB/s", ceiling=(Ceiling(precision="fp32", compute="100 Gflop/s"),),
        kernel=kernels, **fields,
    )  # fmt: skip


def test_a_measured_kernel_is_predicted_as_measured() -> None:
    """Within the noise that the model assumes of a measurement."""
    table = [kernel((16, 16, side, side, 1), 3e-6 * side * side) for side in (4, 8, 16, 32)]
    model = KernelModel(table, flop_per_s=1e11, bytes_per_s=1e10)
    for one in table:
        found = model.estimate(one.key, one.sizes)
        assert found.is_known
        assert found.time_s == pytest.approx(one.time_s, rel=0.1)


def test_doubt_grows_with_the_distance_from_what_was_measured() -> None:
    """And is greatest where nothing alike was."""
    table = [kernel((c, c, 16, 16, 1), 1e-5 * c / 16 * (1 + c % 3)) for c in (16, 32, 48, 64)]
    model = KernelModel(table, flop_per_s=1e11, bytes_per_s=1e10)
    near = model.estimate(f"{CONV} plain", (32, 32, 16, 16, 1)).spread
    far = model.estimate(f"{CONV} plain", (512, 512, 64, 64, 1)).spread
    unknown = model.estimate("Resize cubic", (8, 8, 8))
    assert near < far < unknown.spread
    assert not unknown.is_known


@given(
    channels=st.integers(1, 4096), height=st.integers(1, 512), width=st.integers(1, 512),
    key=st.sampled_from([f"{CONV} blocked", "Conv 5x5 s2x1 d2 depthwise plain", "QLinearConv 1x1 "
                         "s1 d1 dense", "MaxPool 3x3 s2 d1", "Softmax", "Anything at all", ""]),
)  # fmt: skip
def test_any_key_and_size_gives_a_finite_time(
    channels: int, height: int, width: int, key: str
) -> None:
    """A prediction never fails for want of a measurement."""
    sizes = (channels, channels, height, width, 1) if "Conv" in key else (channels, height, width)
    facts = kernel_facts(key, sizes)
    model = KernelModel([], flop_per_s=1e11, bytes_per_s=1e10)
    assert math.isfinite(model.estimate(key, sizes).time_s)
    assert min(facts.work_flop, facts.traffic_bytes) >= 0


def test_a_datasheet_alone_gives_the_roofline_with_a_wide_interval() -> None:
    """No kernel table: every launch is unknown, and says so."""
    model = workload(conv("x", "a"), same("Relu", "a", "y"))
    found = Predictor(profile()).predict(model, [0, 1])
    assert found.unknown_count == found.launch_count == 1
    assert found.high_s > 2 * found.time_s > 4 * found.low_s


def test_overheads_are_counted_once_per_kernel_and_once_per_session() -> None:
    """The rest of the prediction stays."""
    model = workload(conv("x", "a"), same("Sigmoid", "a", "y"))
    bare = Predictor(profile()).predict(model, [0, 1]).time_s
    fields = {"launch_overhead": "1 ms", "session_overhead": "5 ms", "fused": ("layout NCHWc1024",)}
    found = Predictor(profile(**fields)).predict(model, [0, 1])  # type: ignore[arg-type]
    assert found.launch_count == 3  # the convolution writes blocks, which are copied back
    assert found.time_s > bare + 8e-3


def test_a_precision_without_a_ceiling_is_refused() -> None:
    """Rather than priced as another."""
    with pytest.raises(PlanError, match="no int8 ceiling"):
        Predictor(profile(), precision="int8")
