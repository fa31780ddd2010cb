"""Every operator is described so that the profiler can build it again and time it."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgekit.builder.load import load_model
from edgekit.builder.workload import workload_of
from edgekit.profiler.probe_models import branch_of
from edgekit.spec.workload import KernelShape
from tests.graphs import model, saved
from tests.world import data

IMAGE = (1, 4, 8, 8)


def kernel(tmp_path: Path, kind: str, *weights: np.ndarray, **attributes: object) -> KernelShape:
    """What one operator on a (1, 4, 8, 8) image is described as."""
    names = [f"w{index}" for index in range(len(weights))]
    node = helper.make_node(kind, ["image", *names], ["out"], **attributes)
    proto = model([node], {"image": IMAGE}, ["out"], weights=dict(zip(names, weights, strict=True)))
    (op,) = workload_of(load_model(saved(proto, tmp_path / "net.onnx"))).ops
    assert op.kernel is not None
    return op.kernel


def floats(*shape: int) -> np.ndarray:
    return np.full(shape, 2, np.float32)


@pytest.mark.parametrize(
    ("kind", "weights", "attributes", "key", "sizes"),
    [
        ("Conv", [(6, 4, 3, 3)], {"pads": [1] * 4}, "Conv 3x3 s1 d1 dense", (4, 6, 8, 8, 1)),
        ("Conv", [(4, 1, 3, 3)], {"group": 4, "strides": [2, 2], "pads": [1] * 4},
         "Conv 3x3 s2 d1 depthwise", (4, 4, 4, 4, 4)),
        ("Conv", [(8, 2, 1, 3)], {"group": 2, "strides": [1, 2]}, "Conv 1x3 s1x2 d1 grouped",
         (4, 8, 8, 3, 2)),
        ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}, "MaxPool 2x2 s2 d1",
         (4, 4, 4)),
        ("Mul", [(1,)], {}, "Mul scalar", (4, 64)),
        ("Add", [(4, 1, 1)], {}, "Add channel", (4, 64)),
        ("Add", [IMAGE], {}, "Add constant", (4, 64)),
        ("Relu", [], {}, "Relu", (4, 64)),
        ("Transpose", [], {"perm": [0, 2, 3, 1]}, "Transpose 0231", IMAGE),
        ("MatMul", [(8, 3)], {}, "MatMul", (1, 32, 8, 3)),
        ("GlobalAveragePool", [], {}, "GlobalAveragePool", (4, 8, 8)),
        ("Flatten", [], {}, "View Flatten", (256,)),
    ],
)  # fmt: skip
def test_an_operator_has_its_key_and_sizes(
    tmp_path: Path,
    kind: str,
    weights: list[tuple[int, ...]],
    attributes: dict[str, object],
    key: str,
    sizes: tuple[int, ...],
) -> None:
    """The grammar of the kernel table, row by row."""
    found = kernel(tmp_path, kind, *(floats(*shape) for shape in weights), **attributes)
    assert (found.key, found.sizes) == (key, sizes)


def test_joined_channels_are_one_run(tmp_path: Path) -> None:
    """Along the first axis that differs everything behind it is contiguous."""
    nodes = [
        helper.make_node("Relu", ["image"], ["a"]),
        helper.make_node("Concat", ["image", "a"], ["out"], axis=1),
    ]
    proto = model(nodes, {"image": IMAGE}, ["out"])
    found = workload_of(load_model(saved(proto, tmp_path / "net.onnx"))).ops[1].kernel
    assert found == KernelShape(key="Concat axis1", sizes=(512, 512, 2))


@pytest.mark.parametrize(
    "path", ["models/yunet/yunet_n_320_320.onnx", "models/nanodet_m/nanodet_m_320.onnx"]
)
def test_every_float_operator_of_a_real_detector_can_be_timed(path: str) -> None:
    """A key that only the builder understands would be a hole in every prediction."""
    workload = workload_of(load_model(data(path)))
    for op in workload.ops:
        assert op.kernel is not None
        key = op.kernel.key
        key = f"{key} plain" if op.op_type == "Conv" else key
        assert branch_of(key, op.kernel.sizes, "k0_") is not None, op
