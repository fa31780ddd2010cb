"""Roundings where TensorRT fuses them: once behind a layer, and of weights as floats.

In:  a quantized graph.  Out: one that computes the same numbers.  Pure.
A convolution and its activation become one kernel only if nothing is rounded between them. And
TensorRT 8 takes no integers as constants: weights are floats that it rounds itself while it builds,
here floats that lie on the integers' grid already, so that rounding them gives these integers.

Source: NVIDIA's guide to explicit quantization ("Q/DQ placement", "quantized weights").
"""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from edgekit.builder.fold.onnx_write import Names
from edgekit.builder.tensorrt_build.rewrite import give_nodes
from edgekit.spec.tensors import Array

_ROUND, _BACK = "QuantizeLinear", "DequantizeLinear"
_ACTIVATIONS = ("Relu", "Clip")
"""They do not change what lies on the grid, but for cutting it off."""


def rounded_once(proto: onnx.ModelProto) -> onnx.ModelProto:
    """``proto`` without roundings before an activation whose output is rounded to the same grid."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    kept_names = {value.name for value in graph.output}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    dropped = set()
    for node in graph.node:
        back = makers.get(node.input[0]) if node.op_type in _ACTIVATIONS else None
        if back is None or back.op_type != _BACK or back.input[0] not in makers:
            continue
        first = makers[back.input[0]]
        between = {back.output[0], first.output[0]}
        behind = readers.get(node.output[0], [])
        if first.op_type != _ROUND or kept_names & {*between, node.output[0]} or len(behind) != 1:
            continue
        alone = all(len(readers[name]) == 1 for name in between)
        if alone and behind[0].op_type == _ROUND and _is_same_grid(first, behind[0], constants):
            node.input[0] = first.input[0]
            dropped |= between
    give_nodes(graph, (node for node in graph.node if not dropped & set(node.output)))
    return result


def with_float_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """``proto`` with its integer constants as the floats they stand for, rounded in the graph."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph, names = result.graph, Names(proto)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in proto.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        stored = constants.get(node.input[0]) if node.op_type == _BACK else None
        if stored is not None and stored.data_type == onnx.TensorProto.INT8:
            floats = names.free(f"{node.output[0]}_as_float")
            values = onnx.numpy_helper.from_array(_values(node, constants), floats)
            graph.initializer.append(values)
            copy.input[0] = names.free(f"{node.output[0]}_rounded")
            name = names.free(f"{node.name or node.output[0]}_round")
            round_again = onnx.helper.make_node(
                _ROUND, [floats, *node.input[1:]], [copy.input[0]], name
            )
            round_again.attribute.extend(node.attribute)
            nodes.append(round_again)
        nodes.append(copy)
    give_nodes(graph, nodes)
    return result


def _is_same_grid(
    one: onnx.NodeProto, other: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> bool:
    """Whether two roundings have one scale and one zero point, equal to the last bit."""
    pairs = list(zip(one.input[1:], other.input[1:], strict=False))
    if len(one.input) != len(other.input) or any(
        name not in constants for pair in pairs for name in pair
    ):
        return False
    return all(
        np.array_equal(*(onnx.numpy_helper.to_array(constants[name]) for name in pair))
        and constants[pair[0]].data_type == constants[pair[1]].data_type
        for pair in pairs
    )


def _values(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Array:
    """What a DequantizeLinear of a constant gives, float32; its zero point is 0."""
    integers = onnx.numpy_helper.to_array(constants[node.input[0]]).astype(np.float32)
    scale = onnx.numpy_helper.to_array(constants[node.input[1]])
    if scale.size > 1:
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
        shape = [1] * integers.ndim
        shape[axis] = -1
        scale = scale.reshape(shape)
    values: Array = integers * scale
    return values
