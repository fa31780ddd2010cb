"""Build the small models of integer kernels: those that quantize, and QLinear operators.

In:  words of the key, and sizes, as ``builder.kernel_shapes`` and ``planner.integer_chains`` write
them.  Out: a Branch.  Pure.
"""

from collections.abc import Callable

import numpy as np

from edgekit.profiler.probe_branch import (
    FEEDER,
    Branch,
    Maker,
    renamed,
    shares,
    small_floats,
    window_of,
)

Rule = Callable[[Maker, list[str], tuple[int, ...]], Branch | None]
_CONTRIB = "com.microsoft"


def rule_of(words: list[str]) -> Rule | None:
    """The rule for a key, split at its blanks; None if it is no integer operator."""
    return _RULES.get(words[0])


def _ends(maker: Maker) -> tuple[str, str]:
    """Scale and zero point of the input, which serve for the result too."""
    return f"{maker.prefix}x-scale", f"{maker.prefix}x-zero"


def _convolution(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    if len(sizes) != 5 or len(words) < 5:
        return None
    channels_in, channels_out, height, width, groups = sizes
    kernel, strides, dilations, pads = window_of(words)
    value = maker.fed_bytes(1, channels_in, height * strides[0], width * strides[1])
    weight = np.round(small_floats(channels_out, channels_in // groups, *kernel) * 4000)
    is_unsigned = words[-1] == "u8"
    # Calibrated unsigned weights are seldom centred, and what is not centred costs more.
    dtype, middle = (np.uint8, 121) if is_unsigned else (np.int8, 0)
    scale, zero = f"{maker.prefix}x-scale", f"{maker.prefix}x-zero"
    result = maker.node(
        "QLinearConv", value, scale, zero,
        maker.weight("w", (np.clip(weight, -120, 120) + middle).astype(dtype)),
        maker.weight("ws", np.full(channels_out, 0.01, np.float32)),
        maker.weight("wz", np.full(channels_out, middle, dtype)), scale, zero,
        maker.weight("b", np.zeros(channels_out, np.int32)),
        strides=strides, dilations=dilations, pads=pads, group=groups,
    )  # fmt: skip
    return maker.done(result, 1, channels_out, height, width, dtype="uint8")


def _sum(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    """Pixels last: a scalar against a last dimension of 1 would be looped over one by one."""
    channels, pixels = sizes
    shape = (1, channels, 1, pixels)
    others = {"constant": shape, "scalar": (1,), "channel": (1, channels, 1, 1)}
    if len(words) < 2 or words[1] not in (*others, "same"):
        return None
    one, ends = maker.fed_bytes(*shape), _ends(maker)
    if words[1] == "same":
        other = maker.fed_bytes(*shape, name="y")
    else:
        other = maker.weight("k", np.full(others[words[1]], 77, np.uint8))
    result = maker.node(words[0], one, *ends, other, *ends, *ends, domain=_CONTRIB)
    return maker.done(result, *shape, dtype="uint8")


def _lookup(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    shape = (1, *sizes, 1)
    value, ends = maker.fed_bytes(*shape), _ends(maker)
    return maker.done(
        maker.node(words[0], value, *ends, *ends, domain=_CONTRIB), *shape, dtype="uint8"
    )


def _softmax(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    value, ends = maker.fed_bytes(*sizes), _ends(maker)
    result = maker.node(words[0], value, *ends, *ends, domain=_CONTRIB, axis=-1, opset=13)
    return maker.done(result, *sizes, dtype="uint8")


def _quantize(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    value = maker.fed(1, *sizes, 1)
    scale = maker.weight("s", np.array(0.02, np.float32))
    zero = maker.weight("z", np.array(128, np.uint8))
    return maker.done(maker.node(words[0], value, scale, zero), 1, *sizes, 1, dtype="uint8")


def _dequantize(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    value, ends = maker.fed_bytes(1, *sizes, 1), _ends(maker)
    # The runtime would move a slice in front of it, but no activation.
    after = maker.node("Relu", maker.node(words[0], value, *ends))
    maker.nodes[-1] = renamed(maker.nodes[-1], f"{after}-{FEEDER}")
    return maker.done(f"{after}-{FEEDER}", 1, *sizes, 1)


def _pool(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    """With the channels last, unless the last word is "plain"."""
    if len(sizes) != 3 or len(words) < 4:
        return None
    channels, height, width = sizes
    kernel, strides, _, pads = window_of(words)
    is_last = words[-1] != "plain"
    shape = [(1, channels, height * strides[0], width * strides[1]), (1, channels, height, width)]
    if is_last:
        shape = [(1, *one[2:], channels) for one in shape]
    value = maker.fed_bytes(*shape[0])
    if words[0] == "NhwcMaxPool":
        result = maker.node(words[0], value, domain=_CONTRIB, kernel_shape=kernel,
                            strides=strides, pads=pads)  # fmt: skip
    else:
        ends = _ends(maker)
        result = maker.node(words[0], value, *ends, *ends, domain=_CONTRIB, kernel_shape=kernel,
                            strides=strides, pads=pads, channels_last=int(is_last))  # fmt: skip
    return maker.done(result, *shape[1], dtype="uint8")


def _global_pool(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    if len(sizes) != 3:
        return None
    channels, height, width = sizes
    value, ends = maker.fed_bytes(1, height, width, channels), _ends(maker)
    result = maker.node(words[0], value, *ends, *ends, domain=_CONTRIB, channels_last=1)
    return maker.done(result, 1, 1, 1, channels, dtype="uint8")


def _product(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    batch, rows, inner, columns = sizes
    if batch > 1:
        return None
    value, ends = maker.fed_bytes(rows, inner), _ends(maker)
    weight = maker.weight("w", np.round(small_floats(inner, columns) * 4000).astype(np.int8))
    scale = maker.weight("ws", np.array(0.01, np.float32))
    zero = maker.weight("wz", np.array(0, np.int8))
    if words[0] == "QGemm":
        bias = maker.weight("b", np.zeros(columns, np.int32))
        result = maker.node("QGemm", value, *ends, weight, scale, zero, bias, *ends,
                            domain=_CONTRIB)  # fmt: skip
    else:
        result = maker.node(words[0], value, *ends, weight, scale, zero, *ends)
    return maker.done(result, rows, columns, dtype="uint8")


def _concat(maker: Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    """Inputs of another scale than the result, as in a calibrated model."""
    count, run, parts = sizes
    if run < parts or count % run:
        return None
    outer, inputs = count // run, []
    for index, width in enumerate(shares(run, parts)):
        inputs += [
            maker.fed_bytes(outer, width, name=f"x{index}"),
            f"{maker.prefix}x{index}-scale", f"{maker.prefix}x{index}-zero",
        ]  # fmt: skip
    scale = maker.weight("s", np.array(0.03, np.float32))
    result = maker.node(words[0], scale, inputs[2], *inputs, domain=_CONTRIB, axis=1)
    return maker.done(result, outer, run, dtype="uint8")


_RULES: dict[str, Rule] = {
    "QLinearConv": _convolution,
    "QLinearAdd": _sum,
    "QLinearMul": _sum,
    "QLinearSigmoid": _lookup,
    "QLinearLeakyRelu": _lookup,
    "QLinearSoftmax": _softmax,
    "QLinearAveragePool": _pool,
    "NhwcMaxPool": _pool,
    "QLinearGlobalAveragePool": _global_pool,
    "QLinearMatMul": _product,
    "QGemm": _product,
    "QLinearConcat": _concat,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}
