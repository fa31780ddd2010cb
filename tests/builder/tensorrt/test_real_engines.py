"""Engines of real detectors, built by TensorRT-RTX without a GPU.

The whole zoo, and all kinds of GPU: tests/bench/engines.py.
"""

from pathlib import Path

import onnx
import pytest

from edgekit.builder.build import build_bundle
from edgekit.builder.probe import to_bytes
from edgekit.builder.quantize.frames import CalibrationFrames
from edgekit.builder.quantize.shard_order import Lowering
from edgekit.builder.tensorrt_build.obstacles import obstacles_of
from edgekit.errors import ModelError
from edgekit.runtime.tensorrt import build_engine, refusals_of
from edgekit.runtime.tensorrt.network import parse_onnx
from edgekit.spec.fleet import Device, Fleet
from edgekit.spec.profile import Precision
from tests.builder.quantize.quantize_nets import frames, net
from tests.builder.tensorrt.engine_world import (
    DETECTORS,
    PRECISIONS,
    engines_of,
    library_here,
    real_model,
    shard_in,
)
from tests.graphs import saved

pytestmark = pytest.mark.integration
TARGET = "8.9"
GIVEN = CalibrationFrames(
    tensors=tuple(one["image"] for one in frames(16)), digests=frozenset({"seen"}), uri="memory"
)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", DETECTORS)
def test_every_real_detector_becomes_an_engine(
    name: str, precision: Precision, tmp_path: Path
) -> None:
    """In each precision, as ``edgekit build`` ships it."""
    library = library_here()
    try:
        loaded = real_model(name)
    except FileNotFoundError as missing:
        pytest.skip(f"needs {missing}")
    (row,) = engines_of(name, lambda: loaded, precision, library, (TARGET,), tmp_path)
    assert not row.refusal
    assert row.engine_bytes > 100_000


def test_a_model_quantized_for_onnx_runtime_is_refused_by_name(tmp_path: Path) -> None:
    """By the table and by the parser; the builder does not quantize it anew."""
    library = library_here()
    try:
        loaded = real_model("mobilenet-v2-int8")
    except FileNotFoundError as missing:
        pytest.skip(f"needs {missing}")
    known = {one.operator for one in obstacles_of(loaded.proto)}
    assert {"QLinearConv", "com.microsoft::QLinearAdd", "QuantizeLinear"} <= known
    path = tmp_path / "net.onnx"
    path.write_bytes(to_bytes(loaded.proto))
    assert refusals_of(library, path)[0].operator in known
    with pytest.raises(ModelError, match="quantized already"):
        shard_in(loaded, "int8")


@pytest.mark.parametrize(
    ("precisions", "reads", "sends"),
    [
        ("int8 int8 int8", "int8", "int8"),
        ("int8 fp16 int8", "uint8", "uint8"),
        ("int8 fp32 fp32", "uint8", "float32"),
        ("fp32 int8 fp32", "int8", "int8"),
    ],
)
def test_integers_cross_the_borders_of_an_engine(
    precisions: str, reads: str, sends: str, tmp_path: Path
) -> None:
    """What TensorRT reads and makes has the types that the ONNX file says."""
    library = library_here()
    names = ("pi", "orin", "pc")
    devices = [Device(name=one, provider="tensorrt" if one == "orin" else "cpu") for one in names]
    order = Lowering(
        precision=dict(zip(names, precisions.split(), strict=True)),  # type: ignore[arg-type]
        frames=GIVEN, calibrators=("minmax",), race_s=0.01,
    )  # fmt: skip
    bundle = build_bundle(
        saved(net(), tmp_path / "net.onnx"), fleet=Fleet(name="x", device=tuple(devices)),
        out=tmp_path / "b", rule=("r0", "c1"), lowering=order,
    ).bundle  # fmt: skip
    network = parse_onnx(library, bundle.shard(1), strong=True).network
    assert library.dtype_name(network.get_input(0).dtype) == reads
    assert library.dtype_name(network.get_output(0).dtype) == sends
    graph = onnx.load(bundle.shard(1)).graph
    stored = [onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
              for value in (graph.input[0], graph.output[0])]  # fmt: skip
    assert stored == [reads, sends]
    recipe = bundle.engine(1)
    assert recipe is not None
    assert len(build_engine(library, bundle.shard(1), recipe, target=TARGET).engine) > 100_000
