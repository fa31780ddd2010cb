"""What the planner says a runtime launches is what ONNX Runtime's own profile says it launched."""

import json
import logging
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.workload import workload_of
from edgekit.planner.cuts import legal_cuts, partition
from edgekit.planner.launches import LAYOUT, Habits, launches_of
from edgekit.profiler.habits import detect_habits
from edgekit.runtime.session import random_inputs
from edgekit.spec.tensors import Array, TensorSpec
from tests.world import DATA, data

MOST_PERCENT = 5.0
ALIKE = {"Upsample": "Resize"}
LEFT_OUT = ("light_vgg19", "yunet_n_dynamic")
"""Half a second a run; open input shapes."""
FILES = [path for path in sorted((DATA / "models").rglob("*.onnx")) if path.stem not in LEFT_OUT]
KINDS = {
    "u8": {"activation_type": QuantType.QUInt8, "per_channel": True},
    "s8": {"activation_type": QuantType.QInt8, "per_channel": False},
    "symmetric": {
        "activation_type": QuantType.QInt8,
        "per_channel": True,
        "extra_options": {"ActivationSymmetric": True, "QuantizeBias": False},
    },
}


@pytest.fixture(scope="module")
def habits() -> Habits:
    fused = detect_habits()
    blocks = [int(text.removeprefix(LAYOUT)) for text in fused if text.startswith(LAYOUT)]
    return Habits(fused=frozenset(fused), block=max(blocks, default=0))


class Frames(CalibrationDataReader):  # type: ignore[misc]
    """Two random frames: the ranges do not matter here."""

    def __init__(self, inputs: tuple[TensorSpec, ...]) -> None:
        self.left = [random_inputs(inputs) for _ in range(2)]

    def get_next(self) -> dict[str, Array] | None:
        return self.left.pop() if self.left else None


def launched(path: Path, inputs: tuple[TensorSpec, ...], folder: Path) -> Counter[str]:
    """Operator types of the kernels that one run launches, by the runtime's own profile."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, random_inputs(inputs))
    events = json.loads(Path(session.end_profiling()).read_bytes())
    return Counter(
        _name(event["args"]["op_name"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    )


def _name(kind: str) -> str:
    kind = kind.removeprefix("Fused")
    return ALIKE.get(kind, kind)


def predicted(loaded: LoadedModel, habits: Habits) -> Counter[str]:
    workload = workload_of(loaded)
    keys = [one.key.split() for one in launches_of(workload, range(len(workload.ops)), habits)]
    return Counter(words[1] if words[0] == "View" else words[0] for words in keys)


def mismatch_percent(path: Path, habits: Habits, folder: Path) -> float:
    """Launches too many and too few, operator by operator, in percent of those launched."""
    loaded = load_model(path)
    onnx.save(loaded.proto, folder / "normalised.onnx")
    found = launched(folder / "normalised.onnx", loaded.inputs, folder)
    guess = predicted(loaded, habits)
    wrong = sum(abs(found[kind] - guess[kind]) for kind in {*found, *guess})
    logging.getLogger(__name__).info("%s: %s, but predicted %s", path.name, found, guess)
    return 100 * wrong / found.total()


def quantized(path: Path, kind: str, folder: Path) -> Path:
    """The model in QDQ form, as ONNX Runtime's own quantiser writes it."""
    loaded = load_model(path)
    proto = loaded.proto
    if proto.opset_import[0].version < 13:
        proto = version_converter.convert_version(proto, 17)
        proto.ir_version = 8
    onnx.save(proto, folder / "float.onnx")
    quant_pre_process(folder / "float.onnx", folder / "ready.onnx", skip_symbolic_shape=True)
    result = folder / f"{path.stem}-{kind}.onnx"
    quantize_static(
        folder / "ready.onnx", result, Frames(loaded.inputs), quant_format=QuantFormat.QDQ,
        weight_type=QuantType.QInt8, **KINDS[kind],
    )  # fmt: skip
    return result


@pytest.mark.integration
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_real_model_launches_what_was_predicted(
    path: Path, habits: Habits, tmp_path: Path
) -> None:
    """Fusions, layout copies, shuffles and twins, operator type by operator type."""
    assert mismatch_percent(path, habits, tmp_path) <= MOST_PERCENT


@pytest.mark.integration
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(
    "name",
    ["resnet_cifar10/resnet20_cifar10", "ultraface/version-RFB-320", "fastestdet/FastestDet"],
)
def test_a_quantised_model_launches_what_was_predicted(
    name: str, kind: str, habits: Habits, tmp_path: Path
) -> None:
    """Joined chains where the runtime joins them, and every conversion where it does not."""
    path = quantized(data(f"models/{name}.onnx"), kind, tmp_path)
    assert mismatch_percent(path, habits, tmp_path) <= MOST_PERCENT


@pytest.mark.integration
def test_a_quantised_model_joins_its_chains_in_every_shard(habits: Habits, tmp_path: Path) -> None:
    """Cut at bytes, no chain parts: only conversions between layouts come on top."""
    loaded = load_model(
        quantized(data("models/resnet_cifar10/resnet20_cifar10.onnx"), "u8", tmp_path)
    )
    workload = workload_of(loaded)
    cuts = [
        cut
        for cut in legal_cuts(workload, max_tensors=1).cuts
        if workload.tensor[cut.names[0]].dtype == "uint8"
    ]
    assert len(cuts) > 10
    whole = predicted(loaded, habits)
    for cut in cuts:
        parts: Counter[str] = Counter()
        for ops in partition(workload, [cut]):
            found = launches_of(workload, ops, habits)
            parts.update(one.key.split()[0] for one in found)
        integers = [kind for kind in whole if kind.startswith("Q")]
        assert {kind: parts[kind] for kind in integers} == {kind: whole[kind] for kind in integers}
        assert not parts["Conv"]
