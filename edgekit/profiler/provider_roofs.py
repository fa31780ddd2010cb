"""Measure the roofs of a GPU under one provider: arithmetic, memory, launches, sessions, copies.

In:  a ProbeRuntime.  Out: Ceilings with the overheads of this provider.
Arithmetic and memory are kernels in chains, so that nothing is copied (``chain_probe``). What a
launch costs is the slope of a chain of poolings, which no provider joins; what an inference costs
is where that line begins; what copies cost is what a megabyte in and out takes longer.
Source: Williams et al., CACM 2009 (roofline).
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import EdgeKitError
from edgekit.planner.kernel_keys import kernel_facts
from edgekit.profiler.onnx_writer import Node, write_model
from edgekit.profiler.probe_session import interleaved_times_s
from edgekit.profiler.provider_kernels import kernel_time
from edgekit.profiler.under_provider import ProbeRuntime
from edgekit.runtime.session import random_inputs
from edgekit.spec.profile import Ceiling, Precision
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import KernelShape

_CONVOLUTIONS = ((128, 128, 56, 56, 1), (256, 256, 28, 28, 1), (256, 256, 56, 56, 1))
_PRODUCTS = ((1, 1024, 1024, 1024), (1, 2048, 2048, 2048))
_STREAM = KernelShape(key="MaxPool 3x3 s1 d1", sizes=(64, 512, 512))
"""Reads and writes 64 MiB each, more than any cache of a board's GPU holds."""
_CHAIN = (4, 68)
_COPIED_BYTES = 1 << 20
_LARGE_LINKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuOverheads:
    """What an inference costs besides its kernels."""

    launch_s: float
    session_s: float
    copy_bytes_per_s: float


def gpu_ceilings(runtime: ProbeRuntime, *, budget_s: float = 3.0) -> tuple[Ceiling, ...]:
    """The roofs of each precision that the provider runs, fp32 first.

    Raises: EdgeKitError subclasses if it does not run fp32.
    """
    extra = gpu_overheads(runtime, budget_s=budget_s)
    stream_s = _time_s(_STREAM, runtime, "fp32")
    moved = kernel_facts(_STREAM.key, _STREAM.sizes).traffic_bytes
    found = []
    for precision in runtime.precisions:
        try:
            rate = gpu_rate(runtime, precision)
        except EdgeKitError:
            if precision == "fp32":
                raise
            continue
        unit = "Gop/s" if precision == "int8" else "Gflop/s"
        found.append(
            Ceiling(
                precision=precision,
                compute=f"{rate / 1e9:.4g} {unit}",
                provider=runtime.provider,
                launch_overhead=f"{1e6 * extra.launch_s:.4g} us",
                session_overhead=f"{1e6 * extra.session_s:.4g} us",
                copy_bandwidth=f"{extra.copy_bytes_per_s / 1e9:.4g} GB/s",
                memory_bandwidth=f"{moved / stream_s / 1e9:.4g} GB/s",
            )
        )
    return tuple(found)


def gpu_rate(runtime: ProbeRuntime, precision: Precision) -> float:
    """The fastest of some convolutions and products [flop/s].

    Raises: EdgeKitError subclasses if the provider refuses one.
    """
    prefix, product = ("QLinear", "QLinearMatMul") if precision == "int8" else ("", "MatMul")
    form = "" if precision == "int8" else " plain"
    shapes = [
        KernelShape(key=f"{prefix}Conv 3x3 s1 d1 dense{form}", sizes=sizes)
        for sizes in _CONVOLUTIONS
    ]
    shapes += [KernelShape(key=product, sizes=sizes) for sizes in _PRODUCTS]
    return max(
        kernel_facts(one.key, one.sizes).work_flop / _time_s(one, runtime, precision)
        for one in shapes
    )


def gpu_overheads(runtime: ProbeRuntime, *, budget_s: float) -> GpuOverheads:
    """Cost per launch, per inference, and per byte that enters or leaves."""
    chains = [_opened(_poolings(length), runtime) for length in _CHAIN]
    copied = [_opened(_poolings(1, nbytes=nbytes), runtime) for nbytes in (512, _COPIED_BYTES)]
    short_s, long_s, small_s, large_s = interleaved_times_s(
        [*chains, *copied], budget_s=budget_s, least_count=20
    )
    launch_s = max(0.0, (long_s - short_s) / (_CHAIN[1] - _CHAIN[0]))
    return GpuOverheads(
        launch_s=launch_s,
        session_s=max(0.0, short_s - _CHAIN[0] * launch_s),
        copy_bytes_per_s=2 * _COPIED_BYTES / max(1e-7, large_s - small_s),
    )


def _time_s(shape: KernelShape, runtime: ProbeRuntime, precision: Precision) -> float:
    found = kernel_time(shape, runtime, precision, links=_LARGE_LINKS)
    if found is None:
        raise ValueError(f"no chain for {shape}")
    return found.time_s


def _poolings(length: int, *, nbytes: int = 512) -> bytes:
    """``length`` poolings in a row on a float tensor of ``nbytes``."""
    shape = (1, 8, 4, nbytes // 128)
    nodes = [
        Node(op_type="MaxPool", inputs=(f"t{index}",), outputs=(f"t{index + 1}",),
             attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})
        for index in range(length)
    ]  # fmt: skip
    ends = [TensorSpec(name=f"t{end}", dtype="float32", shape=shape) for end in (0, length)]
    return write_model(nodes, inputs=ends[:1], outputs=ends[1:], weights={})


def _opened(model: bytes, runtime: ProbeRuntime) -> Callable[[], object]:
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "probe.onnx"
        path.write_bytes(model)
        session = runtime.open_session(path, "fp32")
    inputs = random_inputs(session.inputs)
    return lambda: session.run(inputs)
