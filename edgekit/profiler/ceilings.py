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

import numpy as np

from edgekit.errors import EdgeKitError
from edgekit.profiler.onnx_writer import Attribute, Node, write_model
from edgekit.profiler.probe_session import (
    best_time_s,
    interleaved_times_s,
    optimized_nodes,
    probe_run,
)
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import Array, TensorSpec

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
_CONVOLUTIONS = ((64, 56, 3), (128, 28, 3), (256, 14, 3), (256, 28, 1), (512, 14, 1))
"""Channels, pixels a side, kernel: high intensity, from small tensors to large ones."""
_PRODUCTS = ((512, 512, 512), (1024, 1024, 1024))
_LARGE_BYTES = 128 << 20
_CACHED_BYTES = 128 << 10
_OTHER_BYTES = 16 << 20
_CHAIN = (4, 68)
_OUTPUT_BYTES = (4 << 10, 1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """What an inference costs besides the work of its kernels."""

    launch_s: float
    """Per operator."""
    session_s: float
    """Per inference."""
    copy_bytes_per_s: float
    """Of results handed from the runtime to Python."""


def compute_ceiling(
    precision: Precision, *, threads: int = 1, budget_s: float = 2.0
) -> float | None:
    """Fastest arithmetic [flop/s] of this precision; None if the runtime only emulates it.

    Raises: EdgeKitError subclasses if the runtime fails on fp32, which every provider runs.
    """
    share_s = budget_s / (len(_CONVOLUTIONS) + len(_PRODUCTS))
    best = 0.0
    for model, work_flop in [*_convolutions(precision), *_products(precision)]:
        try:
            if precision == "fp16" and _is_emulated(model):
                continue
            run = probe_run(model, threads=threads)
            best = max(best, work_flop / best_time_s(run, budget_s=share_s))
        except EdgeKitError:
            if precision == "fp32":
                raise
    return best or None


def sustained_ceiling(precision: Precision, *, threads: int, minutes: float) -> float:
    """Arithmetic per second [flop/s] over the last fifth of ``minutes`` of uninterrupted load.

    Raises: ModelError if the runtime does not run this precision.
    """
    model, work_flop = _convolutions(precision)[1]
    run = probe_run(model, threads=threads)
    began_s = time.perf_counter()
    tail_began_s, count = began_s + 48.0 * minutes, 0
    while (now_s := time.perf_counter()) < began_s + 60.0 * minutes or not count:
        run()
        count += now_s >= tail_began_s
    return count * work_flop / (time.perf_counter() - max(tail_began_s, began_s))


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


def overheads(*, threads: int = 1, budget_s: float = 1.5) -> Overheads:
    """Cost per operator, per inference, and per byte of results.

    Between two runs the caches are filled with other data, as other work of a frame does.
    """
    lengths = [probe_run(_chain(length), threads=threads) for length in _CHAIN]
    sizes = [probe_run(_one_output(nbytes), threads=threads) for nbytes in _OUTPUT_BYTES]
    forget = _forgetting()
    turns = [one for run in (*lengths, *sizes) for one in (forget, run)]
    short_s, long_s, small_s, large_s = interleaved_times_s(
        turns, budget_s=budget_s, least_count=20
    )[1::2]
    launch_s = max(0.0, (long_s - short_s) / (_CHAIN[1] - _CHAIN[0]))
    copied_bytes = _OUTPUT_BYTES[1] - _OUTPUT_BYTES[0]
    return Overheads(
        launch_s=launch_s,
        session_s=max(0.0, short_s - _CHAIN[0] * launch_s),
        copy_bytes_per_s=copied_bytes / max(1e-9, large_s - small_s),
    )


def _forgetting() -> Callable[[], object]:
    """Work that leaves little of the caches to whoever runs next."""
    other = np.ones(_OTHER_BYTES // 8)
    return lambda: float(other.sum())


def _convolutions(precision: Precision) -> list[tuple[bytes, int]]:
    """Models and their work [flop]."""
    made = []
    for channels, size_px, kernel in _CONVOLUTIONS:
        weight = _weights((channels, channels, kernel, kernel))
        shape = (1, channels, size_px, size_px)
        pads = [kernel // 2] * 4
        work_flop = 2 * channels**2 * kernel**2 * size_px**2
        made.append((_model("Conv", precision, weight, shape, shape, {"pads": pads}), work_flop))
    return made


def _products(precision: Precision) -> list[tuple[bytes, int]]:
    return [
        (
            _model("MatMul", precision, _weights((inner, columns)), (rows, inner),
                   (rows, columns), {}),
            2 * rows * inner * columns,
        )
        for rows, inner, columns in _PRODUCTS
    ]  # fmt: skip


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


def _one_output(nbytes: int) -> bytes:
    """A tensor of ``nbytes`` is made from one number, so that only handing it over takes time."""
    count = nbytes // 4
    return write_model(
        [Node(op_type="Expand", inputs=("x", "shape"), outputs=("y",))],
        inputs=[TensorSpec(name="x", dtype="float32", shape=(1,))],
        outputs=[TensorSpec(name="y", dtype="float32", shape=(count,))],
        weights={"shape": np.array([count])},
    )
