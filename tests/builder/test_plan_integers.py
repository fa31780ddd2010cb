"""The model in int8 as the planner prices it: the same cuts, real shards, every reader its own."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.builder.accuracy.integers import float_under
from edgekit.builder.plan_inputs import variants_of
from edgekit.builder.plan_integers import IntegerVariant, dedicated, integer_variants
from edgekit.builder.probe import run_proto, seeded_inputs
from edgekit.builder.quantize.operators import select_operators
from edgekit.planner.candidates import candidate_cuts, integer_cuts
from edgekit.planner.crossings import BOTH, crossing_integers
from edgekit.planner.predict import Predictor
from edgekit.spec.accuracy import FloatOperators
from edgekit.spec.base import load
from edgekit.spec.profile import DeviceProfile
from edgekit.trial.bench import Bench, ShardName
from tests.builder.quantize.quantize_nets import loaded_net
from tests.world import data

PROFILES = Path(__file__).parents[2] / "device_profiles"


def quantized(folder: Path) -> tuple[IntegerVariant, object]:
    loaded = loaded_net(folder, can_be_equalized=False)
    model = float_under(loaded, "S3")
    left = tuple(one.name for one in select_operators(model).float)
    known = FloatOperators(strategy="S3", calibrator="minmax", operators=left)
    (made,) = integer_variants(loaded, [known], "x86")
    return made, loaded


def test_every_cut_of_the_float_model_is_one_at_the_integers(tmp_path: Path) -> None:
    """Where the tensor is quantized; names are those of the float model."""
    made, loaded = quantized(tmp_path)
    cuts, _ = candidate_cuts(variants_of(loaded), 50)  # type: ignore[arg-type]
    names = integer_cuts(made.variant, cuts)
    assert cuts and all(names)
    for cut, crossing in zip(cuts, names, strict=True):
        rounded = crossing_integers(made.variant, cut.names)[BOTH]
        for name, other in zip(cut.names, crossing, strict=True):
            dtype = made.variant.workload.tensor[other].dtype
            assert (dtype == "uint8") == (name != other)
            assert name in rounded or dtype == "float32"


def test_shards_of_integers_are_split_and_timed_like_any_other(tmp_path: Path) -> None:
    """The first ends with the integers, the second begins with them."""
    made, loaded = quantized(tmp_path)
    bench = Bench(loaded, {"here": 1.0}, [made])  # type: ignore[arg-type]
    shards = [ShardName("S3", (), ("r0",), "int8"), ShardName("S3", ("r0",), (), "int8")]
    graphs = [
        onnx.load(bench.write(one, tmp_path / f"{index}.onnx")).graph
        for index, one in enumerate(shards)
    ]
    assert graphs[0].output[0].name == graphs[1].input[0].name == "r0_QuantizeLinear_Output"
    assert all(time_s > 0 for time_s in bench.time(shards, threads=1))


def test_a_reader_of_its_own_changes_no_number(tmp_path: Path) -> None:
    """And no activation is dequantized for two any more."""
    made, _ = quantized(tmp_path)
    proto = made.model.proto
    readers: dict[str, int] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    back = [node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"]
    assert back and all(readers.get(name, 0) <= 1 for name in back)
    shared = onnx.ModelProto()
    shared.CopyFrom(proto)
    origin = {node.output[0]: node.input[0] for node in proto.graph.node
              if node.op_type == "DequantizeLinear"}  # fmt: skip
    first = {source: name for name, source in reversed(origin.items())}
    for node in shared.graph.node:
        node.input[:] = [first[origin[one]] if one in origin else one for one in node.input]
    unread = [
        node
        for node in shared.graph.node
        if node.output[0] in origin and first[origin[node.output[0]]] != node.output[0]
    ]
    for node in unread:
        shared.graph.node.remove(node)
    given = seeded_inputs(made.model.inputs, 3)
    want = run_proto(shared, given, optimization="extended")
    got = run_proto(dedicated(shared), given, optimization="extended")
    assert all(np.array_equal(want[name], got[name]) for name in want)


@pytest.mark.integration
def test_integers_of_a_real_detector_are_priced_by_integer_kernels() -> None:
    """With the shipped profile of a measured machine; almost nothing of it is unknown."""
    from edgekit.builder.load import load_model

    loaded = load_model(data("models/yunet/yunet_n_320_320.onnx"))
    model = float_under(loaded, "S3")
    left = tuple(one.name for one in select_operators(model).float)
    known = FloatOperators(strategy="S3", calibrator="minmax", operators=left)
    (made,) = integer_variants(loaded, [known], "x86")
    profile = load(PROFILES / "amd-epyc-vm.toml", DeviceProfile)
    workload = made.variant.workload
    found = Predictor(profile, precision="int8").predict(workload, range(len(workload.ops)))
    plain = Predictor(profile).predict(variants_of(loaded)[0].workload, range(
        len(variants_of(loaded)[0].workload.ops)
    ))  # fmt: skip
    assert found.time_s != plain.time_s and found.unknown_count <= 0.1 * found.launch_count
