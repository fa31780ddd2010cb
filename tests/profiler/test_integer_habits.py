"""Which quantised chains the runtime joins is read from its graphs; each kernel can be timed."""

import pytest

from edgekit.planner.channels_last import HABIT
from edgekit.planner.integer_chains import SIGNED, SIGNED_UNFORKED
from edgekit.profiler.integer_habits import detect_integer_habits
from edgekit.profiler.kernel_table import measure_pack
from edgekit.spec.workload import KernelShape


def test_the_chains_of_this_runtime_are_found() -> None:
    """ONNX Runtime joins unsigned chains on every processor; a linear Resize it does not."""
    found = set(detect_integer_habits())
    assert found >= {"QDQ Conv", "QDQ Conv+Relu", "QDQ Add", "QDQ Concat", "QDQ Sigmoid",
                     "QDQ MaxPool", "QDQ GlobalAveragePool", "QDQ Gemm", "QDQ MatMul",
                     "QDQ Resize nearest", "QDQ Split", HABIT}  # fmt: skip
    assert "QDQ Resize linear" not in found
    assert len(found & {SIGNED, SIGNED_UNFORKED}) == 1


@pytest.mark.parametrize(
    ("key", "sizes"),
    [
        ("QLinearConv 3x3 s2 d1 dense u8", (8, 16, 4, 4, 1)),
        ("QLinearAveragePool 3x3 s2 d1 plain", (8, 4, 4)),
        ("MaxPool 3x3 s1 d1 u8", (8, 4, 4)),
        ("QLinearMul scalar", (8, 16)),
        ("QLinearAdd channel", (8, 16)),
        ("QLinearConcat axis1", (256, 256, 3)),
        ("Slice u8", (256, 32, 1)),
        ("Resize nearest asymmetric floor x2x2 u8", (8, 4, 4)),
        ("Resize linear half_pixel x2x2 last", (8, 4, 4)),
        ("DequantizeLinear", (1, 64)),
    ],
)
def test_an_integer_kernel_can_be_timed(key: str, sizes: tuple[int, ...]) -> None:
    """Also those that a catalogue lacks: a model may ask for them."""
    found = measure_pack([KernelShape(key=key, sizes=sizes)], run_count=2)
    assert (key, sizes) in {(one.key, one.sizes) for one in found}
