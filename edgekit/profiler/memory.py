"""Measure what sessions take in memory: each in a fresh process, so that nothing else counts.

In:  a number of threads, and a time budget.  Out: a SessionMemory for the profile.
Base, bookkeeping and copies of weights come from one probe each; the factor of the activations is
fitted on half of some made-up networks, and the error is that on the other half.
"""

import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from edgekit.errors import DeviceError
from edgekit.planner.memory import (
    ASSUMED,
    border_bytes,
    peak_activation_bytes,
    predicted_rss_bytes,
    weights_of,
)
from edgekit.profiler.holdout import made_up
from edgekit.profiler.onnx_writer import Node, write_model
from edgekit.spec.profile import SessionMemory
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.spec.workload import Workload

logger = logging.getLogger(__name__)
_TIMEOUT_S = 120.0
_BARE = (1, 8, 1, 8)
"""Convolutions, channels, kernel, pixels a side: a session that does almost nothing."""
_LONG = (150, 8, 1, 8)
"""The same for bookkeeping: many operators of almost nothing."""
_HEAVY = ((8, 384, 3, 6), (16, 256, 3, 6), (40, 128, 3, 6), (60, 256, 1, 6))
"""The same for weights, tens of megabytes: what the C library keeps depends on their sizes."""
_FEWEST, _MOST = 4, 12
"""Made-up networks."""
_LEAST_BUDGET_S = 2.0
_FIRST_SEED = 1000
"""Other networks than those that the error of the times is from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One network and the bytes that its session took at most."""

    workload: Workload
    peak_bytes: int


def measure_peak_bytes(model: Path, *, threads: int = 1) -> int:
    """Most memory [bytes] that a session of the file ``model`` takes, over a bare process.

    Raises: DeviceError if the process fails, is killed, or takes minutes.
    """
    command = [sys.executable, "-m", "edgekit.profiler.memory_child", str(model), str(threads)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        if done.returncode == 0:
            return int(json.loads(done.stdout)["peak_bytes"])
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    except subprocess.TimeoutExpired:
        reason = [f"no answer within {_TIMEOUT_S:.0f} s"]
    except (OSError, ValueError, KeyError) as error:
        reason = [str(error)]
    raise DeviceError(
        f"cannot measure the memory of a session: {reason[0][:300]}",
        hint="free some memory on this device, and profile it again",
    )


def session_memory(*, threads: int = 1, budget_s: float = 20.0) -> SessionMemory | None:
    """What sessions take here besides their bytes, in about ``budget_s``.

    None where the device cannot tell, or in less than two seconds.
    """
    if budget_s < _LEAST_BUDGET_S:
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            return _measured(Path(folder) / "probe.onnx", threads, time.monotonic() + budget_s)
    except (DeviceError, OSError) as error:
        logger.warning("memory of sessions not measured: %s", error)
        return None


def _measured(path: Path, threads: int, until_s: float) -> SessionMemory:
    def peak_bytes(model: bytes) -> int:
        path.write_bytes(model)
        return measure_peak_bytes(path, threads=threads)

    base_bytes = peak_bytes(_straight(*_BARE))
    long_bytes = peak_bytes(_straight(*_LONG))
    operator_bytes = max(0, (long_bytes - base_bytes) // _LONG[0])
    copies = []
    for count, channels, kernel, side_px in _HEAVY:
        heavy_bytes = peak_bytes(_straight(count, channels, kernel, side_px))
        own_bytes = heavy_bytes - base_bytes - count * operator_bytes
        copies.append(own_bytes / (4 * count * channels**2 * kernel**2))
    first = SessionMemory(
        base_bytes=base_bytes,
        operator_bytes=operator_bytes,
        conv_weight_factor=round(max(1.0, sum(copies) / len(copies)), 3),
        activation_factor=ASSUMED.activation_factor,
        shard_count=0,
        mape_percent=ASSUMED.mape_percent,
    )
    seen: list[Seen] = []
    while len(seen) < _FEWEST or (len(seen) < _MOST and time.monotonic() < until_s):
        seen.append(_seen(_FIRST_SEED + len(seen), peak_bytes))
    return fitted(first, seen[::2], seen[1::2])


def fitted(first: SessionMemory, fit: Sequence[Seen], check: Sequence[Seen]) -> SessionMemory:
    """``first`` with the activation factor that suits ``fit``, and its error on ``check``.

    Raises: ValueError if either is empty.
    """
    without = msgspec.structs.replace(first, activation_factor=0.0)
    ratios = []
    for one in fit:
        ops = range(len(one.workload.ops))
        weights = weights_of(one.workload.ops)
        known_bytes = predicted_rss_bytes(one.workload, ops, without)
        known_bytes -= max(0, weights.largest_bytes - border_bytes(one.workload, ops))
        ratios.append((one.peak_bytes - known_bytes) / peak_activation_bytes(one.workload, ops))
    factor = round(float(np.clip(median(ratios), 0.0, 20.0)), 3)
    final = msgspec.structs.replace(first, activation_factor=factor)
    errors = [
        100 * abs(predicted_rss_bytes(one.workload, range(len(one.workload.ops)), final)
                  / one.peak_bytes - 1)
        for one in check
    ]  # fmt: skip
    return msgspec.structs.replace(
        final, shard_count=len(errors), mape_percent=round(sum(errors) / len(errors), 2)
    )


def _seen(seed: int, peak_bytes: Callable[[bytes], int]) -> Seen:
    """A made-up network, measured; its workload says how large its weights are."""
    network = made_up(seed)
    ops = tuple(
        msgspec.structs.replace(op, weight_bytes=network.weights[f"w{index}"].nbytes)
        if f"w{index}" in network.weights
        else op
        for index, op in enumerate(network.ops)
    )
    workload = msgspec.structs.replace(network.workload(), ops=ops)
    return Seen(workload=workload, peak_bytes=peak_bytes(network.model()))


def _straight(count: int, channels: int, kernel: int, side_px: int) -> bytes:
    """``count`` convolutions in a row, each with weights of its own, and one activation."""
    generator = np.random.default_rng(0)
    scale = np.float32(1 / (kernel * channels**0.5))
    shape = (channels, channels, kernel, kernel)
    weights: dict[str, Array] = {
        f"w{index}": generator.standard_normal(shape, np.float32) * scale for index in range(count)
    }
    nodes = [
        Node(op_type="Conv", inputs=(f"t{index}", f"w{index}"), outputs=(f"t{index + 1}",),
             attributes={"pads": [kernel // 2] * 4})
        for index in range(count)
    ]  # fmt: skip
    nodes.append(Node(op_type="Relu", inputs=(f"t{count}",), outputs=("y",)))
    image = (1, channels, side_px, side_px)
    return write_model(
        nodes,
        inputs=[TensorSpec(name="t0", dtype="float32", shape=image)],
        outputs=[TensorSpec(name="y", dtype="float32", shape=image)],
        weights=weights,
    )
