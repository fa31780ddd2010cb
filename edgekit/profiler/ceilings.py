"""Measure the roofs of a device as the runtime attains them, and what every launch costs besides.

In:  a number of threads and a time budget.  Out: rates in SI.
Compute: the fastest of several convolutions and matrix products, per precision. Bandwidth: the
best of a plain copy and triad in numpy over arrays that no cache holds, counting bytes read and
written (as STREAM does, without the write-allocate). Overheads: straight lines through chains of
tiny operators and through outputs of growing size.
Source: Williams et al., CACM 2009 (roofline); McCalpin, STREAM, 1995.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgekit.errors import EdgeKitError
from edgekit.profiler.onnx_writer import Attribute, Node, write_model
from edgekit.profiler.probe_session import (
    best_time_s,
    interleaved_times_s,
    optimized_nodes,
    probe_run,
)
from edgekit.runtime.ort import provider_chain
from edgekit.spec.profile import Ceiling, Precision
from edgekit.spec.tensors import Array, TensorSpec

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
_CONVOLUTIONS = ((64, 56, 3), (128, 28, 3), (256, 14, 3), (256, 28, 1), (512, 14, 1))
"""Channels, pixels a side, kernel: high intensity, from small tensors to large ones."""
_SUSTAINED = 1
"""Which of them runs for minutes."""
PRODUCT = "GEMM"
"""How the names of matrix products begin."""
_PRODUCTS = ((512, 512, 512), (1024, 1024, 1024))
_LARGE_BYTES = 128 << 20
_CACHED_BYTES = 128 << 10
_CHAIN = (4, 68)
_OUTPUT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """What an inference costs besides the work of its kernels."""

    launch_s: float
    """Per operator."""
    session_s: float
    """Per inference."""
    copy_bytes_per_s: float
    """Of results handed from the runtime to Python."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One model whose arithmetic is known."""

    name: str
    model: bytes
    work_flop: int


def compute_ceiling(
    precision: Precision, *, threads: int = 1, budget_s: float = 2.0, provider: str = "cpu"
) -> float | None:
    """Fastest arithmetic [flop/s] of this precision; None if the runtime only emulates it.

    Raises: EdgeKitError subclasses if the runtime fails on fp32, which every provider runs.
    """
    rates = compute_rates(precision, threads=threads, budget_s=budget_s, provider=provider)
    return max(rates.values(), default=None)


def compute_rates(
    precision: Precision, *, threads: int = 1, budget_s: float = 2.0, provider: str = "cpu"
) -> dict[str, float]:
    """Arithmetic [flop/s] that each probe attains, such as "Conv 3x3 64x56x56"; the ceiling is the
    largest. Those that the runtime refuses or only emulates are left out.

    Raises: EdgeKitError subclasses if the runtime fails on fp32, which every provider runs.
    """
    probes = [*_convolutions(precision), *_products(precision)]
    rates = {}
    for probe in probes:
        try:
            # What another provider makes of it, the optimised graph of the CPU does not tell.
            if precision == "fp16" and provider == "cpu" and _is_emulated(probe.model):
                continue
            run = probe_run(probe.model, threads=threads, provider=provider)
            time_s = best_time_s(run, budget_s=budget_s / len(probes))
            rates[probe.name] = probe.work_flop / time_s
        except EdgeKitError:
            if precision == "fp32":
                raise
    return rates


def provider_ceilings(
    provider: str, *, threads: int = 1, budget_s: float = 6.0
) -> tuple[Ceiling, ...]:
    """The roofs of one execution provider of the processor, and what launches and sessions cost
    under it; for those of a GPU see ``provider_roofs``.

    Raises: ConfigError if the runtime does not have it, DeviceError if it does not start.
    """
    provider_chain(provider)
    extra = overheads(threads=threads, budget_s=0.25 * budget_s, provider=provider)
    found = []
    for precision in PRECISIONS:
        rate = compute_ceiling(
            precision, threads=threads, budget_s=0.25 * budget_s, provider=provider
        )
        if rate is not None:
            unit = "Gop/s" if precision == "int8" else "Gflop/s"
            found.append(
                Ceiling(
                    precision=precision,
                    compute=f"{rate / 1e9:.4g} {unit}",
                    provider=provider,
                    launch_overhead=f"{1e6 * extra.launch_s:.4g} us",
                    session_overhead=f"{1e6 * extra.session_s:.4g} us",
                )
            )
    return tuple(found)


def busy_probe(*, threads: int = 1) -> Callable[[], object]:
    """Work that keeps the device as busy as it gets, a fraction of a second at a time."""
    return probe_run(_convolutions("fp32")[_SUSTAINED].model, threads=threads)


def sustained_ceiling(precision: Precision, *, threads: int, minutes: float) -> float:
    """Arithmetic per second [flop/s] over the last fifth of ``minutes`` of uninterrupted load.

    Raises: ModelError if the runtime does not run this precision.
    """
    probe = _convolutions(precision)[_SUSTAINED]
    run = probe_run(probe.model, threads=threads)
    began_s = time.perf_counter()
    tail_began_s, count = began_s + 48.0 * minutes, 0
    while (now_s := time.perf_counter()) < began_s + 60.0 * minutes or not count:
        run()
        count += now_s >= tail_began_s
    return count * probe.work_flop / (time.perf_counter() - max(tail_began_s, began_s))


def memory_bandwidth(*, budget_s: float = 1.5, large_bytes: int = _LARGE_BYTES) -> float:
    """Bytes per second, read and written, over arrays of ``large_bytes`` each."""
    source = np.ones(large_bytes // 8)
    target = np.zeros_like(source)
    copy_s, scale_s = interleaved_times_s(
        [lambda: np.copyto(target, source), lambda: np.multiply(source, 3.0, out=target)],
        budget_s=budget_s,
        least_count=3,
    )
    return 2 * source.nbytes / min(copy_s, scale_s)


def cache_bandwidth(*, budget_s: float = 0.5) -> float:
    """Bytes per second, read and written, of an elementwise kernel on a tensor in the cache."""
    return memory_bandwidth(budget_s=budget_s, large_bytes=_CACHED_BYTES)


def overheads(*, threads: int = 1, budget_s: float = 1.5, provider: str = "cpu") -> Overheads:
    """Cost per operator, per inference, and per byte of results handed over."""
    load = partial(probe_run, threads=threads, provider=provider)
    chains = [load(_chain(length)) for length in _CHAIN]
    handed = [load(_one_output(_OUTPUT_BYTES, is_kept=is_kept)) for is_kept in (False, True)]
    short_s, long_s, kept_s, given_s = interleaved_times_s(
        [*chains, *handed], budget_s=budget_s, least_count=20
    )
    launch_s = max(0.0, (long_s - short_s) / (_CHAIN[1] - _CHAIN[0]))
    return Overheads(
        launch_s=launch_s,
        session_s=max(0.0, short_s - _CHAIN[0] * launch_s),
        copy_bytes_per_s=_OUTPUT_BYTES / max(1e-9, given_s - kept_s),
    )


def _convolutions(precision: Precision) -> list[Probe]:
    made = []
    for channels, size_px, kernel in _CONVOLUTIONS:
        weight = _weights((channels, channels, kernel, kernel))
        shape = (1, channels, size_px, size_px)
        model = _model("Conv", precision, weight, shape, shape, {"pads": [kernel // 2] * 4})
        name = f"Conv {kernel}x{kernel} {channels}x{size_px}x{size_px}"
        work_flop = 2 * channels**2 * kernel**2 * size_px**2
        made.append(Probe(name=name, model=model, work_flop=work_flop))
    return made


def _products(precision: Precision) -> list[Probe]:
    made = []
    for rows, inner, columns in _PRODUCTS:
        weight = _weights((inner, columns))
        model = _model("MatMul", precision, weight, (rows, inner), (rows, columns), {})
        name = f"{PRODUCT} {rows}x{inner}x{columns}"
        made.append(Probe(name=name, model=model, work_flop=2 * rows * inner * columns))
    return made


def _weights(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _model(
    kind: str,
    precision: Precision,
    weight: Array,
    shape_in: tuple[int, ...],
    shape_out: tuple[int, ...],
    attributes: dict[str, Attribute],
) -> bytes:
    dtype = {"fp32": "float32", "fp16": "float16", "int8": "uint8"}[precision]
    weights: dict[str, Array] = {"w": weight.astype(np.float16 if precision == "fp16" else "f4")}
    inputs: tuple[str, ...] = ("x", "w")
    if precision == "int8":
        one, zero = np.array(0.02, np.float32), np.array(128, np.uint8)
        weights = {
            "w": np.clip(weight * 30, -127, 127).astype(np.int8),
            "scale": one, "zero": zero, "zero-w": np.array(0, np.int8),
        }  # fmt: skip
        inputs = ("x", "scale", "zero", "w", "scale", "zero-w", "scale", "zero")
    node = Node(
        op_type=f"QLinear{kind}" if precision == "int8" else kind,
        inputs=inputs,
        outputs=("y",),
        attributes=attributes,
    )
    return write_model(
        [node],
        inputs=[TensorSpec(name="x", dtype=dtype, shape=shape_in)],
        outputs=[TensorSpec(name="y", dtype=dtype, shape=shape_out)],
        weights=weights,
    )


def _is_emulated(model: bytes) -> bool:
    """True if the runtime converts to another precision around the operator."""
    return any(node.op_type == "Cast" for node in optimized_nodes(model))


def _chain(length: int) -> bytes:
    nodes = [
        Node(op_type="Tanh", inputs=(f"t{index}",), outputs=(f"t{index + 1}",))
        for index in range(length)
    ]
    small = [TensorSpec(name=f"t{end}", dtype="float32", shape=(1, 8)) for end in (0, length)]
    return write_model(nodes, inputs=small[:1], outputs=small[1:], weights={})


def _one_output(nbytes: int, *, is_kept: bool) -> bytes:
    """A tensor of ``nbytes`` made from one number; handed out, or kept but for one number of it."""
    count = nbytes // 4
    nodes = [Node(op_type="Expand", inputs=("x", "shape"), outputs=("y",))]
    weights = {"shape": np.array([count])}
    if is_kept:
        nodes.append(Node(op_type="Slice", inputs=("y", "zero", "one", "zero"), outputs=("z",)))
        weights |= {"zero": np.array([0]), "one": np.array([1])}
    name, length = ("z", 1) if is_kept else ("y", count)
    return write_model(
        nodes,
        inputs=[TensorSpec(name="x", dtype="float32", shape=(1,))],
        outputs=[TensorSpec(name=name, dtype="float32", shape=(length,))],
        weights=weights,
    )
