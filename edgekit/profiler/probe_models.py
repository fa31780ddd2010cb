"""Build the small model that holds one kernel: from its key and sizes back to operators.

In:  key and sizes as a kernel table names them.  Out: a Branch for ``onnx_writer``.  Pure.
Each branch starts with an operator that writes the kernel's input and ends with one that reads a
number of its result, as in a real network, so that the caches are as they would be there. The
rules mirror ``builder.kernel_shapes``.
"""

import math
from collections.abc import Callable

import numpy as np

from edgekit.profiler import probe_integers
from edgekit.profiler.onnx_writer import Node
from edgekit.profiler.probe_branch import (
    FEEDER,
    Branch,
    Maker,
    renamed,
    shares,
    small_floats,
    window_of,
)

_OPERANDS = ("same", "constant", "scalar", "channel")
_BINARY = {"Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "PRelu"}
_ON_BYTES = {"MaxPool", "Slice", "Split", "Transpose", "Resize"}
"""Operators that run on bytes as on floats; their keys then hold the word "u8"."""
_UNARY = {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Exp", "Elu",
          "Softplus", "Sqrt", "Neg", "Abs", "Clip", "Erf", "Gelu"}  # fmt: skip


def branch_of(key: str, sizes: tuple[int, ...], prefix: str) -> Branch | None:
    """The model of one kernel, or None for a key that has no probe."""
    words = key.split(" ")
    if (of_integers := probe_integers.rule_of(words)) is not None:
        return of_integers(Maker(prefix), words, sizes)
    is_on_bytes = "u8" in words and words[0] in _ON_BYTES
    maker = Maker(prefix, dtype="uint8" if is_on_bytes else "float32")
    rule = _RULES.get(words[0])
    if rule is not None:
        return rule(maker, words, sizes)
    if words[0] in _BINARY and words[1] in _OPERANDS and len(sizes) == 2:
        return _binary(maker, words, sizes)
    if words[0] in _UNARY and len(sizes) == 2:
        return maker.done(maker.node(words[0], maker.fed(1, *sizes)), 1, *sizes)
    return None


def _convolution(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    if len(sizes) != 5 or len(words) < 5:
        return None
    channels_in, channels_out, height, width, groups = sizes
    kernel, strides, dilations, pads = window_of(words)
    value = maker.fed(1, channels_in, height * strides[0], width * strides[1])
    weight = maker.weight("w", small_floats(channels_out, channels_in // groups, *kernel))
    result = maker.node(
        "Conv", value, weight, maker.weight("b", small_floats(channels_out)),
        strides=strides, dilations=dilations, pads=pads, group=groups,
    )  # fmt: skip
    for word in words[5:]:
        if word == "+Add":
            other = small_floats(channels_out, channels_in // groups, 1, 1)
            side = maker.node(
                "Conv", value, maker.weight("v", other), strides=strides, group=groups
            )
            maker.nodes[-1] = renamed(maker.nodes[-1], f"{side}-{FEEDER}")
            result = maker.node("Add", result, f"{side}-{FEEDER}")
        elif word.startswith("+"):
            result = maker.node(word[1:], result)
    return maker.done(result, 1, channels_out, height, width)


def _pool(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    if len(sizes) != 3 or len(words) < 4:
        return None
    channels, height, width = sizes
    kernel, strides, _, pads = window_of(words)
    value = maker.fed(1, channels, height * strides[0], width * strides[1])
    result = maker.node(words[0], value, kernel_shape=kernel, strides=strides, pads=pads)
    return maker.done(result, 1, *sizes)


def _global_pool(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    return maker.done(maker.node(words[0], maker.fed(1, *sizes)), 1, sizes[0], 1, 1)


def _gemm(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    _, rows, inner, columns = sizes
    weight = maker.weight("w", small_floats(inner, columns))
    bias = maker.weight("b", small_floats(columns))
    return maker.done(maker.node("Gemm", maker.fed(rows, inner), weight, bias), rows, columns)


def _matmul(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    batch, rows, inner, columns = sizes
    left = maker.fed(batch, rows, inner)
    right = maker.weight("w", small_floats(inner, columns))
    if batch > 1:
        right = maker.fed(batch, inner, columns, name="y")
    return maker.done(maker.node("MatMul", left, right), batch, rows, columns)


def _binary(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    channels, pixels = sizes
    # Pixels last: a scalar against a last dimension of 1 would be looped over one by one.
    shape = (1, channels, 1, pixels)
    left = maker.fed(*shape)
    shapes = {"constant": shape, "scalar": (1,), "channel": (1, channels, 1, 1)}
    if words[1] == "same":
        right = maker.fed(*shape, name="y")
    else:
        right = maker.weight("k", np.abs(small_floats(*shapes[words[1]])) + np.float32(1.5))
    return maker.done(maker.node(words[0], left, right), *shape)


def _quick_gelu(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    result = maker.node("QuickGelu", maker.fed(1, *sizes, 1), domain="com.microsoft", alpha=1.0)
    return maker.done(result, 1, *sizes, 1)


def _normalization(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    channels, pixels = sizes
    names = [
        maker.weight(name, np.abs(small_floats(channels)) + np.float32(0.5)) for name in "sbmv"
    ]
    value = maker.fed(1, channels, pixels, 1)
    return maker.done(maker.node("BatchNormalization", value, *names), 1, channels, pixels, 1)


def _concat(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    count, run, parts = sizes
    if run < parts or count % run:
        return None
    outer = count // run
    names = [
        maker.fed(outer, width, name=f"x{index}") for index, width in enumerate(shares(run, parts))
    ]
    return maker.done(maker.node("Concat", *names, axis=1), outer, run)


def _slice(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    count, run, _ = sizes
    outer = count // run
    if outer < 1 or outer * run != count:
        return None
    step = 2 if "stepped" in words else 1
    limits = {"start": 0, "end": step * run, "axis": 1, "step": step}
    bounds = [maker.weight(name, np.array([value])) for name, value in limits.items()]
    return maker.done(maker.node("Slice", maker.fed(outer, 2 * run), *bounds), outer, run)


def _gather(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    count, run, _ = sizes
    outer = count // run
    if outer < 1 or outer * run != count:
        return None
    index = maker.weight("i", np.array(1))
    value = maker.fed(outer, 2, run)
    return maker.done(maker.node("Gather", value, index, axis=1), outer, run)


def _split(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    count, run, parts = sizes
    if parts < 2 or run < parts or count % run:
        return None
    outer, widths = count // run, shares(run, parts)
    name = f"{maker.prefix}split"
    names = tuple(f"{name}{index}" for index in range(parts))
    value, bounds = maker.fed(outer, run), maker.weight("s", np.array(widths))
    maker.nodes.append(
        Node(op_type="Split", inputs=(value, bounds), outputs=names, attributes={"axis": 1},
             name=name)
    )  # fmt: skip
    return maker.done(names[0], outer, widths[0])


def _transpose(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    order = [int(digit) for digit in words[1]]
    if len(order) != len(sizes):
        return None
    result = maker.node("Transpose", maker.fed(*sizes), perm=order)
    # The runtime would move a slice in front of the transposition, but never a view.
    flat = maker.node("Reshape", result, maker.weight("flat", np.array([-1])))
    maker.nodes[-1] = renamed(maker.nodes[-1], f"{flat}-{FEEDER}")
    return maker.done(f"{flat}-{FEEDER}", math.prod(sizes))


def _softmax(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    return maker.done(maker.node(words[0], maker.fed(*sizes), axis=-1), *sizes)


def _resize(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    """A last word "last" means that the channels are the last dimension."""
    channels, height, width = sizes
    factors = next(word for word in words[2:] if word[0] == "x")[1:].split("x")
    before = [round(height / float(factors[0])), round(width / float(factors[1]))]
    if min(before) < 1 or (maker.dtype == "uint8" and words[1] != "nearest"):
        return None
    shapes: list[tuple[int, ...]] = [(1, channels, *before), (1, *sizes)]
    if words[-1] == "last":
        shapes = [(1, *before, channels), (1, height, width, channels)]
    after = maker.weight("s", np.array(shapes[1], np.int64))
    how = {"nearest_mode": words[3]} if words[1] == "nearest" else {}
    result = maker.node(
        "Resize", maker.fed(*shapes[0]), "", "", after, domain="", mode=words[1],
        coordinate_transformation_mode=words[2], **how,
    )  # fmt: skip
    return maker.done(result, *shapes[1])


def _local_response(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    channels, pixels = sizes
    value = maker.fed(1, channels, pixels, 1)
    return maker.done(maker.node("LRN", value, size=5), 1, channels, pixels, 1)


def _reduce(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    value = maker.fed(*sizes)
    return maker.done(maker.node("ReduceMean", value, axes=[1], keepdims=0), sizes[0])


def _pad(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    channels, pixels = sizes
    if channels < 2:
        return None
    margins = maker.weight("p", np.array([0, 0, 0, 0, channels - channels // 2, 0]))
    value = maker.fed(1, channels // 2, pixels)
    return maker.done(maker.node("Pad", value, margins), 1, channels, pixels)


def _view(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    shape = maker.weight("s", np.array(sizes))
    return maker.done(maker.node("Reshape", maker.fed(1, *sizes), shape), *sizes)


_RULES: dict[str, Callable[[Maker, list[str], tuple[int, ...]], Branch | None]] = {
    "Conv": _convolution,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "QuickGelu": _quick_gelu,
    "BatchNormalization": _normalization,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Transpose": _transpose,
    "Softmax": _softmax,
    "Resize": _resize,
    "LRN": _local_response,
    "ReduceMean": _reduce,
    "Pad": _pad,
    "View": _view,
}
