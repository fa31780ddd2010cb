"""Whether the profiler's ceilings are what plain loops attain on the same core.

GEMM: the rate of the profiler's matrix products, against a bare ONNX Runtime session (default
options but for the threads) and numpy, multiplying the same matrices. Bandwidth: the profiler's,
against STREAM's copy in numpy and, where there is a compiler, in C. The compared loops take turns,
each time counts the runs within a tenth of the fastest, and the best turn of each counts.

    python tests/bench/ceilings.py [--quick] [--json FILE]

Source: McCalpin, STREAM, 1995 (copy: bytes read and written, over arrays that no cache holds).
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import onnxruntime as ort

from edgekit.profiler.ceilings import PRODUCT, compute_rates, memory_bandwidth
from edgekit.profiler.onnx_writer import Node, write_model
from edgekit.profiler.probe_session import best_time_s
from edgekit.spec.tensors import TensorSpec

SIZES = (512, 1024)
LARGE_BYTES = 128 << 20
C_COPY = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}
int main(int argc, char **argv) {
    size_t n = strtoull(argv[1], 0, 10) / sizeof(double);
    double *a = malloc(n * sizeof *a), *c = malloc(n * sizeof *c), best = 1e9;
    for (size_t i = 0; i < n; i++) a[i] = 1.0, c[i] = 2.0;
    for (int run = 0; run < atoi(argv[2]); run++) {
        a[run] = run;
        double began = now();
        for (size_t i = 0; i < n; i++) c[i] = a[i];
        double took = now() - began;
        if (took < best) best = took;
    }
    printf("%.9g %g\n", 2.0 * n * sizeof *a / best, c[0]);
    return 0;
}
"""


def bare_ort_product(size: int, folder: Path) -> Callable[[], object]:
    """Two matrices given at every run, as a plain user of the library would multiply them."""
    specs = [TensorSpec(name=name, dtype="float32", shape=(size, size)) for name in "aby"]
    node = Node(op_type="MatMul", inputs=("a", "b"), outputs=("y",))
    path = folder / f"gemm-{size}.onnx"
    path.write_bytes(write_model([node], inputs=specs[:2], outputs=specs[2:], weights={}))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    inputs = {name: generator.random((size, size), np.float32) for name in "ab"}
    return lambda: session.run(None, inputs)


def numpy_product(size: int) -> Callable[[], object]:
    generator = np.random.default_rng(0)
    a, b = (generator.random((size, size), np.float32) for _ in range(2))
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)


def gemm_rates(turns: int, budget_s: float, folder: Path) -> dict[str, float]:
    """flop/s by who attains it; "ceiling" is the best of all the profiler's probes."""
    plain = {
        f"{who} {size}": (make, 2 * size**3)
        for size in SIZES
        for who, make in (
            ("ort", bare_ort_product(size, folder)),
            ("numpy", numpy_product(size)),
        )
    }
    best: dict[str, float] = defaultdict(float)
    for _ in range(turns):
        rates = compute_rates("fp32", budget_s=7 * budget_s)
        own = {name: rate for name, rate in rates.items() if name.startswith(PRODUCT)}
        found = {"gemm": max(own.values()), "ceiling": max(rates.values())}
        for name, (run, work_flop) in plain.items():
            found[name] = work_flop / best_time_s(run, budget_s=budget_s)
        for name, rate in found.items():
            best[name] = max(best[name], rate)
    return dict(best)


def bandwidths(turns: int, budget_s: float, folder: Path) -> dict[str, float]:
    """Bytes per second by who attains them."""
    source = np.ones(LARGE_BYTES // 8)
    target = np.zeros_like(source)
    program = compiled_copy(folder)
    best: dict[str, float] = defaultdict(float)
    for _ in range(turns):
        found = {
            "profiler": memory_bandwidth(budget_s=budget_s),
            "numpy copy": 2
            * source.nbytes
            / best_time_s(lambda: np.copyto(target, source), budget_s=budget_s),
        }
        if program is not None:
            done = subprocess.run(
                [str(program), str(LARGE_BYTES), "20"], capture_output=True, text=True, check=True
            )
            found["C copy"] = float(done.stdout.split()[0])
        for name, rate in found.items():
            best[name] = max(best[name], rate)
    return dict(best)


def compiled_copy(folder: Path) -> Path | None:
    """STREAM's copy in C, or None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    source, program = folder / "copy.c", folder / "copy"
    source.write_text(C_COPY)
    subprocess.run([compiler, "-O3", "-march=native", str(source), "-o", str(program)], check=True)
    return program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    arguments = parser.parse_args()
    turns, budget_s = (2, 0.2) if arguments.quick else (5, 0.4)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        gemm = gemm_rates(turns, budget_s, Path(name))
        memory = bandwidths(turns, budget_s, Path(name))
    for who, rate in gemm.items():
        print(f"{who:12} {rate / 1e9:8.1f} Gflop/s")
    for who, rate in memory.items():
        print(f"{who:12} {rate / 1e9:8.2f} GB/s")
    plain = max(rate for who, rate in gemm.items() if who.startswith(("ort", "numpy")))
    copy = max(rate for who, rate in memory.items() if who != "profiler")
    result = {
        "gemm_ratio": round(gemm["gemm"] / plain, 3),
        "bandwidth_ratio": round(memory["profiler"] / copy, 3),
    }
    if arguments.json is not None:
        data = {"gemm_flop_per_s": gemm, "memory_bytes_per_s": memory, **result}
        arguments.json.write_text(json.dumps(data, indent=2) + "\n")
    print("RESULT " + " ".join(f"{key}={value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
