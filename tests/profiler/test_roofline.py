"""Dots on a roofline: the right roof binds, and tensors inside a kernel cost nothing."""

from typing import Any

import msgspec
import pytest

from edgekit.errors import ConfigError
from edgekit.profiler.roofline import Dot, choose_ceiling, dots_of, model_precision
from edgekit.spec.profile import Ceiling, DeviceProfile
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import OpCost, Workload

CPU = Ceiling(precision="fp32", compute="10 Gflop/s")
GPU = Ceiling(precision="fp16", compute="1 Tflop/s", provider="gpu")
BOARD = DeviceProfile(
    name="board",
    source="datasheet",
    reference="a test",
    processor="1x core",
    memory="1 GiB",
    memory_bandwidth="1 GB/s",
    ceiling=(CPU, GPU),
)
BYTES = 4 * 8 * 16 * 16


def op(op_type: str, reads: str, writes: str, **changed: Any) -> OpCost:
    cost = OpCost(
        name=f"{op_type} {writes}",
        op_type=op_type,
        inputs=tuple(reads.split()),
        outputs=tuple(writes.split()),
        work_flop=0,
        traffic_bytes=BYTES * len((reads + " " + writes).split()),
        weight_bytes=0,
        parameter_count=0,
    )
    return msgspec.structs.replace(cost, **changed)


def workload(*ops: OpCost, dtype: str = "float32") -> Workload:
    """A chain of tensors of 8 channels, 16 x 16, all ``dtype``."""
    names = dict.fromkeys(name for one in ops for name in (*one.inputs, *one.outputs))
    return Workload(
        model="net",
        model_sha256="0" * 64,
        ops=ops,
        tensors=tuple(TensorSpec(name=name, dtype=dtype, shape=(1, 8, 16, 16)) for name in names),
        inputs=("x",),
        outputs=(ops[-1].outputs[0],),
    )


def only(dots: tuple[Dot, ...]) -> Dot:
    (dot,) = dots
    return dot


def test_each_kernel_is_bound_by_the_lower_of_its_two_roofs() -> None:
    """10 Gflop/s and 1 GB/s meet at 10 flop/byte."""
    heavy = op("MatMul", "x", "y", work_flop=100 * 2 * BYTES)
    light = op("Relu", "y", "z", work_flop=BYTES // 4)
    dense, sparse = dots_of(workload(heavy, light), BOARD, CPU)
    assert (dense.is_memory_bound, sparse.is_memory_bound) == (False, True)
    assert dense.flop_per_s == pytest.approx(10e9)
    assert sparse.flop_per_s == pytest.approx(1e9 * sparse.intensity_flop_per_byte)
    assert dense.intensity_flop_per_byte == pytest.approx(100)


def test_a_launch_lowers_small_kernels_from_the_roof() -> None:
    """Where a profile knows what a launch costs."""
    board = msgspec.structs.replace(BOARD, launch_overhead="1 ms")
    heavy = op("MatMul", "x", "y", work_flop=10_000_000)
    dot = only(dots_of(workload(heavy), board, CPU))
    assert dot.roofline_s == pytest.approx(0.002)
    assert dot.flop_per_s == pytest.approx(5e9)


def test_a_tensor_inside_a_kernel_is_neither_written_nor_read() -> None:
    """x * sigmoid(x) behind a convolution: written once, read twice, all inside."""
    net = workload(
        op("Conv", "x", "c", work_flop=1000, weight_bytes=288, traffic_bytes=2 * BYTES + 288),
        op("Sigmoid", "c", "s", work_flop=10),
        op("Mul", "c s", "y", work_flop=5),
    )
    assert len(dots_of(net, BOARD, CPU)) == 3
    dot = only(dots_of(net, BOARD, CPU, inner=frozenset({"c", "s"})))
    assert dot.traffic_bytes == 2 * BYTES + 288
    assert dot.work_flop == 1015
    assert dot.name == "Conv c"


def test_two_kernels_that_meet_inside_a_third_are_one() -> None:
    """Conv + Conv + Add, if a runtime were to launch them as one; the rest stays apart."""
    net = workload(
        op("Conv", "x", "a", work_flop=7),
        op("Relu", "x", "r", work_flop=1),
        op("Conv", "x", "b", work_flop=9),
        op("Add", "b a", "y", work_flop=1),
        op("Mul", "r y", "z", work_flop=1),
    )
    dots = dots_of(net, BOARD, CPU, inner=frozenset({"a", "b"}))
    assert [dot.work_flop for dot in dots] == [17, 1, 1]
    assert dots[0].traffic_bytes == 3 * BYTES
    assert dots[0].name == "Conv b"


def test_renaming_a_shape_is_no_kernel() -> None:
    """A Reshape moves nothing; a Transpose moves everything."""
    net = workload(op("Reshape", "x", "y"), op("Transpose", "y", "z"))
    dot = only(dots_of(net, BOARD, CPU))
    assert (dot.kind, dot.work_flop, dot.flop_per_s) == ("Transpose", 0, 0.0)
    assert dot.roofline_s == pytest.approx(2 * BYTES / 1e9)


def test_half_precision_moves_half_the_bytes() -> None:
    """And a quantized model is not blown up by a wider roof."""
    net = workload(op("MatMul", "x", "y", work_flop=1000))
    assert only(dots_of(net, BOARD, GPU)).traffic_bytes == BYTES
    quantized = workload(op("QLinearMatMul", "x", "y", work_flop=1000), dtype="uint8")
    assert only(dots_of(quantized, BOARD, CPU)).traffic_bytes == 2 * BYTES


@pytest.mark.parametrize(
    ("op_type", "dtype", "precision"),
    [
        ("Conv", "float32", "fp32"),
        ("Conv", "float16", "fp16"),
        ("QLinearConv", "uint8", "int8"),
        ("DequantizeLinear", "float32", "int8"),
    ],
)
def test_the_precision_of_a_model_is_read_from_it(op_type: str, dtype: str, precision: str) -> None:
    """It chooses the roof that the model is shown under."""
    assert model_precision(workload(op(op_type, "x", "y"), dtype=dtype)) == precision


@pytest.mark.parametrize(
    ("added_count", "kind"),
    [(8, "Conv 1x1"), (72, "Conv kxk"), (9 * 8, "Conv kxk"), (4, "Conv depthwise")],
)
def test_convolutions_are_told_apart(added_count: int, kind: str) -> None:
    """By inputs per output: 8 channels here."""
    conv = op("Conv", "x", "y", work_flop=2 * added_count * 8 * 16 * 16)
    assert only(dots_of(workload(conv), BOARD, CPU)).kind == kind


def test_the_roof_is_the_cpus_unless_asked_otherwise() -> None:
    """Of the precisions, the model's own if it is known."""
    cpu8 = Ceiling(precision="int8", compute="40 Gop/s")
    board = msgspec.structs.replace(BOARD, ceiling=(GPU, cpu8, CPU))
    assert choose_ceiling(board) is CPU
    assert choose_ceiling(board, preferred="int8") is cpu8
    assert choose_ceiling(board, preferred="fp16") is CPU
    assert choose_ceiling(board, precision="fp16") is GPU
    assert choose_ceiling(board, provider="tensorrt") is GPU
    assert choose_ceiling(board, provider="tensorrt", precision="fp16") is GPU


@pytest.mark.parametrize(
    "asked", [{"precision": "int8"}, {"provider": "gpu", "precision": "fp32"}, {"provider": "npu"}]
)
def test_a_roof_that_is_not_known_is_refused_with_those_that_are(asked: dict[str, Any]) -> None:
    """Never silently another one."""
    with pytest.raises(ConfigError, match="no ceiling for") as caught:
        choose_ceiling(BOARD, **asked)
    assert "fp32 on cpu, fp16 on gpu" in caught.value.hint
