"""Load a probe model in the runtime: to time it, or to read what the runtime makes of it.

In:  the bytes of an ONNX file.  Out: seconds per run, or the operators of the optimised graph.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime as ort

from edgekit.errors import DeviceError
from edgekit.profiler.onnx_writer import ListedNode, read_nodes
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import random_inputs

_RUNS_A_TURN = 3


def optimized_nodes(model: bytes) -> tuple[ListedNode, ...]:
    """The operators that the runtime runs for ``model`` at its highest optimisation level.

    Raises: DeviceError if the runtime refuses the model.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        source, result = Path(folder) / "probe.onnx", Path(folder) / "optimized.onnx"
        source.write_bytes(model)
        options = ort.SessionOptions()
        # It warns that an optimised file suits this machine only: that is what is asked here.
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = os.fspath(result)
        try:
            ort.InferenceSession(os.fspath(source), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises bare pybind errors
            raise DeviceError(
                f"ONNX Runtime refuses a probe model: {str(error)[:300]}",
                hint="update onnxruntime on this device",
            ) from None
        return read_nodes(result.read_bytes())


def probe_run(model: bytes, *, threads: int = 1, provider: str = "cpu") -> Callable[[], object]:
    """A function that runs ``model`` once on random inputs; its file is gone when this returns.

    Raises: ModelError if the runtime refuses the model, ConfigError or DeviceError without the
    execution provider.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "probe.onnx"
        path.write_bytes(model)
        session = OrtSession(path, threads=threads, provider=provider)
    inputs = random_inputs(session.inputs)
    return lambda: session.run(inputs)


def best_time_s(run: Callable[[], object], *, budget_s: float, least_count: int = 5) -> float:
    """Mean time of the faster half of the runs that fit ``budget_s`` [s]."""
    return interleaved_times_s([run], budget_s=budget_s, least_count=least_count)[0]


def interleaved_times_s(
    runs: Sequence[Callable[[], object]],
    *,
    budget_s: float,
    least_count: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """The same for several, taking turns, so that a change of clock or load hits all alike.

    The first run of a turn finds the caches full of the others' data, and is not counted: a device
    runs the same shard frame after frame. ``clock`` times a run; the budget is wall time.
    """
    times: list[list[float]] = [[] for _ in runs]
    began_s = time.perf_counter()
    while len(times[0]) < least_count or time.perf_counter() - began_s < budget_s:
        for run, own in zip(runs, times, strict=True):
            run()
            for _ in range(_RUNS_A_TURN):
                started_s = clock()
                run()
                own.append(clock() - started_s)
    return [undisturbed_mean(own) for own in times]


def undisturbed_mean(times_s: Sequence[float], *, resolution_s: float = 0.0) -> float:
    """Mean of the runs within a tenth of the fastest, and within the clock's ``resolution_s``.

    What else runs, on this machine or on the other half of a shared core, can only make a run
    slower: up to twice, for milliseconds at a time. The runs it missed lie close together.
    """
    limit_s = 1.1 * min(times_s) + resolution_s
    clean = [time_s for time_s in times_s if time_s <= limit_s]
    return sum(clean) / len(clean)
