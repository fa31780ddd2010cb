"""One shard, four ways to run it on a GPU, in one run: TensorRT, ONNX Runtime, torch; and the CPU.

Each network is folded by a strategy, written as the shard that a device with TensorRT would get
(fp32, fp16, QDQ int8), and run by whatever is here: an engine with and without its CUDA graph,
ONNX Runtime with CUDA and on the CPU, torch compiled with CUDA graphs. Timed is a whole ``run``:
arrays in, arrays out, copies included, as a pipeline does it. "error" is the largest difference
from ONNX Runtime on the CPU running the same file, over the largest number it gives.
A way that is not here is named with its reason; without a GPU only the CPU is left.

    python tests/bench/engines_gpu.py [--quick] [--json FILE]
"""

import argparse
import copy
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import onnxruntime
import torch
from torch import nn

from edgekit.builder.export import export_module
from edgekit.builder.fold.onnx_fold import fold_model
from edgekit.builder.fold.torch_front import fold_module
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import seeded_inputs, to_bytes
from edgekit.builder.zoo.registry import build
from edgekit.errors import DeviceError, EdgeKitError, ModelError
from edgekit.profiler.stopwatch import measure_session
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.provider_check import check_provider
from edgekit.runtime.session import Session
from edgekit.runtime.tensorrt.probe import native_name, open_session
from edgekit.spec.fusion import STRATEGIES, FusionRule, FusionStrategy
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import Array
from tests.builder.tensorrt.engine_world import PRECISIONS, REAL, real_model, shard_in
from tests.builder.zoo_world import lived_in
from tests.world import DATA

NETWORKS = {"repvgg-a0": 224, "rep-resnet-50": 224, "table6-detector": 416}
"""Side of the picture [px]."""
DETECTORS = ("yolox-nano", "nanodet-m")
LIMITS = {"fp32": 1e-3, "fp16": 2e-2}
"""Of the error of an engine; int8 is judged by its self-test on real pictures, not here."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network, as it is run."""

    name: str
    strategy: str
    batch_count: int
    loaded: LoadedModel
    network: nn.Module | None
    """For torch; None where there is only a file."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to run one shard."""

    name: str
    strategy: str
    batch_count: int
    precision: Precision
    way: str
    median_s: float
    frames_per_s: float
    error: float


class TorchSession:
    """A module as torch runs it best: compiled, with CUDA graphs."""

    def __init__(self, network: nn.Module, precision: Precision, names: list[str]) -> None:
        self._dtype = torch.float16 if precision == "fp16" else torch.float32
        moved = copy.deepcopy(network).eval().to("cuda", self._dtype)
        self._run = torch.compile(moved, mode="reduce-overhead")
        self._names = names

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Arrays in, arrays out."""
        (array,) = inputs.values()
        with torch.inference_mode():
            made = self._run(torch.from_numpy(array).to("cuda", self._dtype))
        outputs = made if isinstance(made, (tuple, list)) else (made,)
        arrays = [one.float().cpu().numpy() for one in outputs]
        return dict(zip(self._names, arrays, strict=False))


def cases(folder: Path, *, quick: bool) -> Iterator[Case]:
    """What is run."""
    for name, side_px in NETWORKS.items():
        network = lived_in(build(name))
        for batch_count in (1,) if quick else (1, 8):
            path = folder / f"{name}-{batch_count}.onnx"
            shape = (batch_count, 3, side_px, side_px)
            path.write_bytes(export_module(network, shape, fold=False))
            loaded = load_model(path)
            strategies = STRATEGIES if name == "repvgg-a0" and not quick else STRATEGIES[:1]
            for strategy in strategies:
                yield _folded(name, strategy, batch_count, loaded, network)
    for name in DETECTORS:
        if (DATA / "models" / REAL[name]).exists():
            loaded = real_model(name)
            yield Case(name=name, strategy="-", batch_count=1, loaded=loaded, network=None)


def _folded(
    name: str, strategy: FusionStrategy, batch_count: int, loaded: LoadedModel, network: nn.Module
) -> Case:
    folded, _ = fold_model(loaded, [FusionRule(strategy=strategy)])
    return Case(
        name=name, strategy=str(strategy), batch_count=batch_count, loaded=folded,
        network=fold_module(network, strategy=strategy),
    )  # fmt: skip


def ways(case: Case, path: Path, precision: Precision) -> dict[str, Callable[[], Any]]:
    """Each way, and how to open it; opening one that is not here raises."""

    def engine(*, use_graph: bool) -> Session:
        cache = path.parent / "engines"
        return open_session(path, cache=cache, precision=precision, use_graph=use_graph)

    def ort(provider: str) -> Session:
        check = check_provider(provider)
        if not check.starts:
            raise DeviceError(check.reason, hint="run `edgekit doctor`")
        return OrtSession(path, provider=provider, precision=precision)

    def compiled() -> TorchSession:
        if case.network is None or precision == "int8":
            raise ModelError("torch has no such module", hint="none")
        if not torch.cuda.is_available():
            raise DeviceError("torch sees no GPU", hint="install its CUDA build")
        return TorchSession(case.network, precision, [one.name for one in case.loaded.outputs])

    return {
        "tensorrt": lambda: engine(use_graph=True),
        "tensorrt, no graph": lambda: engine(use_graph=False),
        "onnxruntime cuda": lambda: ort("cuda"),
        "torch compiled": compiled,
        "onnxruntime cpu": lambda: OrtSession(path),
    }


def measure(case: Case, precision: Precision, folder: Path, missing: dict[str, str]) -> list[Row]:
    """Every way that is here; ``missing`` gets the reasons of those that are not."""
    path = folder / "shard.onnx"
    path.write_bytes(to_bytes(shard_in(case.loaded, precision)))
    inputs = seeded_inputs(case.loaded.inputs, 0)
    want, rows = OrtSession(path).run(inputs), []
    for way, open_it in ways(case, path, precision).items():
        try:
            session = open_it()
            got = session.run(inputs)
            timing = measure_session(session, inputs, run_count=20, warm_up_count=5)
        except EdgeKitError as error:
            missing.setdefault(way, error.what)
            continue
        row = Row(
            name=case.name,
            strategy=case.strategy,
            batch_count=case.batch_count,
            precision=precision,
            way=way,
            median_s=timing.median_s,
            frames_per_s=case.batch_count / timing.median_s,
            error=largest_error(want, got),
        )
        rows.append(row)
        with suppress(AttributeError):
            session.close()
    return rows


def largest_error(want: dict[str, Array], got: dict[str, Array]) -> float:
    """Over the largest number of each output; NaN if one is there."""
    errors = [
        float(np.abs(got[name].astype(np.float64) - one).max() / (np.abs(one).max() or 1.0))
        for name, one in want.items()
    ]
    return float(np.max(errors))


def main() -> None:
    """Run everything that is here and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="batch 1, one strategy")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    runtime = f"{native_name() or 'no TensorRT'}, ONNX Runtime {onnxruntime.__version__}"
    print(f"{platform.machine()}, {runtime}, torch {torch.__version__}")
    rows, missing, refused = list[Row](), dict[str, str](), list[str]()
    with tempfile.TemporaryDirectory() as home:
        for case in cases(Path(home), quick=arguments.quick):
            for precision in PRECISIONS:
                try:
                    found = measure(case, precision, Path(home), missing)
                except ModelError as error:
                    refused.append(f"{case.name} {precision}: {error.what}")
                    continue
                rows += found
                for row in found:
                    what = f"{row.name:16} {row.strategy:9} x{row.batch_count} {row.precision:5}"
                    speed = f"{1e3 * row.median_s:9.3f} ms {row.frames_per_s:9.1f}/s"
                    print(f"{what} {row.way:19} {speed}  error {row.error:.1e}", flush=True)
    for way, reason in missing.items():
        print(f"not here: {way}: {reason}")
    for one in refused:
        print(f"refused: {one}")
    engines = [row for row in rows if row.way.startswith("tensorrt")]
    wrong = [row for row in engines if not row.error <= LIMITS.get(row.precision, np.inf)]
    if arguments.json:
        document = {"runtime": runtime, "missing": missing, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    print(
        f"RESULT rows={len(rows)} engines={len(engines)} wrong={len(wrong)} refused={len(refused)}"
    )
    if wrong:
        raise SystemExit(f"an engine is wrong: {wrong[0]}")


if __name__ == "__main__":
    main()
