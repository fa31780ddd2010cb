"""Build the small model that holds one kernel: from its key and sizes back to operators.

In:  key and sizes as a kernel table names them.  Out: a Branch for ``onnx_writer``.  Pure.
Each branch starts with an operator that writes the kernel's input and ends with one that reads a
number of its result, as in a real network, so that the caches are as they would be there. The
rules mirror ``builder.kernel_shapes``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgekit.profiler.onnx_writer import Attribute, Node
from edgekit.spec.tensors import Array, TensorSpec

FEEDER = "feed"
"""In the names of the operators around the kernel: their time is not the kernel's."""
_OPERANDS = ("same", "constant", "scalar", "channel")
_BINARY = {"Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "PRelu"}
_UNARY = {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Exp", "Elu",
          "Softplus", "Sqrt", "Neg", "Abs", "Clip", "Erf", "Gelu"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Operators, weights and borders of one kernel, all named with the branch's prefix."""

    nodes: tuple[Node, ...]
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    weights: Mapping[str, Array] = field(default_factory=dict)


@dataclass
class _Maker:
    """Collects the parts of one branch."""

    prefix: str
    nodes: list[Node] = field(default_factory=list)
    inputs: list[TensorSpec] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)

    def fed(self, *shape: int, name: str = "x") -> str:
        """An input that an operator of this model has just written."""
        source, fresh = f"{self.prefix}{name}", f"{self.prefix}{name}-{FEEDER}"
        self.inputs.append(TensorSpec(name=source, dtype="float32", shape=shape))
        self.nodes.append(Node(op_type="Relu", inputs=(source,), outputs=(fresh,), name=fresh))
        return fresh

    def weight(self, name: str, array: Array) -> str:
        """A weight under the branch's prefix."""
        self.weights[f"{self.prefix}{name}"] = array
        return f"{self.prefix}{name}"

    def node(self, kind: str, *inputs: str, domain: str = "", **attributes: Attribute) -> str:
        """The next operator; its result."""
        result = f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(
            Node(
                op_type=kind, inputs=inputs, outputs=(result,), attributes=attributes, name=result,
                domain=domain,
            )
        )  # fmt: skip
        return result

    def fed_bytes(self, *shape: int, name: str = "x") -> str:
        """The same for 8-bit integers."""
        source, fresh = f"{self.prefix}{name}", f"{self.prefix}{name}-{FEEDER}"
        self.inputs.append(TensorSpec(name=source, dtype="float32", shape=shape))
        scale = self.weight(f"{name}-scale", np.array(0.02, np.float32))
        zero = self.weight(f"{name}-zero", np.array(128, np.uint8))
        self.nodes.append(
            Node(op_type="QuantizeLinear", inputs=(source, scale, zero), outputs=(fresh,),
                 name=fresh)
        )  # fmt: skip
        return fresh

    def done(self, result: str, *shape: int, dtype: str = "float32") -> Branch:
        """The finished branch: one number of the kernel's result leaves the model.

        So the result is a buffer that the runtime reuses, as between two kernels of a network.
        """
        rank = len(shape)
        bounds = (np.zeros(rank, np.int64), np.ones(rank, np.int64), np.arange(rank))
        names = [self.weight(f"{FEEDER}-{index}", value) for index, value in enumerate(bounds)]
        drop = f"{self.prefix}{FEEDER}-last"
        self.nodes.append(
            Node(op_type="Slice", inputs=(result, *names), outputs=(drop,), name=drop)
        )
        return self._branch(drop, (1,) * rank, dtype)

    def _branch(self, result: str, shape: tuple[int, ...], dtype: str) -> Branch:
        return Branch(
            nodes=tuple(self.nodes),
            inputs=tuple(self.inputs),
            output=TensorSpec(name=result, dtype=dtype, shape=shape),
            weights=self.weights,
        )


def branch_of(key: str, sizes: tuple[int, ...], prefix: str) -> Branch | None:
    """The model of one kernel, or None for a key that has no probe."""
    words = key.split(" ")
    maker, rule = _Maker(prefix), _RULES.get(words[0])
    if rule is not None:
        return rule(maker, words, sizes)
    if words[0] in _BINARY and words[1] in _OPERANDS and len(sizes) == 2:
        return _binary(maker, words, sizes)
    if words[0] in _UNARY and len(sizes) == 2:
        return maker.done(maker.node(words[0], maker.fed(1, *sizes)), 1, *sizes)
    return None


def _floats(*shape: int) -> Array:
    generator = np.random.default_rng(math.prod(shape) % 9973)
    numbers: Array = generator.random(shape, np.float32)
    return np.asarray((numbers - np.float32(0.5)) / np.float32(16))


def _window(words: list[str]) -> tuple[list[int], list[int], list[int], list[int]]:
    """kernel_shape, strides, dilations, and pads that keep the size at stride 1."""
    kernel = [int(part) for part in words[1].split("x")]
    strides = [int(part) for part in words[2][1:].split("x")]
    dilations = [int(part) for part in words[3][1:].split("x")]
    strides, dilations = strides * (2 // len(strides)), dilations * (2 // len(dilations))
    spans = [(size - 1) * dilation for size, dilation in zip(kernel, dilations, strict=True)]
    before = [span // 2 for span in spans]
    after = [span - one for span, one in zip(spans, before, strict=True)]
    return kernel, strides, dilations, before + after


def _convolution(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    if len(sizes) != 5 or len(words) < 5:
        return None
    channels_in, channels_out, height, width, groups = sizes
    kernel, strides, dilations, pads = _window(words)
    value = maker.fed(1, channels_in, height * strides[0], width * strides[1])
    weight = maker.weight("w", _floats(channels_out, channels_in // groups, *kernel))
    result = maker.node(
        "Conv", value, weight, maker.weight("b", _floats(channels_out)),
        strides=strides, dilations=dilations, pads=pads, group=groups,
    )  # fmt: skip
    for word in words[5:]:
        if word == "+Add":
            other = _floats(channels_out, channels_in // groups, 1, 1)
            side = maker.node(
                "Conv", value, maker.weight("v", other), strides=strides, group=groups
            )
            maker.nodes[-1] = _renamed(maker.nodes[-1], f"{side}-{FEEDER}")
            result = maker.node("Add", result, f"{side}-{FEEDER}")
        elif word.startswith("+"):
            result = maker.node(word[1:], result)
    return maker.done(result, 1, channels_out, height, width)


def _renamed(node: Node, result: str) -> Node:
    return Node(
        op_type=node.op_type, inputs=node.inputs, outputs=(result,), attributes=node.attributes,
        domain=node.domain, name=result,
    )  # fmt: skip


def _quantized(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    if len(sizes) != 5 or len(words) < 5:
        return None
    channels_in, channels_out, height, width, groups = sizes
    kernel, strides, dilations, pads = _window(words)
    value = maker.fed_bytes(1, channels_in, height * strides[0], width * strides[1])
    weight = np.round(_floats(channels_out, channels_in // groups, *kernel) * 4000)
    is_unsigned = words[-1] == "u8"
    dtype, middle = (np.uint8, 128) if is_unsigned else (np.int8, 0)
    scale, zero = f"{maker.prefix}x-scale", f"{maker.prefix}x-zero"
    result = maker.node(
        "QLinearConv", value, scale, zero,
        maker.weight("w", np.clip(weight + middle, -128 + middle, 127 + middle).astype(dtype)),
        maker.weight("ws", np.full(channels_out, 0.01, np.float32)),
        maker.weight("wz", np.full(channels_out, middle, dtype)), scale, zero,
        maker.weight("b", np.zeros(channels_out, np.int32)),
        strides=strides, dilations=dilations, pads=pads, group=groups,
    )  # fmt: skip
    return maker.done(result, 1, channels_out, height, width, dtype="uint8")


def _quantized_sum(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    one, other = maker.fed_bytes(1, *sizes, 1), maker.fed_bytes(1, *sizes, 1, name="y")
    scale, zero = f"{maker.prefix}x-scale", f"{maker.prefix}x-zero"
    result = maker.node(
        words[0], one, scale, zero, other, scale, zero, scale, zero, domain="com.microsoft"
    )
    return maker.done(result, 1, *sizes, 1, dtype="uint8")


def _pool(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    if len(sizes) != 3 or len(words) < 4:
        return None
    channels, height, width = sizes
    kernel, strides, _, pads = _window(words)
    value = maker.fed(1, channels, height * strides[0], width * strides[1])
    result = maker.node(words[0], value, kernel_shape=kernel, strides=strides, pads=pads)
    return maker.done(result, 1, *sizes)


def _global_pool(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    return maker.done(maker.node(words[0], maker.fed(1, *sizes)), 1, sizes[0], 1, 1)


def _gemm(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    _, rows, inner, columns = sizes
    weight = maker.weight("w", _floats(inner, columns))
    bias = maker.weight("b", _floats(columns))
    return maker.done(maker.node("Gemm", maker.fed(rows, inner), weight, bias), rows, columns)


def _matmul(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    batch, rows, inner, columns = sizes
    left = maker.fed(batch, rows, inner)
    right = maker.weight("w", _floats(inner, columns))
    if batch > 1:
        right = maker.fed(batch, inner, columns, name="y")
    return maker.done(maker.node("MatMul", left, right), batch, rows, columns)


def _binary(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    channels, pixels = sizes
    # Pixels last: a scalar against a last dimension of 1 would be looped over one by one.
    shape = (1, channels, 1, pixels)
    left = maker.fed(*shape)
    shapes = {"constant": shape, "scalar": (1,), "channel": (1, channels, 1, 1)}
    if words[1] == "same":
        right = maker.fed(*shape, name="y")
    else:
        right = maker.weight("k", np.abs(_floats(*shapes[words[1]])) + np.float32(1.5))
    return maker.done(maker.node(words[0], left, right), *shape)


def _quick_gelu(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    result = maker.node("QuickGelu", maker.fed(1, *sizes, 1), domain="com.microsoft", alpha=1.0)
    return maker.done(result, 1, *sizes, 1)


def _normalization(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    channels, pixels = sizes
    names = [maker.weight(name, np.abs(_floats(channels)) + np.float32(0.5)) for name in "sbmv"]
    value = maker.fed(1, channels, pixels, 1)
    return maker.done(maker.node("BatchNormalization", value, *names), 1, channels, pixels, 1)


def _concat(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    count, run, parts = sizes
    if run < parts or count % run:
        return None
    outer = count // run
    names = [
        maker.fed(outer, width, name=f"x{index}") for index, width in enumerate(_shares(run, parts))
    ]
    return maker.done(maker.node("Concat", *names, axis=1), outer, run)


def _shares(total: int, parts: int) -> list[int]:
    """``total`` as equal whole shares, the last one of the rest."""
    return [total // parts] * (parts - 1) + [total - total // parts * (parts - 1)]


def _slice(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    count, run, _ = sizes
    outer = count // run
    if outer < 1 or outer * run != count:
        return None
    bounds = [maker.weight(name, np.array([value])) for name, value in
              (("start", 0), ("end", run), ("axis", 1))]  # fmt: skip
    return maker.done(maker.node("Slice", maker.fed(outer, 2 * run), *bounds), outer, run)


def _gather(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    count, run, _ = sizes
    outer = count // run
    if outer < 1 or outer * run != count:
        return None
    index = maker.weight("i", np.array(1))
    value = maker.fed(outer, 2, run)
    return maker.done(maker.node("Gather", value, index, axis=1), outer, run)


def _split(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    count, run, parts = sizes
    if parts < 2 or run < parts or count % run:
        return None
    outer, widths = count // run, _shares(run, parts)
    name = f"{maker.prefix}split"
    names = tuple(f"{name}{index}" for index in range(parts))
    value, bounds = maker.fed(outer, run), maker.weight("s", np.array(widths))
    maker.nodes.append(
        Node(op_type="Split", inputs=(value, bounds), outputs=names, attributes={"axis": 1},
             name=name)
    )  # fmt: skip
    return maker.done(names[0], outer, widths[0])


def _transpose(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    order = [int(digit) for digit in words[1]]
    if len(order) != len(sizes):
        return None
    result = maker.node("Transpose", maker.fed(*sizes), perm=order)
    # The runtime would move a slice in front of the transposition, but never a view.
    flat = maker.node("Reshape", result, maker.weight("flat", np.array([-1])))
    maker.nodes[-1] = _renamed(maker.nodes[-1], f"{flat}-{FEEDER}")
    return maker.done(f"{flat}-{FEEDER}", math.prod(sizes))


def _softmax(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    return maker.done(maker.node(words[0], maker.fed(*sizes), axis=-1), *sizes)


def _resize(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    channels, height, width = sizes
    factors = [float(part) for part in words[-1][1:].split("x")]
    before = [round(height / factors[0]), round(width / factors[1])]
    if min(before) < 1:
        return None
    value = maker.fed(1, channels, *before)
    after = maker.weight("s", np.array([1, channels, height, width], np.int64))
    how = {"nearest_mode": words[3]} if words[1] == "nearest" else {}
    result = maker.node(
        "Resize", value, "", "", after, domain="", mode=words[1],
        coordinate_transformation_mode=words[2], **how,
    )  # fmt: skip
    return maker.done(result, 1, *sizes)


def _local_response(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    channels, pixels = sizes
    value = maker.fed(1, channels, pixels, 1)
    return maker.done(maker.node("LRN", value, size=5), 1, channels, pixels, 1)


def _reduce(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    value = maker.fed(*sizes)
    return maker.done(maker.node("ReduceMean", value, axes=[1], keepdims=0), sizes[0])


def _pad(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch | None:
    channels, pixels = sizes
    if channels < 2:
        return None
    margins = maker.weight("p", np.array([0, 0, 0, 0, channels - channels // 2, 0]))
    value = maker.fed(1, channels // 2, pixels)
    return maker.done(maker.node("Pad", value, margins), 1, channels, pixels)


def _view(maker: _Maker, words: list[str], sizes: tuple[int, ...]) -> Branch:
    shape = maker.weight("s", np.array(sizes))
    return maker.done(maker.node("Reshape", maker.fed(1, *sizes), shape), *sizes)


_RULES: dict[str, Callable[[_Maker, list[str], tuple[int, ...]], Branch | None]] = {
    "Conv": _convolution,
    "QLinearConv": _quantized,
    "QLinearAdd": _quantized_sum,
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
