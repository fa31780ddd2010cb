"""Memory of a shard: buffers by lifetime, weights by what the runtime does to them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import ConfigError, PlanError
from edgekit.planner.memory import (
    ASSUMED,
    border_bytes,
    peak_activation_bytes,
    predict_memory,
)
from edgekit.spec.profile import Ceiling, DeviceProfile, SessionMemory
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import OpCost, Workload

COUNT = 1000
"""Elements of every tensor, 4 bytes each."""


def op(kind: str, result: str, *inputs: str, weight_bytes: int = 0) -> OpCost:
    return OpCost(
        name=result, op_type=kind, inputs=inputs, outputs=(result,), work_flop=0, traffic_bytes=0,
        weight_bytes=weight_bytes, parameter_count=0,
    )  # fmt: skip


def workload(*ops: OpCost, outputs: tuple[str, ...], dtype: str = "float32") -> Workload:
    names = ["x", *(one.name for one in ops)]
    tensors = tuple(TensorSpec(name=name, dtype=dtype, shape=(COUNT,)) for name in names)
    return Workload(
        model="net", model_sha256="", ops=ops, tensors=tensors, inputs=("x",), outputs=outputs
    )


def profile(known: SessionMemory | None = None) -> DeviceProfile:
    return DeviceProfile(
        name="board", source="measured", reference="a test", processor="1x core", memory="1 GiB",
        memory_bandwidth="9 GB/s", runtime="onnxruntime 1.0.0", session_memory=known,
        ceiling=(Ceiling(precision="fp32", compute="33 Gflop/s"),),
    )  # fmt: skip


KNOWN = SessionMemory(
    base_bytes=10_000, operator_bytes=100, conv_weight_factor=3.0, activation_factor=2.0,
    shard_count=4, mape_percent=5.0,
)  # fmt: skip


def test_a_chain_needs_two_buffers_at_once() -> None:
    """What a convolution reads and what it writes; the shard's own input is the caller's."""
    net = workload(op("Conv", "a", "x"), op("Conv", "b", "a"), op("Conv", "c", "b"), outputs=("c",))
    assert peak_activation_bytes(net, range(3)) == 8 * COUNT
    assert peak_activation_bytes(net, [1]) == 4 * COUNT
    assert border_bytes(net, [1]) == 8 * COUNT


def test_an_activation_writes_over_what_only_it_reads() -> None:
    """As the runtime does, or by becoming part of the convolution."""
    net = workload(op("Conv", "a", "x"), op("Relu", "b", "a"), outputs=("b",))
    assert peak_activation_bytes(net, range(2)) == 4 * COUNT


def test_what_somebody_still_reads_is_not_written_over() -> None:
    """A residual: its start lives until the addition."""
    net = workload(
        op("Conv", "a", "x"), op("Relu", "b", "a"), op("Conv", "c", "b"), op("Add", "d", "c", "b"),
        outputs=("d",),
    )  # fmt: skip
    assert peak_activation_bytes(net, range(4)) == 8 * COUNT
    shared = workload(
        op("Conv", "a", "x"), op("Relu", "b", "a"), op("Add", "c", "b", "a"), outputs=("c",)
    )
    assert peak_activation_bytes(shared, range(3)) == 8 * COUNT


def test_what_leaves_the_shard_is_alive_to_its_end() -> None:
    """Also what only a later shard reads."""
    ops = [op("Conv", "a", "x"), op("Conv", "b", "a"), op("Conv", "c", "b"), op("Conv", "d", "c")]
    net = workload(*ops, op("Add", "e", "d", "a"), outputs=("e",))
    assert peak_activation_bytes(net, range(4)) == 12 * COUNT
    assert border_bytes(net, range(4)) == 12 * COUNT


def test_a_quantized_convolution_sums_in_larger_integers() -> None:
    """Four bytes for each that it writes, while it runs."""
    net = workload(op("QLinearConv", "a", "x"), outputs=("a",), dtype="uint8")
    assert peak_activation_bytes(net, [0]) == 5 * COUNT


def test_weights_of_convolutions_count_as_often_as_measured() -> None:
    """The others once, and the largest of all once more while it is packed."""
    net = workload(
        op("Conv", "a", "x", weight_bytes=1_000_000),
        op("Gemm", "b", "a", weight_bytes=9_000_000),
        outputs=("b",),
    )
    found = predict_memory(net, range(2), profile(KNOWN))
    assert found.rss_bytes == 10_000 + 200 + 3_000_000 + 9_000_000 + 9_000_000
    assert found.weight_bytes == 10_000_000
    assert 10_000_000 < found.file_bytes < 10_001_000


def test_large_activations_outweigh_the_packing() -> None:
    """Twice what is alive, and what enters and leaves."""
    net = workload(op("Conv", "a", "x"), op("Conv", "b", "a"), outputs=("b",))
    found = predict_memory(net, range(2), profile(KNOWN))
    assert found.rss_bytes == 10_200 + 2 * 8 * COUNT + 8 * COUNT


def test_an_unmeasured_device_gets_a_wider_interval() -> None:
    """Nobody knows its runtime's habits."""
    net = workload(op("Conv", "a", "x"), outputs=("a",))
    guess, known = predict_memory(net, [0], profile()), predict_memory(net, [0], profile(KNOWN))
    assert guess.rss_bytes >= ASSUMED.base_bytes
    assert guess.high_bytes / guess.low_bytes > 2 > known.high_bytes / known.low_bytes
    assert known.low_bytes < known.rss_bytes < known.high_bytes


def test_a_shard_without_operators_is_refused() -> None:
    """Never an estimate of nothing."""
    with pytest.raises(PlanError, match="without operators"):
        predict_memory(workload(op("Conv", "a", "x"), outputs=("a",)), [], profile())


@pytest.mark.parametrize(
    "change", [{"base_bytes": -1}, {"conv_weight_factor": 21.0}, {"mape_percent": float("nan")}]
)
def test_coefficients_that_cannot_be_are_refused(change: dict[str, float]) -> None:
    """A broken profile must not promise that a model fits."""
    with pytest.raises(ConfigError, match="cannot be"):
        msgspec.structs.replace(KNOWN, **change)


@st.composite
def graphs(draw: st.DrawFn) -> Workload:
    names, ops = ["x"], []
    for index in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(["Conv", "Relu", "Add", "Concat", "Reshape"]))
        inputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        ops.append(op(kind, f"t{index}", *inputs))
        names.append(f"t{index}")
    read = {name for one in ops for name in one.inputs}
    return workload(*ops, outputs=tuple(one.name for one in ops if one.name not in read))


@given(graphs())
def test_the_peak_lies_between_the_largest_operator_and_all_tensors(net: Workload) -> None:
    """Whatever the graph: reuse saves memory, and never what must be there at once."""
    peak = peak_activation_bytes(net, range(len(net.ops)))
    assert 4 * COUNT * len(net.outputs) <= peak <= 4 * COUNT * len(net.ops)
    assert peak % (4 * COUNT) == 0
