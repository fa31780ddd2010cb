"""Unsigned integers at a shard's borders, in words that TensorRT knows.

In:  a shard.  Out: the same function without QuantizeLinear and DequantizeLinear of uint8.  Pure.
TensorRT rounds to int8 with zero points of 0 and to nothing else; uint8 it reads and writes, but
only to cast it. So what an x86 or ARM shard sends as uint8 is dequantized by Cast, Sub and Mul, and
what such a shard is to get is rounded by Div, Round, Add, Clip and Cast: the steps of the operators
themselves, in the same order, so that the numbers are the same bit by bit.

Source: ONNX QuantizeLinear-13 and DequantizeLinear-13 (round half to even, saturate); TensorRT's
DataType.UINT8 (network inputs and outputs only, by an explicit cast).
"""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from edgekit.builder.fold.onnx_write import Names
from edgekit.builder.tensorrt_build.rewrite import give_nodes

_FLOAT, _UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
_ROUND, _BACK = "QuantizeLinear", "DequantizeLinear"


def without_unsigned(proto: onnx.ModelProto) -> onnx.ModelProto:
    """``proto`` with every rounding of its uint8 inputs and outputs written out in floats.

    Rounding to uint8 inside of it, or with a scale for each channel, stays as it is.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    inputs = {value.name for value in graph.input}
    read = {name for node in graph.node for name in node.input}
    outputs = {value.name for value in graph.output} - read
    writer = _Writer(result)
    for node in proto.graph.node:
        if node.op_type == _BACK and node.input[0] in inputs and writer.is_unsigned(node):
            writer.dequantize(node)
        elif node.op_type == _ROUND and node.output[0] in outputs and writer.is_unsigned(node):
            writer.round(node)
        else:
            writer.nodes.append(node)
    if len(writer.nodes) == len(proto.graph.node):
        return result
    give_nodes(graph, writer.nodes)
    return result


class _Writer:
    """Collects operators; its constants go straight into the graph."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._graph, self._names = proto.graph, Names(proto)
        self._constants = {tensor.name: tensor for tensor in proto.graph.initializer}

    def is_unsigned(self, node: onnx.NodeProto) -> bool:
        """Whether a rounding is one to uint8, with one scale for all numbers."""
        found = [self._constants.get(name) for name in node.input[1:]]
        if len(found) != 2 or found[0] is None or found[1] is None:
            return False
        kinds = [one.data_type for one in found if one is not None]
        sizes = [onnx.numpy_helper.to_array(one).size for one in found if one is not None]
        return kinds == [_FLOAT, _UINT8] and sizes == [1, 1]

    def dequantize(self, node: onnx.NodeProto) -> None:
        """(x - zero point) * scale."""
        scale, zero = self._scale_zero(node)
        wide = self._step(node, "Cast", [node.input[0]], to=_FLOAT)
        shifted = self._step(node, "Sub", [wide, self._constant(node, "zero", zero)])
        factor = self._constant(node, "scale", scale)
        self._step(node, "Mul", [shifted, factor], node.output[0])

    def round(self, node: onnx.NodeProto) -> None:
        """Half to even of x / scale, plus the zero point, within 0..255."""
        scale, zero = self._scale_zero(node)
        steps = self._step(node, "Div", [node.input[0], self._constant(node, "scale", scale)])
        whole = self._step(node, "Round", [steps])
        shifted = self._step(node, "Add", [whole, self._constant(node, "zero", zero)])
        ends = [self._constant(node, "lowest", 0.0), self._constant(node, "highest", 255.0)]
        within = self._step(node, "Clip", [shifted, *ends])
        self._step(node, "Cast", [within], node.output[0], to=_UINT8)

    def _scale_zero(self, node: onnx.NodeProto) -> tuple[float, float]:
        scale, zero = (
            onnx.numpy_helper.to_array(self._constants[name]).item() for name in node.input[1:]
        )
        return scale, float(zero)

    def _constant(self, node: onnx.NodeProto, what: str, value: float) -> str:
        name = self._names.free(f"{node.output[0]}_{what}_as_float")
        tensor = onnx.numpy_helper.from_array(np.asarray(value, dtype=np.float32), name)
        self._graph.initializer.append(tensor)
        return name

    def _step(
        self, node: onnx.NodeProto, kind: str, inputs: Sequence[str], output: str = "", **more: int
    ) -> str:
        made = output or self._names.free(f"{node.output[0]}_{kind.lower()}")
        name = self._names.free(f"{node.name or node.output[0]}_as_{kind.lower()}")
        self.nodes.append(onnx.helper.make_node(kind, inputs, [made], name, **more))
        return made
