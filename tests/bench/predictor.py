"""How far predicted times of shards are from measured ones, on models the table has not seen.

Real and zoo models are cut at single tensors; every prefix and suffix, and every whole model, is
one shard, run by ONNX Runtime on one pinned processor. Side by side: the plain roofline; the
roofline with a measured efficiency per operator type; the sum of unfused kernels; the profile's
own prediction (kernel groups, layout copies, overheads), fitted on made-up networks only; and
ours, that with its two free numbers (``planner.calibrate``) fitted on the models. Leave one model
out: the kernel table knows no model at all, and efficiencies and the two numbers are those of all
models but the one predicted.
A shard runs three times a turn, frame after frame as on a device, and the first is not counted: it
finds the caches full of other shards' data. Shards are measured in four sweeps, minutes apart, each
as the mean of the runs within a tenth of the fastest, as kernels are; the fastest sweep counts,
since whatever else runs, here or on the other half of a shared core, only makes a run slower.

    python tests/bench/predictor.py [--quick] [--profile FILE] [--zoo FOLDER] [--json FILE]
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import onnxruntime
import torch

from edgekit.builder.export import export_module
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.split import split_model
from edgekit.builder.workload import workload_of
from edgekit.builder.zoo.registry import ARCHITECTURES, build
from edgekit.errors import EdgeKitError
from edgekit.planner.calibrate import MeasuredShard, fit, shard_terms
from edgekit.planner.cuts import legal_cuts, partition
from edgekit.planner.dag import Dag
from edgekit.planner.kernel_groups import inner_names
from edgekit.planner.launches import launches_of
from edgekit.planner.predict import Predictor
from edgekit.profiler.conditions import observe
from edgekit.profiler.probe_session import undisturbed_mean
from edgekit.profiler.run import ProfileOptions, measure_profile
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import random_inputs
from edgekit.spec.base import load
from edgekit.spec.profile import DeviceProfile
from edgekit.spec.workload import Workload
from tests.world import DATA

ZOO = ("repvgg-a0", "mobileone-s0", "rep-mobilenet-v1", "rep-shufflenet-v1", "rep-efficientnet-b0",
       "rep-resnet-18", "rep-googlenet", "table6-detector")  # fmt: skip
LEFT_OUT = ("light_vgg19", "yunet_n_dynamic")
"""0.5 s a run; the same network as another."""
METHODS = ("roofline", "efficiency", "kernels", "profile", "ours")


@dataclass
class Shard:
    """Some operators of one model, and how long they took."""

    model: str
    ops: tuple[int, ...]
    path: Path
    time_s: float = float("inf")
    predicted_s: dict[str, float] = field(default_factory=dict)
    is_inside: bool = False


def model_files(folder: Path, *, quick: bool) -> list[Path]:
    """Real models, and unless ``quick`` those of the zoo, exported into ``folder`` once."""
    found = [
        path for path in sorted((DATA / "models").rglob("*.onnx")) if path.stem not in LEFT_OUT
    ]
    for name in () if quick else ZOO:
        path = folder / f"{name}.onnx"
        if not path.exists():
            torch.manual_seed(0)
            is_classifier = ARCHITECTURES[name].task == "classifier"
            shape = (1, 3, 224, 224) if is_classifier else (1, 3, 416, 416)
            fields: dict[str, Any] = {"class_count": 1000, "input_shape": shape}
            network = build(name, **(fields if is_classifier else {})).eval()
            path.write_bytes(export_module(network, shape))
        found.append(path)
    return found


def shards_of(loaded: LoadedModel, workload: Workload, folder: Path, cuts: int) -> list[Shard]:
    """The whole model, and prefix and suffix of ``cuts`` single-tensor cuts spread over it."""
    inside = inner_names(Dag(workload))
    legal = [
        cut
        for cut in legal_cuts(workload, max_tensors=1).cuts
        if cut.work_flop_before and not inside & set(cut.names)
    ]
    step = max(1.0, len(legal) / cuts)
    chosen = [legal[int(index * step)] for index in range(min(cuts, len(legal)))]
    parts = [(tuple(range(len(workload.ops))), loaded.proto)]
    for cut in chosen:
        with contextlib.suppress(EdgeKitError):
            parts += zip(
                partition(workload, [cut]), split_model(loaded, workload, [cut]), strict=True
            )
    shards = []
    for number, (ops, proto) in enumerate(parts):
        path = folder / f"{loaded.name}-{number}.onnx"
        path.write_bytes(proto.SerializeToString())
        shards.append(Shard(loaded.name, tuple(ops), path))
    return shards


def measure_shards(shards: Sequence[Shard], *, budget_s: float) -> None:
    """Keep the faster of the time known and the one measured now; the shards take turns."""
    sessions = [OrtSession(shard.path) for shard in shards]
    inputs = [random_inputs(session.inputs) for session in sessions]
    times: list[list[float]] = [[] for _ in shards]
    began_s = time.perf_counter()
    with at_once():
        while len(times[0]) < 7 or (
            time.perf_counter() - began_s < budget_s and len(times[0]) < 60
        ):
            for session, given, own in zip(sessions, inputs, times, strict=True):
                session.run(given)
                for _ in range(2):
                    started_s = time.perf_counter()
                    session.run(given)
                    own.append(time.perf_counter() - started_s)
    for shard, own in zip(shards, times, strict=True):
        shard.time_s = min(shard.time_s, undisturbed_mean(own))


@contextlib.contextmanager
def at_once() -> Any:
    """Ahead of everything else on this processor, where the system allows it."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def roofline_s(profile: DeviceProfile, workload: Workload, ops: Sequence[int]) -> float:
    """The slower roof of every operator, summed."""
    roof = profile.roof("fp32")
    assert roof is not None
    return sum(
        max(
            workload.ops[op].work_flop / roof.flop_per_s,
            workload.ops[op].traffic_bytes / profile.memory_bytes_per_s,
        )
        for op in ops
    )


def alone_s(predictor: Predictor, workload: Workload, op: int) -> float:
    """One operator by itself: its kernel, nothing fused, no layout copy, no overhead."""
    launches = launches_of(workload, [op], predictor.habits)
    own = [launch for launch in launches if not launch.key.startswith("Reorder")]
    return sum(predictor.kernels.estimate(launch.key, launch.sizes).time_s for launch in own)


def efficiencies(
    profile: DeviceProfile, predictor: Predictor, workloads: Sequence[Workload]
) -> Callable[[str], float]:
    """Per operator type, by which factor kernels exceed the roofline: of their sums over models.

    Not a mean of ratios: that of a tiny operator is that of its overhead to almost nothing.
    """
    taken_s, bound_s = defaultdict[str, float](float), defaultdict[str, float](float)
    for workload in workloads:
        for index, op in enumerate(workload.ops):
            taken_s[op.op_type] += alone_s(predictor, workload, index)
            bound_s[op.op_type] += roofline_s(profile, workload, [index])
    factors = {kind: taken_s[kind] / one_s for kind, one_s in bound_s.items() if one_s > 0}
    return lambda kind: factors.get(kind, 1.0)


def predict_all(
    shards: Sequence[Shard], workloads: dict[str, Workload], profile: DeviceProfile
) -> None:
    """Fill in what every method says of every shard, each model left out in turn."""
    bare = Predictor(profile)
    measured = [
        MeasuredShard(workload=workloads[one.model], ops=one.ops, time_s=one.time_s)
        for one in shards
    ]
    terms = shard_terms(profile, measured)
    for model, workload in workloads.items():
        others_terms = [
            one for shard, one in zip(shards, terms, strict=True) if shard.model != model
        ]
        predictor = Predictor(fit(profile, others_terms))
        others = [one for name, one in workloads.items() if name != model]
        factor = efficiencies(profile, predictor, others)
        alone = [alone_s(predictor, workload, op) for op in range(len(workload.ops))]
        for shard in shards:
            if shard.model != model:
                continue
            found = predictor.predict(workload, shard.ops)
            shard.is_inside = found.low_s <= shard.time_s <= found.high_s
            shard.predicted_s = {
                "roofline": roofline_s(profile, workload, shard.ops),
                "efficiency": sum(
                    roofline_s(profile, workload, [op]) * factor(workload.ops[op].op_type)
                    for op in shard.ops
                ),
                "kernels": sum(alone[op] for op in shard.ops),
                "profile": bare.predict(workload, shard.ops).time_s,
                "ours": found.time_s,
            }


def summary(shards: Sequence[Shard], method: str) -> dict[str, float]:
    """Errors of one method [%]."""
    errors = [abs(one.predicted_s[method] / one.time_s - 1) for one in shards]
    return {
        "mape_percent": round(100 * float(np.mean(errors)), 2),
        "within10_percent": round(100 * float(np.mean([error <= 0.1 for error in errors])), 1),
        "worst_percent": round(100 * max(errors), 1),
    }


def main() -> None:
    """Measure, predict, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="real models only, fewer cuts")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="else measured now")
    parser.add_argument("--zoo", type=Path, metavar="FOLDER", help="keep exported zoo models here")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if not DATA.exists():
        raise SystemExit("needs ../shared/data")
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, "
        f"ONNX Runtime {onnxruntime.__version__}"
    )
    with tempfile.TemporaryDirectory() as home:
        run(arguments, Path(home))


def run(arguments: argparse.Namespace, folder: Path) -> None:
    """The benchmark, with a folder for its files."""
    zoo = arguments.zoo or folder / "zoo"
    zoo.mkdir(parents=True, exist_ok=True)
    workloads: dict[str, Workload] = {}
    shards: list[Shard] = []
    for path in model_files(zoo, quick=arguments.quick):
        loaded = load_model(path)
        workloads[loaded.name] = workload_of(loaded)
        shards += shards_of(
            loaded, workloads[loaded.name], folder, cuts=4 if arguments.quick else 6
        )
    profile = profile_of(arguments, folder)
    budget_s = 0.4 if arguments.quick else 3.0
    for _ in range(2 if arguments.quick else 4):
        for model in workloads:
            measure_shards([one for one in shards if one.model == model], budget_s=budget_s)
    predict_all(shards, workloads, profile)
    report(shards, workloads, arguments.json)


def profile_of(arguments: argparse.Namespace, folder: Path) -> DeviceProfile:
    """The profile given, or this device's, measured now."""
    if arguments.profile is not None:
        return load(arguments.profile, DeviceProfile)
    quick = arguments.quick
    options = ProfileOptions(
        name="bench", budget_s=45.0 if quick else 480.0, most_kernels=500 if quick else 2400
    )
    with at_once():
        return measure_profile(
            options,
            journal=folder / "journal",
            progress=lambda text, share: None,
            conditions=observe(),
        )


def report(shards: Sequence[Shard], workloads: dict[str, Workload], out: Path | None) -> None:
    """Tables, and the line that other tools read."""
    print(f"\n{'model':24} {'shards':>6} {'ms':>8}" + "".join(f"{name:>12}" for name in METHODS))
    for model in workloads:
        own = [one for one in shards if one.model == model]
        cells = "".join(f"{summary(own, name)['mape_percent']:12.1f}" for name in METHODS)
        print(f"{model[:24]:24} {len(own):6} {1e3 * own[0].time_s:8.2f}{cells}")
    print(f"\n{'method':12} {'MAPE %':>8} {'within 10 %':>12} {'worst %':>9}")
    summaries = {name: summary(shards, name) for name in METHODS}
    for name, found in summaries.items():
        print(
            f"{name:12} {found['mape_percent']:8.1f} {found['within10_percent']:12.1f} "
            f"{found['worst_percent']:9.1f}"
        )
    inside = 100 * float(np.mean([one.is_inside for one in shards]))
    print(f"inside the predicted interval: {inside:.0f} % of shards (aim 90)")
    result = {"shards": len(shards), **summaries["ours"]}
    if out is not None:
        rows = [
            {"model": one.model, "ops": len(one.ops), "time_s": one.time_s, **one.predicted_s}
            for one in shards
        ]
        data = {"methods": summaries, "inside_percent": inside, "shard": rows, **result}
        out.write_text(json.dumps(data, indent=2) + "\n")
    print("RESULT " + " ".join(f"{key}={value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
