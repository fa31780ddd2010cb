"""Tell the constants of an ONNX graph from its activations.

In: a ModelProto.  Out: names and nodes, nothing changed.
A constant is an initializer, or what deterministic nodes make of constants alone (the weights of
"light" models are made this way). Constants belong to whichever shard needs them and never cross a
cut; only activations do.
"""

from dataclasses import dataclass

import onnx

from edgekit.errors import ModelError

_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphParts:
    """Which nodes of a graph make constants, and which make activations; indices in graph order."""

    constant_nodes: tuple[int, ...]
    activation_nodes: tuple[int, ...]
    constant_names: frozenset[str]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]


def parts_of(proto: onnx.ModelProto) -> GraphParts:
    """Sort the nodes of ``proto`` (in topological order) into constants and activations.

    A node whose result is a model output counts as an activation, whatever it is made of.
    """
    graph = proto.graph
    outputs = tuple(value.name for value in graph.output)
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {tensor.values.name for tensor in graph.sparse_initializer}
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    constant_nodes, activation_nodes = [], []
    for index, node in enumerate(graph.node):
        if _is_constant(node, constants) and not set(node.output) & set(outputs):
            constants.update(name for name in node.output if name)
            constant_nodes.append(index)
        else:
            activation_nodes.append(index)
    return GraphParts(
        constant_nodes=tuple(constant_nodes),
        activation_nodes=tuple(activation_nodes),
        constant_names=frozenset(constants),
        input_names=inputs,
        output_names=outputs,
    )


def _is_constant(node: onnx.NodeProto, constants: set[str]) -> bool:
    if node.op_type == "Constant":
        return True
    given = [name for name in node.input if name]
    return bool(given) and node.op_type not in _RANDOM and all(name in constants for name in given)


def static_names(proto: onnx.ModelProto) -> set[str]:
    """Tensors whose value no input can change once every shape is fixed.

    These are the constants and everything made of them and of ``Shape`` and ``Size``.
    """
    static = set(parts_of(proto).constant_names)
    for node in proto.graph.node:
        if node.op_type in {"Shape", "Size"} or _is_constant(node, static):
            static.update(name for name in node.output if name)
    return static


def refuse_control_flow(proto: onnx.ModelProto) -> None:
    """Raises: ModelError naming the first node that holds a subgraph (If, Loop, Scan)."""
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.type in {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}:
                raise ModelError(
                    f"operator {node.op_type} ({node.name or node.output[0]}) holds a subgraph, "
                    "so its work depends on the data",
                    hint="export the model with fixed shapes and without control flow",
                )
