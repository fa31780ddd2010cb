"""Engines of TensorRT-RTX for every network of the zoo and every real detector, without a GPU.

Each model becomes the one shard of a device that runs TensorRT, in fp32, fp16 and QDQ int8, exactly
as ``edgekit build`` ships it (int8 calibrated on random numbers, its biases not corrected: what is
asked here is whether TensorRT takes it, not how good it is). Of each an engine is built for four
kinds of GPU: SM 8.6 (GeForce 30), 8.7 (Jetson Orin, where this library offers it), 8.9 (GeForce 40)
and 12.0 (GeForce 50). A refusal names the operator. Nothing is run: that needs a GPU.

    python tests/bench/engines.py [--quick] [--model NAME] [--json FILE]
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import onnxruntime

from edgekit.builder.load import LoadedModel
from edgekit.runtime.tensorrt import Library, find_library
from tests.builder.tensorrt.engine_world import (
    DETECTORS,
    PRECISIONS,
    REAL,
    Row,
    engines_of,
    real_model,
    zoo,
    zoo_model,
)
from tests.world import DATA

WANTED = ("8.6", "8.7", "8.9", "12.0")
QUICK_TARGETS = ("8.9",)
QUICK_ZOO = ("table6-detector", "repvgg-a0", "mobileone-s0", "rep-shufflenet-v1")
Load = Callable[[], LoadedModel]


def models(folder: Path, *, quick: bool) -> Iterator[tuple[str, Load]]:
    """Names of models, and how to load each."""
    for name in DETECTORS if quick else REAL:
        if (DATA / "models" / REAL[name]).exists():
            yield name, partial(real_model, name)
    for entry in zoo():
        if not quick or entry.name in QUICK_ZOO:
            yield entry.name, partial(zoo_model, entry, folder)


def measure(
    library: Library, targets: tuple[str, ...], *, quick: bool, only: Sequence[str] = ()
) -> list[Row]:
    """All engines, or those of the models in ``only``; printed as they come."""
    rows: list[Row] = []
    print(f"{'model':20} {'precision':9} " + " ".join(f"{'SM ' + one:>18}" for one in targets))
    with tempfile.TemporaryDirectory() as home:
        for name, load in models(Path(home), quick=quick):
            if only and name not in only:
                continue
            for precision in PRECISIONS:
                found = list(engines_of(name, load, precision, library, targets, Path(home)))
                print(f"{name:20} {precision:9} {_said(found)}", flush=True)
                rows += found
    return rows


def _said(rows: list[Row]) -> str:
    """One line; a refusal is the same for all GPUs, since it is the parser's."""
    if any(row.refusal for row in rows):
        return "refused: " + next(row.refusal for row in rows if row.refusal)
    return " ".join(f"{row.said:>18}" for row in rows)


def main() -> None:
    """Build every engine and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one GPU, four networks, detectors")
    parser.add_argument("--model", action="append", default=[], help="only this one")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    library = find_library(("tensorrt_rtx",))
    wanted = QUICK_TARGETS if arguments.quick else WANTED
    targets = tuple(one for one in wanted if one in library.targets())
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"{library.label}, ONNX Runtime {onnxruntime.__version__}"
    )
    for missing in sorted(set(wanted) - set(targets)):
        print(f"SM {missing} is not offered by {library.label}")
    rows = measure(library, targets, quick=arguments.quick, only=arguments.model)
    if not rows:
        raise SystemExit(f"no model is called {' or '.join(arguments.model)}")
    built = [row for row in rows if not row.refusal]
    refused = [row for row in rows if row.refusal]
    unexplained = [row for row in refused if not row.is_explained]
    result = {
        "engines": len(built),
        "refused": len(refused),
        "unexplained": len(unexplained),
        "seconds_median": round(statistics.median([row.build_s for row in built] or [0.0]), 3),
    }
    if arguments.json:
        document = {"library": library.label, "rows": [asdict(row) for row in rows], **result}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    print("RESULT " + " ".join(f"{key}={value}" for key, value in result.items()))
    if unexplained:
        raise SystemExit(f"refused without a reason: {unexplained[0]}")


if __name__ == "__main__":
    main()
