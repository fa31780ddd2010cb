"""The layers of an ONNX graph that can be factorised, and their factors as ONNX operators.

In:  a GraphView, and factors from ``low_rank``.  Out: kernels with the size of their input, and
operators that compute the same tensor names; nothing is changed here.
A Gemm or MatMul by a constant is a 1x1 convolution over an image of one column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from edgekit.builder.fold.algebra import Kernel
from edgekit.builder.fold.geometry import ConvGeometry, Pair
from edgekit.builder.fold.low_rank import sequence_work_flop
from edgekit.builder.fold.onnx_graph import GraphView, attributes_of
from edgekit.builder.fold.onnx_linear import Obstacle, read_step
from edgekit.builder.normalize import value_info
from edgekit.errors import ModelError
from edgekit.spec.tensors import TensorSpec

KINDS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DenseLayer:
    """One operator that multiplies an activation by a constant matrix per tap."""

    node: onnx.NodeProto
    kernel: Kernel
    source: TensorSpec
    batch_count: int
    size: Pair
    """(rows, columns) of the image that the kernel runs over, for each of the batch."""

    def work_flop(self, kernels: Sequence[Kernel]) -> int:
        """Work of ``kernels`` in this layer's place."""
        return self.batch_count * sequence_work_flop(kernels, self.size)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operators:
    """Operators that compute a layer, and the weights that they add to the graph."""

    nodes: tuple[onnx.NodeProto, ...]
    weights: tuple[onnx.TensorProto, ...] = ()


def read_layer(view: GraphView, index: int) -> DenseLayer | str:
    """The operator at ``index`` as a dense layer, or why it cannot be factorised.

    Raises: ModelError naming the operator if its weights hold NaN or infinity.
    """
    node = view.node(index)
    if _is_quantized(view, node.input[1]):
        return "has integer weights"
    try:
        return _read_conv(view, index) if node.op_type == "Conv" else _read_product(view, node)
    except ModelError as error:
        raise ModelError(f"{node.op_type} ({node.name}): {error.what}", hint=error.hint) from None


def _is_quantized(view: GraphView, weight: str) -> bool:
    """The runtime multiplies these as integers; float factors would undo that."""
    maker = view.maker.get(weight)
    return maker is not None and view.node(maker).op_type == "DequantizeLinear"


def _read_product(view: GraphView, node: onnx.NodeProto) -> DenseLayer | str:
    names = [name for name in node.input if name]
    if view.is_constant(names[0]) or not all(view.is_constant(name) for name in names[1:]):
        return "multiplies or adds what depends on the input"
    left, right = view.shape(names[0]), view.shape(names[1])
    if view.dtype(names[0]) != "float32" or len(left) < 2 or len(right) != 2:
        return f"multiplies {view.dtype(names[0])} of shapes {left} and {right}"
    attributes = attributes_of(node)
    matrix = view.constant(names[1])
    weight = matrix if attributes.get("transB", 0) else matrix.T
    in_count = weight.shape[1]
    rows = view.loaded.activations[names[0]].element_count // in_count
    return DenseLayer(
        node=node,
        kernel=Kernel(
            geometry=ConvGeometry.square(1),
            weight=weight[:, :, None, None],
            bias=np.zeros(len(weight)),
        ),
        source=view.loaded.activations[names[0]],
        batch_count=1,
        size=(rows, 1),
    )


def _read_conv(view: GraphView, index: int) -> DenseLayer | str:
    step = read_step(view, index)
    if isinstance(step, Obstacle):
        if step.is_damage:
            raise ModelError(step.reason, hint="check the model's weights")
        return step.reason
    assert isinstance(step.layer, Kernel), "a Conv is read as a kernel"
    if step.layer.geometry.groups != 1:
        return f"has {step.layer.geometry.groups} groups"
    shape = view.shape(step.input)
    return DenseLayer(
        node=view.node(index),
        kernel=step.layer,
        source=view.loaded.activations[step.input],
        batch_count=shape[0],
        size=(shape[2], shape[3]),
    )


def rewrite(layer: DenseLayer, kernels: Sequence[Kernel]) -> Operators:
    """``kernels`` in sequence as operators; the last one keeps the layer's name, bias and output.

    New tensors and weights are named after the output, which is unique in the graph.
    """
    output, source = layer.node.output[0], layer.node.input[0]
    nodes, weights = [], []
    for number, kernel in enumerate(kernels):
        is_first, is_last = number == 0, number == len(kernels) - 1
        stem = f"{output}.rank{number}"
        added = _weights(layer.node.op_type, kernel, stem, has_zero_bias=not is_last)
        stay = layer.node.input[2:] if is_last else []
        nodes.append(
            onnx.helper.make_node(
                layer.node.op_type,
                [source, *(tensor.name for tensor in added), *stay],
                [output if is_last else stem],
                name=layer.node.name if is_last else f"{layer.node.name}.rank{number}",
                **_attributes(layer.node, kernel, is_first=is_first, is_last=is_last),
            )
        )
        weights += added
        source = stem
    return Operators(nodes=tuple(nodes), weights=tuple(weights))


def _weights(
    op_type: str, kernel: Kernel, stem: str, *, has_zero_bias: bool
) -> list[onnx.TensorProto]:
    """Conv: (O, I, kH, kW). Gemm, MatMul: (I, O). Before opset 11 no Gemm may lack its bias."""
    values = {f"{stem}.weight": kernel.weight}
    if op_type != "Conv":
        values = {f"{stem}.weight": kernel.weight[:, :, 0, 0].T}
    if op_type == "Gemm" and has_zero_bias:
        values[f"{stem}.bias"] = np.zeros(len(kernel.bias))
    return [
        onnx.numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
        for name, value in values.items()
    ]


def alone(view: GraphView, layer: DenseLayer, operators: Operators) -> onnx.ModelProto:
    """A model of nothing but this layer, computed by ``operators``."""
    read = {name for node in operators.nodes for name in node.input if view.is_constant(name)}
    values = {name: np.asarray(view.constant(name)) for name in sorted(read)}
    graph = onnx.helper.make_graph(
        operators.nodes,
        "layer",
        [value_info(layer.source)],
        [value_info(view.loaded.activations[layer.node.output[0]])],
        [*operators.weights, *(onnx.numpy_helper.from_array(v, n) for n, v in values.items())],
    )
    proto = view.loaded.proto
    return onnx.helper.make_model(
        graph, opset_imports=list(proto.opset_import), ir_version=proto.ir_version
    )


def _attributes(
    node: onnx.NodeProto, kernel: Kernel, *, is_first: bool, is_last: bool
) -> dict[str, Any]:
    """Gemm: the first factor takes transA, the last alpha and beta."""
    geometry = kernel.geometry
    if node.op_type == "Conv":
        return {
            "kernel_shape": geometry.kernel,
            "strides": geometry.stride,
            "pads": (*geometry.padding, *geometry.padding),
            "dilations": geometry.dilation,
            "group": 1,
        }
    kept = {"transA"} if is_first else set()
    kept |= {"alpha", "beta"} if is_last else set()
    return {name: value for name, value in attributes_of(node).items() if name in kept}
