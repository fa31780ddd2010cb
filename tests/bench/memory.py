"""How far predicted memory of sessions is off, on shards of models that the coefficients never saw.

Real models and three of the zoo are cut at single tensors; every whole model, prefix and suffix is
loaded and run in a process of its own, and its peak resident memory over that of the bare process
is compared with the prediction. The coefficients are measured by the profiler on models that it
makes up. Files that hold only the structure of a model are filled with random weights first: the
runtime would share equal ones.

    python tests/bench/memory.py [--quick] [--json FILE]
"""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from edgekit.builder.export import export_module
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.split import split_model
from edgekit.builder.workload import workload_of
from edgekit.builder.zoo.registry import build
from edgekit.planner.cuts import legal_cuts, partition
from edgekit.planner.memory import MemoryEstimate, predict_memory
from edgekit.profiler.memory import measure_peak_bytes, session_memory
from edgekit.spec.profile import Ceiling, DeviceProfile
from edgekit.spec.workload import Workload
from tests.world import DATA

ZOO = ("repvgg-a0", "rep-mobilenet-v1", "rep-resnet-18")
LEFT_OUT = ("light_vgg19", "yunet_n_dynamic")
"""Half a gigabyte for each of its shards; the same network as another."""
LEFT_OUT_QUICK = ("light_bvlc_alexnet", "light_densenet121", "light_resnet50", "light_squeezenet")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One shard: bytes as measured and as predicted."""

    model: str
    op_count: int
    rss_bytes: int
    predicted_bytes: int
    low_bytes: int
    high_bytes: int
    file_bytes: int
    predicted_file_bytes: int

    @property
    def error_percent(self) -> float:
        return 100 * abs(self.predicted_bytes / self.rss_bytes - 1)


def model_files(folder: Path, *, quick: bool) -> Iterator[Path]:
    """Real models with weights, and some of the zoo."""
    left_out = (*LEFT_OUT, *LEFT_OUT_QUICK) if quick else LEFT_OUT
    for path in sorted((DATA / "models").rglob("*.onnx")):
        if path.stem in left_out:
            continue
        if path.parent.name == "onnx_light_structures":
            filled = folder / path.name
            onnx.save(with_random_weights(onnx.load(path)), filled)
            path = filled
        yield path
    for name in ZOO[:1] if quick else ZOO:
        torch.manual_seed(0)
        network = build(name, class_count=1000, input_shape=(1, 3, 224, 224)).eval()
        path = folder / f"{name}.onnx"
        path.write_bytes(export_module(network, (1, 3, 224, 224)))
        yield path


def with_random_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights that operators would fill with one number, as random initializers."""
    shapes = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    generator = np.random.default_rng(0)
    kept = []
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in shapes:
            shape = tuple(int(size) for size in shapes[node.input[0]])
            # Positive, so that one that is a variance has a root.
            array = generator.random(shape, np.float32) * np.float32(0.02) + np.float32(0.01)
            model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def shards_of(
    loaded: LoadedModel, workload: Workload, cut_count: int
) -> Iterator[tuple[tuple[int, ...], onnx.ModelProto]]:
    """The whole model, and both sides of ``cut_count`` single-tensor cuts spread over it."""
    yield tuple(range(len(workload.ops))), loaded.proto
    legal = [cut for cut in legal_cuts(workload, max_tensors=1).cuts if cut.work_flop_before]
    step = max(1.0, len(legal) / cut_count)
    for index in range(min(cut_count, len(legal))):
        cut = legal[int(index * step)]
        yield from zip(
            partition(workload, [cut]), split_model(loaded, workload, [cut]), strict=True
        )


def measured_row(
    model: str, ops: tuple[int, ...], proto: onnx.ModelProto, found: MemoryEstimate, path: Path
) -> Row:
    path.write_bytes(proto.SerializeToString())
    return Row(
        model=model,
        op_count=len(ops),
        rss_bytes=measure_peak_bytes(path),
        predicted_bytes=found.rss_bytes,
        low_bytes=found.low_bytes,
        high_bytes=found.high_bytes,
        file_bytes=path.stat().st_size,
        predicted_file_bytes=found.file_bytes,
    )


def measured_profile() -> DeviceProfile:
    """No more of a profile than the prediction of memory reads."""
    known = session_memory()
    assert known is not None, "this system does not tell how much memory a process takes"
    print(f"coefficients: {known}")
    return DeviceProfile(
        name="here",
        source="measured",
        reference="tests/bench/memory.py",
        processor="this",
        memory="1 GiB",
        memory_bandwidth="1 GB/s",
        ceiling=(Ceiling(precision="fp32", compute="1 Gflop/s"),),
        runtime="onnxruntime",
        session_memory=known,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer models and cuts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    arguments = parser.parse_args()
    profile = measured_profile()
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        folder = Path(name)
        for path in model_files(folder, quick=arguments.quick):
            shapes = {"input": (1, 3, 32, 32)} if "cifar10" in path.stem else {}
            loaded = load_model(path, input_shapes=shapes)
            workload = workload_of(loaded)
            for ops, proto in shards_of(loaded, workload, 2 if arguments.quick else 6):
                found = predict_memory(workload, ops, profile)
                rows.append(measured_row(loaded.name, ops, proto, found, folder / "shard.onnx"))
            if path.parent == folder:
                path.unlink()
    report(rows, arguments.json)


def report(rows: list[Row], out: Path | None) -> None:
    """A line per model, and the line that other tools read."""
    by_model: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_model[row.model].append(row)
    print(
        f"\n{'model':24} {'shards':>6} {'whole MB':>9} {'predicted':>9} {'MAPE %':>7} {'worst':>6}"
    )
    for model, own in by_model.items():
        errors = [row.error_percent for row in own]
        print(
            f"{model[:24]:24} {len(own):6} {own[0].rss_bytes / 1e6:9.1f} "
            f"{own[0].predicted_bytes / 1e6:9.1f} {np.mean(errors):7.1f} {max(errors):6.1f}"
        )
    errors = [row.error_percent for row in rows]
    inside = np.mean([row.low_bytes <= row.rss_bytes <= row.high_bytes for row in rows])
    files = [100 * abs(row.predicted_file_bytes / row.file_bytes - 1) for row in rows]
    total = abs(sum(row.predicted_file_bytes - row.file_bytes for row in rows))
    print(f"inside the predicted interval: {100 * inside:.0f} % of shards (aim 90)")
    print(
        f"size of the file: {np.mean(files):.1f} % off on average, "
        f"{100 * total / sum(row.file_bytes for row in rows):.2f} % of all bytes"
    )
    result = {
        "shards": len(rows),
        "mape_percent": round(float(np.mean(errors)), 2),
        "within20_percent": round(100 * float(np.mean([error <= 20 for error in errors])), 1),
        "worst_percent": round(max(errors), 1),
    }
    if out is not None:
        data = {**result, "shard": [asdict(row) for row in rows]}
        out.write_text(json.dumps(data, indent=2) + "\n")
    print("RESULT " + " ".join(f"{key}={value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
