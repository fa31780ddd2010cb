"""Put operators in the place of others.

In:  a graph and its new operators.  Out: the graph changed, without constants that nobody reads.
"""

from collections.abc import Iterable

import onnx


def give_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Make ``nodes`` the operators of ``graph``, in their order."""
    kept = list(nodes)
    read = {name for node in kept for name in node.input}
    read |= {value.name for value in graph.output}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)
