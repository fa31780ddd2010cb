"""Find operators of an ONNX graph that compute the same as an earlier one.

In: a LoadedModel.  Out: names of operators, each with that of its twin.  Pure.
Runtimes merge such operators; a detector that takes every other pixel four times slices its rows
only twice. Two operators are twins if operator, attributes and constants are equal and their other
inputs are the same tensors or made by twins.
"""

import hashlib
from collections.abc import Mapping

import onnx

from edgekit.builder.load import LoadedModel

_BORDERS = ("QuantizeLinear", "DequantizeLinear")
"""Runtimes give every reader its own: these mark where integer kernels begin and end."""


def twins_of(loaded: LoadedModel) -> dict[str, str]:
    """Name of each operator that has an earlier twin, with the name of the first such twin."""
    graph = loaded.proto.graph
    content = {tensor.name: _digest(tensor) for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    for index in loaded.parts.constant_nodes:
        node = graph.node[index]
        signature = _signature(node, content, renamed)
        content.update({name: f"{signature} {slot}" for slot, name in enumerate(node.output)})
    first: dict[str, onnx.NodeProto] = {}
    found = {}
    for index in loaded.parts.activation_nodes:
        node = graph.node[index]
        if node.op_type in _BORDERS:
            continue
        twin = first.setdefault(_signature(node, content, renamed), node)
        if twin is not node and len(twin.output) == len(node.output):
            found[node.name] = twin.name
            firsts = [renamed.get(name, name) for name in twin.output]
            renamed.update(zip(node.output, firsts, strict=True))
    return found


def _signature(node: onnx.NodeProto, content: Mapping[str, str], renamed: Mapping[str, str]) -> str:
    """Equal for two nodes that make the same of the same tensors."""
    inputs = [content.get(name, renamed.get(name, name)) for name in node.input]
    attributes = sorted(one.SerializeToString(deterministic=True).hex() for one in node.attribute)
    text = "\n".join([node.domain, node.op_type, *inputs, "", *attributes])
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(tensor: onnx.TensorProto) -> str:
    """Of type, shape and values, whatever the name."""
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = ""
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).hexdigest()
