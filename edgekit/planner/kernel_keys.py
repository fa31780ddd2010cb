"""Read a kernel's key and sizes: its arithmetic, its traffic, and the numbers its speed depends on.

In:  key and sizes as ``builder.kernel_shapes`` and ``planner.launches`` write them.
Out: a KernelFacts.  Pure.
"""

import math
from dataclasses import dataclass

ITEM_BYTES = 4
BLOCK = 8
_PAGE_BYTES = 4096
_CONVOLUTIONS = ("Conv", "ConvTranspose", "QLinearConv")
_PRODUCTS = ("Gemm", "MatMul", "QLinearMatMul", "QGemm")
_POOLS = ("MaxPool", "AveragePool", "NhwcMaxPool", "QLinearAveragePool")
_COPIES = ("Concat", "QLinearConcat", "Slice", "Split", "Gather")
_HEAVY_FLOP = {
    "Sigmoid": 10,
    "Tanh": 10,
    "QuickGelu": 12,
    "Softmax": 12,
    "Exp": 8,
    "LRN": 30,
    "QLinearAdd": 5,
    "QLinearMul": 5,
    "QLinearSoftmax": 12,
}
_ALIKE = ("Add", "Sub", "Mul", "Sum", "Max", "Min")
"""One instruction an element each: memory is what they wait for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFacts:
    """What a prediction needs to know of a kernel."""

    family: str
    """Kernels of one family are compared with each other."""
    work_flop: float
    """As launched: channels padded to whole blocks are worked on too."""
    traffic_bytes: float
    weight_bytes: float = 0.0
    features: tuple[float, ...]
    """Logarithms to base 2 of the sizes, so that a distance of 1 means a factor of two."""


def kernel_facts(key: str, sizes: tuple[int, ...]) -> KernelFacts:
    """Facts of one kernel; an unknown key gets its traffic only."""
    words = key.split(" ")
    if words[0] in _CONVOLUTIONS and len(sizes) == 5:
        return _convolution(words, sizes)
    if words[0] in _PRODUCTS and len(sizes) == 4:
        return _product(words[0], sizes)
    if words[0] in _POOLS and len(sizes) == 3 and len(words) > 2:
        taps = math.prod(_numbers(words[1]))
        stride = math.prod(_pair(words[2][1:]))
        count = math.prod(sizes)
        item = _item_bytes(words)
        return KernelFacts(
            family=f"{words[0]} {words[-1]}" if words[-1] in ("u8", "plain") else words[0],
            work_flop=count * taps,
            traffic_bytes=item * count * (1 + stride),
            features=(_log(sizes[0]), _log(sizes[1] * sizes[2]), _log(taps), _log(stride)),
        )
    return _mover(key, words, sizes)


def _convolution(words: list[str], sizes: tuple[int, ...]) -> KernelFacts:
    channels_in, channels_out, height, width, groups = sizes
    taps = math.prod(_numbers(words[1]))
    stride = math.prod(_pair(words[2][1:]))
    dilation = _pair(words[3][1:])[0]
    form = " ".join(words[4:])
    padded = channels_out
    if "blocked" in form or "direct" in form:
        padded = -(-channels_out // BLOCK) * BLOCK
    if "blocked" in form:
        channels_in = -(-channels_in // BLOCK) * BLOCK
    pixels = height * width
    item = 1 if words[0] == "QLinearConv" else ITEM_BYTES
    weights = padded * (channels_in // groups) * taps
    traffic = item * (weights + channels_in * pixels * stride + padded * pixels)
    # A register tile holds four blocks of filters; a last group of fewer is less efficient.
    blocks = max(1, padded // BLOCK)
    filled = -(-blocks // 4) * 4 / blocks if "dense" in form else 1.0
    return KernelFacts(
        family=f"{words[0]} {form}",
        work_flop=2.0 * padded * pixels * (channels_in // groups) * taps,
        traffic_bytes=traffic,
        weight_bytes=item * weights,
        features=(
            _log(channels_in // groups if "grouped" in form else channels_in),
            _log(padded),
            _log(pixels),
            0.5 * _log(width),
            1.5 * _log(taps) if taps < 9 else 1.5 * _log(9) + _log(taps / 9),
            2.0 * (stride > 1),
            1.0 * (dilation > 1),
            2.0 * _log(filled),
            0.5 * _log(groups if "grouped" in form else 1),
        ),
    )


def _product(kind: str, sizes: tuple[int, ...]) -> KernelFacts:
    batch, rows, inner, columns = sizes
    item = 1 if kind.startswith("Q") else ITEM_BYTES
    return KernelFacts(
        family=kind,
        work_flop=2.0 * batch * rows * inner * columns,
        traffic_bytes=item * batch * (rows * inner + inner * columns + rows * columns),
        weight_bytes=float(item * inner * columns) if batch == 1 else 0.0,
        features=(_log(batch), _log(rows), _log(inner), _log(columns)),
    )


def _mover(key: str, words: list[str], sizes: tuple[int, ...]) -> KernelFacts:
    kind = words[0]
    if kind in _COPIES and len(sizes) == 3:
        count, run, _ = sizes
        features: tuple[float, ...] = (_log(count), 0.5 * _log(min(run, 4096)))
        key = " ".join(words[: 1 + ("stepped" in words)] + ["u8"] * ("u8" in words))
    elif kind in ("ReorderInput", "ReorderOutput"):
        count = math.prod(sizes)
        # Planes of whole pages lie in the same sets of a cache and push each other out.
        is_paged = ITEM_BYTES * count // max(1, sizes[0]) % _PAGE_BYTES == 0
        features = (_log(count), 0.5 * _log(sizes[0]), 2.0 * is_paged)
    elif kind in ("Softmax", "QLinearSoftmax"):
        count = math.prod(sizes)
        features = (_log(count), 0.5 * _log(sizes[-1]))
    elif kind == "View":
        return KernelFacts(family=kind, work_flop=0.0, traffic_bytes=0.0, features=(0.0,))
    else:
        count = math.prod(sizes)
        features = (_log(count),)
        if kind in _ALIKE:
            key = " ".join(["Add", *words[1:]])
        elif kind in (*_POOLS, *_PRODUCTS, *_COPIES):
            # Of other sizes than those of its family, with which it cannot be compared.
            key = f"{kind} of {len(sizes)}"
    return KernelFacts(
        family=key,
        work_flop=float(count * _HEAVY_FLOP.get(kind, 1)),
        traffic_bytes=float(2 * _item_bytes(words) * count),
        features=features,
    )


def _item_bytes(words: list[str]) -> float:
    """Bytes of an element, read and written alike on average."""
    if words[0] in ("QuantizeLinear", "DequantizeLinear"):
        return (ITEM_BYTES + 1) / 2
    is_integer = words[0].startswith(("QLinear", "Nhwc")) or "u8" in words
    return 1 if is_integer else ITEM_BYTES


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("x"))


def _pair(text: str) -> tuple[int, ...]:
    numbers = _numbers(text)
    return numbers * 2 if len(numbers) == 1 else numbers


def _log(value: float) -> float:
    return math.log2(max(value, 1e-9))
