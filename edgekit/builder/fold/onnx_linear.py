"""Read one ONNX operator as a linear layer: a convolution, a scale per channel, an average pool.

In:  a GraphView and an operator.  Out: its numbers in float64, or why it is none.
Padding is resolved here (auto_pad), constants are found wherever they come from, and numbers that
define no function (NaN, a BatchNormalization without variance or in training mode) are told apart
from operators that are merely of another kind.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from edgekit.builder.fold.algebra import BatchNorm, Kernel
from edgekit.builder.fold.geometry import ConvGeometry, Pair
from edgekit.builder.fold.onnx_graph import GraphView, attributes_of, per_channel
from edgekit.errors import ModelError

_FLOATS = ("float32", "float64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """An average over a window that counts its padding, channel by channel."""

    geometry: ConvGeometry


Layer = Kernel | BatchNorm | Pool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """A linear operator: the activation it reads, and what it does (None: nothing)."""

    input: str
    layer: Layer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Why an operator is no linear layer. ``is_damage``: its numbers define no function."""

    reason: str
    is_damage: bool = False


def read_step(view: GraphView, index: int) -> Step | Obstacle:
    """The operator at ``index`` as a linear layer over 2-D images (B, C, H, W)."""
    node = view.node(index)
    where = f"{node.op_type} ({node.name})"
    reader = _READERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    source = next((name for name in node.input if name and not view.is_constant(name)), "")
    if reader is None or not source:
        return Obstacle(reason=f"{where} inside a branch")
    if view.dtype(source) not in _FLOATS or len(view.shape(source)) != 4:
        return Obstacle(reason=f"{where} works on {view.dtype(source)}, not on float32 images")
    try:
        return reader(view, node, source)
    except _NotLinearError as error:
        return Obstacle(reason=f"{where} {error}")
    except ModelError as error:
        return Obstacle(reason=f"{where}: {error.what}", is_damage=True)


class _NotLinearError(Exception):
    """The operator is of a linear kind, but not this one of it."""


Reader = Callable[[GraphView, onnx.NodeProto, str], Step]


def _conv(view: GraphView, node: onnx.NodeProto, source: str) -> Step:
    if node.input[0] != source or not all(
        view.is_constant(name) for name in node.input[1:] if name
    ):
        raise _NotLinearError("has weights that depend on the input")
    weight = view.constant(node.input[1])
    has_bias = len(node.input) > 2 and node.input[2]
    geometry = _geometry(view, node, source, (weight.shape[2], weight.shape[3]))
    bias = view.constant(node.input[2]) if has_bias else np.zeros(len(weight))
    return Step(input=source, layer=Kernel(geometry=geometry, weight=weight, bias=bias))


def _batch_norm(view: GraphView, node: onnx.NodeProto, source: str) -> Step:
    if not all(view.is_constant(name) for name in node.input[1:]):
        raise _NotLinearError("has statistics that depend on the input")
    if not attributes_of(node).get("spatial", 1):
        raise _NotLinearError("has statistics for each pixel")
    return Step(input=source, layer=batch_norm_of(view, node))


def batch_norm_of(view: GraphView, node: onnx.NodeProto) -> BatchNorm:
    """A BatchNormalization with constant statistics.

    Raises: ModelError if it is in training mode, or its numbers define no function.
    """
    attributes = attributes_of(node)
    if attributes.get("training_mode", 0) or len([name for name in node.output if name]) > 1:
        raise ModelError(
            "it is in training mode, where it depends on the batch",
            hint="export the model after model.eval()",
        )
    gamma, beta, mean, variance = (view.constant(name) for name in node.input[1:5])
    return BatchNorm(
        gamma=gamma,
        beta=beta,
        mean=mean,
        variance=variance,
        epsilon=float(attributes.get("epsilon", 1e-5)),
    )


def _arithmetic(view: GraphView, node: onnx.NodeProto, source: str) -> Step:
    norm = scale_of(view, node, source)
    if norm is None:
        raise _NotLinearError("is no scale or shift per channel by constants")
    return Step(input=source, layer=norm)


def scale_of(view: GraphView, node: onnx.NodeProto, source: str) -> BatchNorm | None:
    """Mul, Add, Sub or Div of ``source`` with a constant, as a BatchNorm of mean 0 and variance 1.

    Returns: None if the constant is not one number per channel, or it is no such operator.
    Raises: ModelError if a number is not finite.
    """
    first, second = node.input
    other = second if first == source else first
    shape = view.shape(source)
    if not view.is_constant(other) or view.shape(node.output[0]) != shape:
        return None
    value = per_channel(view.constant(other), shape[1], len(shape))
    if value is None or (node.op_type == "Div" and (first != source or not value.all())):
        return None
    one, zero = np.ones(shape[1]), np.zeros(shape[1])
    gamma, beta = {
        "Mul": (value, zero),
        "Div": (one / np.where(value == 0, 1, value), zero),
        "Add": (one, value),
        "Sub": (one, -value) if first == source else (-one, value),
    }[node.op_type]
    return BatchNorm(gamma=gamma, beta=beta, mean=zero, variance=one, epsilon=0.0)


def _average_pool(view: GraphView, node: onnx.NodeProto, source: str) -> Step:
    attributes = attributes_of(node)
    rows, columns = (int(size) for size in attributes["kernel_shape"])
    geometry = _geometry(view, node, source, (rows, columns), groups=view.shape(source)[1])
    if geometry.padding != (0, 0) and not attributes.get("count_include_pad", 0):
        raise _NotLinearError("does not count its padding")
    if geometry.output_size(_size(view, source)) != _size(view, node.output[0]):
        raise _NotLinearError("has windows that reach beyond the image (ceil_mode)")
    return Step(input=source, layer=Pool(geometry=geometry))


def _nothing(view: GraphView, node: onnx.NodeProto, source: str) -> Step:
    if len(node.input) > 2 and node.input[2]:
        raise _NotLinearError("may drop values (training_mode)")
    return Step(input=source, layer=None)


_READERS: dict[str, Reader] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "Mul": _arithmetic,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Div": _arithmetic,
    "AveragePool": _average_pool,
    "Identity": _nothing,
    "Dropout": _nothing,
}


def _size(view: GraphView, name: str) -> Pair:
    return view.shape(name)[2], view.shape(name)[3]


def _geometry(
    view: GraphView, node: onnx.NodeProto, source: str, kernel: Pair, *, groups: int | None = None
) -> ConvGeometry:
    """Raises: _NotLinearError if the two sides of an axis are padded differently."""
    attributes = attributes_of(node)
    stride, dilation = (_pair(attributes.get(name, (1, 1))) for name in ("strides", "dilations"))
    pads = tuple(attributes.get("pads", (0, 0, 0, 0)))
    mode = attributes.get("auto_pad", "NOTSET")
    if mode == "VALID":
        pads = (0, 0, 0, 0)
    elif mode != "NOTSET":
        pads = _same_pads(_size(view, source), kernel, stride, dilation, mode)
    if pads[:2] != pads[2:] or min(pads) < 0:
        raise _NotLinearError(f"is padded differently on its sides {pads}")
    return ConvGeometry(
        kernel=kernel,
        stride=stride,
        padding=(int(pads[0]), int(pads[1])),
        dilation=dilation,
        groups=groups if groups is not None else int(attributes.get("group", 1)),
    )


def _same_pads(
    size: Pair, kernel: Pair, stride: Pair, dilation: Pair, mode: str
) -> tuple[int, ...]:
    """The pads of auto_pad SAME_UPPER and SAME_LOWER: ceil(size / stride) outputs."""
    totals = [
        max(
            0,
            (-(-size[axis] // stride[axis]) - 1) * stride[axis]
            + dilation[axis] * (kernel[axis] - 1)
            + 1
            - size[axis],
        )
        for axis in (0, 1)
    ]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (*small, *large) if mode == "SAME_UPPER" else (*large, *small)


def _pair(value: Any) -> Pair:
    rows, columns = value
    return int(rows), int(columns)
