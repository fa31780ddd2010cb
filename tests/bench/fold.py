"""Every network of the zoo under every strategy: the same function, in torch and in ONNX Runtime.

Each network gets BatchNorm statistics far from the trivial ones and is folded twice: as a
torch module, and as an ONNX file with all its branches in which the blocks are found by structure.
Printed is the largest relative error of the outputs against the trained network in float64: of the
file with all branches live ("exported"), and of both ways of folding. "blocks" counts the blocks
with more than one branch, in the torch module and as recovered from the file; "ms" is one frame in
ONNX Runtime, one thread, with all branches and folded whole, measured in turns.
At the end a real file that nobody here exported: UltraFace, with its BatchNorms and RFB block, as
the file is (its weights may be overridden, so the runtime folds nothing), normalised, and folded.

    python tests/bench/fold.py [--quick] [--json FILE]
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from edgekit.builder.export import export_module
from edgekit.builder.fold.onnx_find import find_blocks
from edgekit.builder.fold.onnx_fold import fold_model
from edgekit.builder.fold.torch_front import fold_module, in_float64, tensors_of
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import run_proto, seeded_inputs, to_bytes
from edgekit.builder.race import race
from edgekit.builder.zoo.blocks import BranchedConv
from edgekit.builder.zoo.registry import ARCHITECTURES, Architecture, build
from edgekit.runtime.ort import OrtSession
from edgekit.spec.fusion import STRATEGIES, FusionRule
from tests.builder.zoo_world import images, lived_in, relative_error
from tests.world import DATA

QUICK = ("table6-detector", "repvgg-a0", "mobileone-s0", "rep-shufflenet-v1")
SHAPES = {"classifier": (1, 3, 96, 96), "detector": (1, 3, 96, 160)}
ULTRAFACE = "models/ultraface/version-RFB-320.onnx"
RACE_S, QUICK_RACE_S = 3.0, 1.0


def measure(entry: Architecture, folder: Path, race_s: float) -> dict[str, Any]:
    """Errors, blocks and times of one network."""
    shape = SHAPES[entry.task]
    network = lived_in(build(entry.name))
    batch = images(*shape)
    want = outputs(in_float64(network), batch.double())
    path = folder / f"{entry.name}.onnx"
    path.write_bytes(export_module(network, shape, fold=False))
    loaded = load_model(path)
    row: dict[str, Any] = {
        "network": entry.name,
        "blocks": sum(
            isinstance(block, BranchedConv) and len(block.branches) > 1
            for block in network.modules()
        ),
        "blocks_recovered": len(find_blocks(loaded).blocks),
        "exported": onnx_error(network, loaded, batch),
        "torch": {},
        "onnx": {},
    }
    whole = loaded
    for strategy in STRATEGIES:
        got = outputs(fold_module(network, strategy=strategy), batch)
        row["torch"][str(strategy)] = max(map(relative_error, want, got))
        folded, _ = fold_model(loaded, [FusionRule(strategy=strategy)])
        row["onnx"][str(strategy)] = onnx_error(network, folded, batch)
        whole = folded if strategy == STRATEGIES[0] else whole
    row["ms"] = [1e3 * one for one in latencies_s((path, saved(whole, folder)), loaded, race_s)]
    return row


def outputs(network: nn.Module, batch: Tensor) -> list[Tensor]:
    """All outputs of a torch network, in order."""
    with torch.no_grad():
        return tensors_of(network(batch))


def onnx_error(network: nn.Module, loaded: LoadedModel, batch: Tensor) -> float:
    """Largest relative error of an ONNX graph against the trained network in float64.

    A detector's boxes are in pixels and its probabilities in 0..1: each part in its own range, as
    the export proves them.
    """
    reference = in_float64(network)
    with torch.no_grad():
        decoded = getattr(reference, "decoded", reference)
        want = decoded(batch.double()).numpy()
    (got,) = run_proto(
        loaded.proto, {loaded.inputs[0].name: batch.numpy()}, optimization="extended"
    ).values()
    if want.ndim == 2:
        return relative_error(torch.from_numpy(want), got)
    boxes = relative_error(torch.from_numpy(want[:, :4]), got[:, :4])
    return max(boxes, float(np.abs(want[:, 4:] - got[:, 4:]).max()))


def saved(loaded: LoadedModel, folder: Path) -> Path:
    """The model as a file."""
    path = folder / f"{loaded.name}-folded.onnx"
    path.write_bytes(to_bytes(loaded.proto))
    return path


def latencies_s(paths: Sequence[Path], loaded: LoadedModel, race_s: float) -> list[float]:
    """Median time of a frame of each file [s], measured in turns."""
    given = seeded_inputs(loaded.inputs, 0)
    sessions = [OrtSession(path, optimization="all") for path in paths]
    return list(race(sessions, given, budget_s=race_s))


def measure_ultraface(folder: Path, race_s: float) -> dict[str, Any]:
    """A real file: operators, error and latency before and after."""
    path = DATA / ULTRAFACE
    loaded = load_model(path)
    folded, report = fold_model(loaded, [])
    normalised = folder / "normalised.onnx"
    normalised.write_bytes(to_bytes(loaded.proto))
    times_s = latencies_s((path, normalised, saved(folded, folder)), loaded, race_s)
    return {
        "blocks": len(report.blocks),
        "conv_bn": report.conv_bn_count,
        "operators": [report.ops_before, report.ops_after],
        "max_relative_error": report.max_relative_error,
        "ms_file_normalised_folded": [round(1e3 * one, 3) for one in times_s],
    }


def print_row(row: dict[str, Any]) -> None:
    """One network, a line for each way of folding."""
    counted = f"{row['blocks_recovered']}/{row['blocks']}"
    ms = f"{row['ms'][0]:.2f} -> {row['ms'][1]:.2f}"
    for way in ("torch", "onnx"):
        errors = " ".join(f"{row[way][str(one)]:9.1e}" for one in STRATEGIES)
        head = (
            f"{row['network']:20} {counted:>7} {row['exported']:9.1e}"
            if way == "torch"
            else " " * 38
        )
        print(f"{head} {way:5} {errors}  {ms if way == 'torch' else ''}", flush=True)


def main() -> None:
    """Measure every network and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four networks, shorter races")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    names = QUICK if arguments.quick else tuple(ARCHITECTURES)
    race_s = QUICK_RACE_S if arguments.quick else RACE_S
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}"
    )
    heads = " ".join(f"{one!s:>9}" for one in STRATEGIES)
    print(f"{'network':20} {'blocks':>7} {'exported':>9} {'way':5} {heads}  ms live -> folded")
    rows, ultraface = [], None
    with tempfile.TemporaryDirectory() as home:
        for name in names:
            rows.append(measure(ARCHITECTURES[name], Path(home), race_s))
            print_row(rows[-1])
        if (DATA / ULTRAFACE).exists():
            ultraface = measure_ultraface(Path(home), race_s)
            print("UltraFace RFB-320: " + " ".join(f"{k}={v}" for k, v in ultraface.items()))
    worst = max(max((*row["torch"].values(), *row["onnx"].values())) for row in rows)
    if ultraface:
        worst = max(worst, ultraface["max_relative_error"])
    missed = [row["network"] for row in rows if row["blocks"] != row["blocks_recovered"]]
    result = {
        "max_relative_error": f"{worst:.1e}",
        "zoo_models": len(rows),
        "strategies": len(STRATEGIES),
    }
    if arguments.json:
        document = {"networks": rows, "ultraface": ultraface, **result}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    print("RESULT " + " ".join(f"{key}={value}" for key, value in result.items()))
    if missed or worst > 1e-5:
        raise SystemExit(f"not recovered block by block: {missed}; worst error {worst:.1e}")


if __name__ == "__main__":
    main()
