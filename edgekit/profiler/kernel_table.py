"""Time single kernels inside the runtime, by its own clock.

In:  keys and sizes of kernels.  Out: KernelTimes, one by one as they are known.
A kernel runs alone, again and again, so it finds its weights as warm as its own size allows, as
in a small network; what cold weights cost in a large one is measured apart (``weight_reads``).
The runtime's profile says how long each kernel took, and each copy between layouts. A time is the
mean of the undisturbed runs: what else runs can only make it slower.
"""

import json
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import onnxruntime as ort

from edgekit.errors import DeviceError
from edgekit.planner.kernel_keys import kernel_facts
from edgekit.profiler.onnx_writer import write_model
from edgekit.profiler.probe_branch import FEEDER, Branch
from edgekit.profiler.probe_models import branch_of
from edgekit.profiler.probe_session import undisturbed_mean
from edgekit.runtime.session import random_inputs
from edgekit.spec.profile import KernelTime
from edgekit.spec.workload import KernelShape

logger = logging.getLogger(__name__)
_PACK_COUNT = 1
"""Kernels of one model: together they would find each other's data in the caches."""
_RUN_S = 0.015
_LEAST_RUNS, _MOST_RUNS = 10, 60
_TRUNCATION_S = 0.5e-6
"""The runtime's profile cuts times down to whole microseconds; half of one is what that loses."""
_RESOLUTION_S = 1e-6
_LEAST_S = 1e-7
"""A kernel that takes no longer cannot be told from none."""
_REORDERS = ("ReorderInput", "ReorderOutput")


def packs(
    shapes: Sequence[KernelShape], *, pack_count: int = _PACK_COUNT
) -> Iterator[tuple[KernelShape, ...]]:
    """Kernels grouped into models."""
    for start in range(0, len(shapes), pack_count):
        yield tuple(shapes[start : start + pack_count])


def recording_s(*, threads: int = 1) -> float:
    """What the runtime's clock counts for a kernel that does next to nothing [s].

    Recording an event takes a few microseconds that no unrecorded kernel takes.
    """
    nothing = KernelShape(key="Relu", sizes=(1, 8))
    found = measure_pack([nothing], threads=threads, run_count=_MOST_RUNS)
    return min(one.time_s for one in found if one.key == nothing.key)


def measure_pack(
    shapes: Sequence[KernelShape],
    *,
    threads: int = 1,
    run_count: int = 0,
    recorded_s: float = 0.0,
) -> list[KernelTime]:
    """Times of these kernels, and of the layout copies around them; unknown keys are left out.

    ``recorded_s`` is what recording an event takes (``recording_s``): it is taken off.

    Raises: DeviceError if the runtime cannot run the probe model.
    """
    branches = [
        (shape, branch)
        for index, shape in enumerate(shapes)
        if (branch := branch_of(shape.key, shape.sizes, f"k{index}_")) is not None
    ]
    if not branches:
        return []
    run_count = run_count or _run_count(shapes)
    events = _profile([branch for _, branch in branches], threads=threads, run_count=run_count)
    found = [
        _summary(shape.key, shape.sizes, runs, recorded_s)
        for shape, branch in branches
        if (runs := _own_times(events, _prefix(branch), run_count))
    ]
    return found + _copies(events, recorded_s)


def _run_count(shapes: Sequence[KernelShape]) -> int:
    """Runs that take about a constant time at a few Gflop/s, within bounds."""
    facts = [kernel_facts(shape.key, shape.sizes) for shape in shapes]
    guess_s = sum(one.work_flop / 2e10 + one.traffic_bytes / 1e10 for one in facts)
    return round(min(max(_RUN_S / max(guess_s, 1e-9), _LEAST_RUNS), _MOST_RUNS))


def _prefix(branch: Branch) -> str:
    return branch.output.name.split("_", 1)[0] + "_"


@dataclass(frozen=True, slots=True)
class _Event:
    name: str
    op_type: str
    shape: tuple[int, ...]
    time_s: float


def _profile(branches: Sequence[Branch], *, threads: int, run_count: int) -> list[_Event]:
    data = write_model(
        [node for branch in branches for node in branch.nodes],
        inputs=[spec for branch in branches for spec in branch.inputs],
        outputs=[branch.output for branch in branches],
        weights={name: value for branch in branches for name, value in branch.weights.items()},
    )
    inputs = random_inputs(tuple(spec for branch in branches for spec in branch.inputs))
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "probe.onnx"
        path.write_bytes(data)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = os.fspath(path.with_suffix(""))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = ort.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
            for _ in range(run_count + 3):
                session.run(None, inputs)
            profile = Path(session.end_profiling())
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises bare pybind errors
            raise DeviceError(
                f"ONNX Runtime cannot run a probe model: {str(error)[:300]}",
                hint="update onnxruntime, or report the kernel",
            ) from None
        return _events(profile.read_bytes())


def _events(data: bytes) -> list[_Event]:
    """Kernel events of a profile, in the order they happened."""
    entries: list[dict[str, Any]] = json.loads(data)
    return [
        _Event(
            str(entry["name"]).removesuffix("_kernel_time"),
            entry["args"]["op_name"],
            _shape(entry["args"]),
            1e-6 * entry["dur"] + _TRUNCATION_S,
        )
        for entry in entries
        if entry.get("cat") == "Node" and str(entry["name"]).endswith("_kernel_time")
    ]


def _shape(arguments: dict[str, Any]) -> tuple[int, ...]:
    """Shape of the larger of first input and first output: a blocked one is padded."""
    shapes = [
        tuple(next(iter(entry.values())))
        for field in ("input_type_shape", "output_type_shape")
        for entry in arguments.get(field, [])[:1]
    ]
    return max(shapes, key=lambda shape: (len(shape), shape), default=())


def _own_times(events: Sequence[_Event], prefix: str, run_count: int) -> list[float]:
    """Per run, the time of all kernels of one branch but its feeder."""
    by_name: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.name.startswith(prefix) and FEEDER not in event.name:
            by_name[event.name].append(event.time_s)
    series = [times[-run_count:] for times in by_name.values()]
    return [sum(times) for times in zip(*series, strict=False)] if series else []


def _copies(events: Sequence[_Event], recorded_s: float) -> list[KernelTime]:
    times: dict[tuple[str, tuple[int, ...]], list[float]] = defaultdict(list)
    for event in events:
        if event.op_type in _REORDERS and len(event.shape) == 4:
            channels, height, width = event.shape[1:]
            times[event.op_type, (channels, height * width)].append(event.time_s)
    return [
        _summary(key, sizes, values[1:] or values, recorded_s)
        for (key, sizes), values in times.items()
    ]


def _summary(
    key: str, sizes: tuple[int, ...], times_s: Sequence[float], recorded_s: float
) -> KernelTime:
    ordered = sorted(times_s)
    counted_s = undisturbed_mean(ordered, resolution_s=_RESOLUTION_S)
    spread = (ordered[len(ordered) // 2] - ordered[0]) / counted_s
    time_s = float(f"{max(_LEAST_S, counted_s - recorded_s):.4g}")
    return KernelTime(key=key, sizes=sizes, time_s=time_s, spread=round(spread, 2))


class Journal:
    """Kernel times on disk as they are measured: one line each, so a kill loses the last at most.

    ``header`` says what was measured under which conditions; another header starts afresh.
    """

    def __init__(self, path: Path, *, header: str) -> None:
        self.path = path
        self._header = header
        self.known: dict[tuple[str, tuple[int, ...]], KernelTime] = {}
        data = path.read_bytes() if path.is_file() else b""
        lines = data.splitlines()
        if lines and lines[0] == header.encode():
            self._read(lines[1:])
            if not data.endswith(b"\n"):
                # A cut-off last line would swallow the next one.
                with path.open("ab") as out:
                    out.write(b"\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(header.encode() + b"\n")

    def _read(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            try:
                entry = msgspec.json.decode(line, type=KernelTime)
            except msgspec.MsgspecError:
                logger.info("%s: a line was cut off, measured again", self.path)
                continue
            self._keep(entry)

    def _keep(self, entry: KernelTime) -> None:
        """Of several times of one kernel the fastest: others were disturbed."""
        old = self.known.get((entry.key, entry.sizes))
        if old is None or entry.time_s < old.time_s:
            self.known[entry.key, entry.sizes] = entry

    def add(self, entries: Sequence[KernelTime]) -> None:
        """Append, and sync to disk."""
        with self.path.open("ab") as out:
            for entry in entries:
                self._keep(entry)
                out.write(msgspec.json.encode(entry) + b"\n")
            out.flush()
            os.fsync(out.fileno())
