"""The structure of a loaded ONNX graph, as the search for blocks needs it.

In:  a LoadedModel.  Out: who makes and reads each tensor, its shape, the values of constants;
nothing is changed. Constants made by operators are computed when they are asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from edgekit.builder.load import LoadedModel
from edgekit.builder.normalize import remove_unread
from edgekit.builder.probe import run_proto
from edgekit.spec.tensors import Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphView:
    """Who makes and reads what in one graph; nodes are meant by their index in graph order."""

    loaded: LoadedModel
    maker: Mapping[str, int]
    readers: Mapping[str, tuple[int, ...]]
    """An operator that reads a tensor twice is listed twice."""
    initializers: Mapping[str, onnx.TensorProto]
    outputs: frozenset[str]
    _values: dict[str, Array] = field(default_factory=dict)

    def node(self, index: int) -> onnx.NodeProto:
        """The operator at ``index``."""
        return self.loaded.proto.graph.node[index]

    def is_constant(self, name: str) -> bool:
        """True if ``name`` depends on no input of the model."""
        return name in self.loaded.parts.constant_names

    def is_inner(self, name: str) -> bool:
        """True if one operator makes this activation, and one reads it, once, and nobody else."""
        return (
            name in self.maker
            and not self.is_constant(name)
            and name not in self.outputs
            and len(self.readers.get(name, ())) == 1
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an activation or a constant."""
        known = self.loaded.activations.get(name) or self.loaded.constants.get(name)
        return () if known is None else known.shape

    def dtype(self, name: str) -> str:
        """Type of the elements of an activation or a constant; "" if there is no such tensor."""
        known = self.loaded.activations.get(name) or self.loaded.constants.get(name)
        return "" if known is None else known.dtype

    def constant(self, name: str) -> Array:
        """Value of a constant, wherever it comes from."""
        if name not in self._values:
            tensor = self.initializers.get(name)
            self._values[name] = (
                onnx.numpy_helper.to_array(tensor) if tensor is not None else self._made(name)
            )
        return self._values[name]

    def _made(self, name: str) -> Array:
        """A constant that operators make, from a graph of these operators alone."""
        probe = onnx.ModelProto()
        probe.CopyFrom(self.loaded.proto)
        del probe.graph.output[:], probe.graph.input[:]
        probe.graph.output.append(onnx.ValueInfoProto(name=name))
        value: Array = run_proto(remove_unread(probe), {}, optimization="none")[name]
        return value


def view_of(loaded: LoadedModel) -> GraphView:
    """The structure of ``loaded``."""
    graph = loaded.proto.graph
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    return GraphView(
        loaded=loaded,
        maker={name: i for i, node in enumerate(graph.node) for name in node.output if name},
        readers={name: tuple(indices) for name, indices in readers.items()},
        initializers={tensor.name: tensor for tensor in graph.initializer},
        outputs=frozenset(loaded.parts.output_names),
    )


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of an operator by name; text as str."""
    values = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    return {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in values.items()
    }


def per_channel(value: Array, channel_count: int, rank: int) -> Array | None:
    """A constant as one number per channel of a (B, C, ...) tensor of ``rank`` axes.

    Shapes: value is a scalar, or broadcasts over all axes but the second.
    Returns: (C,) in float64; None if it varies along another axis, or adds axes.
    """
    if value.size == 1 and value.ndim <= rank:
        return np.full(channel_count, value.reshape(-1)[0], np.float64)
    if value.ndim > rank:
        return None
    padded = (1,) * (rank - value.ndim) + value.shape
    wanted = (1, channel_count) + (1,) * (rank - 2)
    return value.reshape(-1).astype(np.float64) if padded == wanted else None
