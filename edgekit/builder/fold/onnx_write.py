"""Write kernels back into an ONNX graph.

In:  a GraphView, kernels, the names that are free.  Out: a Rewrite: the operators to drop, the new
ones with their weights, and the shape of every new tensor; ``apply_rewrites`` makes a new graph of
it and never changes the old one. Weights are rounded here, once, to the type of the model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import helper

from edgekit.builder.constants import parts_of
from edgekit.builder.fold.algebra import Floats, Kernel
from edgekit.builder.fold.onnx_graph import GraphView
from edgekit.builder.fold.onnx_linear import Pool
from edgekit.builder.load import LoadedModel
from edgekit.builder.normalize import remove_unread
from edgekit.spec.tensors import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewrite:
    """New operators in the place of old ones; ``output`` keeps its name."""

    name: str
    output: str
    removed: frozenset[int]
    nodes: tuple[onnx.NodeProto, ...]
    weights: tuple[onnx.TensorProto, ...]
    specs: tuple[TensorSpec, ...]
    """Every tensor that the new operators make."""


class Names:
    """Hands out names that no operator and no tensor of a graph has yet."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        graph = proto.graph
        self._taken = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
        for node in graph.node:
            self._taken.update((node.name, *node.input, *node.output))

    def free(self, wish: str) -> str:
        """``wish``, with a number if it is taken."""
        name, number = wish, 1
        while name in self._taken:
            number += 1
            name = f"{wish}_{number}"
        self._taken.add(name)
        return name


@dataclass(slots=True, kw_only=True, eq=False)
class Draft:
    """A Rewrite in the making: each method adds an operator and returns the tensor it makes."""

    view: GraphView
    names: Names
    dtype: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    specs: dict[str, TensorSpec] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an old or a new tensor."""
        return self.specs[name].shape if name in self.specs else self.view.shape(name)

    def conv(self, kernel: Kernel, source: str, wish: str, output: str | None = None) -> str:
        """A convolution with bias."""
        name = self.names.free(wish)
        weight, bias = (
            self.weight(value, f"{name}.{part}")
            for value, part in ((kernel.weight, "weight"), (kernel.bias, "bias"))
        )
        geometry = kernel.geometry
        batch, _, *size = self.shape(source)
        rows, columns = geometry.output_size((size[0], size[1]))
        node = helper.make_node(
            "Conv",
            [source, weight, bias],
            [output or name],
            name=name,
            kernel_shape=geometry.kernel,
            strides=geometry.stride,
            pads=geometry.padding * 2,
            dilations=geometry.dilation,
            group=geometry.groups,
        )
        return self._made(node, (batch, len(kernel.bias), rows, columns))

    def pool(self, pool: Pool, source: str, wish: str) -> str:
        """An average pool that counts its padding."""
        name, geometry = self.names.free(wish), pool.geometry
        batch, channels, *size = self.shape(source)
        node = helper.make_node(
            "AveragePool",
            [source],
            [name],
            name=name,
            kernel_shape=geometry.kernel,
            strides=geometry.stride,
            pads=geometry.padding * 2,
            count_include_pad=1,
        )
        return self._made(node, (batch, channels, *geometry.output_size((size[0], size[1]))))

    def total(self, terms: Sequence[str], wish: str, output: str) -> str:
        """The sum of two or more tensors, as a chain of Adds; ``output`` is the last of them."""
        total = terms[0]
        for position, term in enumerate(terms[1:], start=2):
            name = self.names.free(wish)
            made = output if position == len(terms) else name
            node = helper.make_node("Add", [total, term], [made], name=name)
            total = self._made(node, self.shape(term))
        return total

    def concat(self, terms: Sequence[str], wish: str) -> str:
        """The tensors, joined along the channels."""
        name = self.names.free(wish)
        batch, _, *size = self.shape(terms[0])
        channels = sum(self.shape(term)[1] for term in terms)
        node = helper.make_node("Concat", list(terms), [name], name=name, axis=1)
        return self._made(node, (batch, channels, *size))

    def weight(self, value: Floats, wish: str) -> str:
        """A new initializer, rounded to the type of the model."""
        name = self.names.free(wish)
        rounded = np.ascontiguousarray(value.astype(self.dtype))
        self.weights.append(onnx.numpy_helper.from_array(rounded, name))
        return name

    def node(self, node: onnx.NodeProto, spec: TensorSpec) -> None:
        """Any other operator that makes one tensor."""
        self.nodes.append(node)
        self.specs[spec.name] = spec

    def finished(self, name: str, output: str, removed: Iterable[int]) -> Rewrite:
        """All of it."""
        return Rewrite(
            name=name,
            output=output,
            removed=frozenset(removed),
            nodes=tuple(self.nodes),
            weights=tuple(self.weights),
            specs=tuple(self.specs.values()),
        )

    def _made(self, node: onnx.NodeProto, shape: tuple[int, ...]) -> str:
        name: str = node.output[0]
        self.node(node, TensorSpec(name=name, dtype=self.dtype, shape=shape))
        return name


def apply_rewrites(loaded: LoadedModel, rewrites: Sequence[Rewrite]) -> LoadedModel:
    """A copy of ``loaded`` with the new operators, each group where the last it replaces was.

    The normal form stays: what nothing reads is gone, initializers are sorted. Nothing is run.
    """
    graph = loaded.proto.graph
    removed = {index for rewrite in rewrites for index in rewrite.removed}
    placed = {max(rewrite.removed): rewrite for rewrite in rewrites}
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(graph.node):
        if index in placed:
            nodes.extend(placed[index].nodes)
        elif index not in removed:
            nodes.append(node)
    weights = [tensor for rewrite in rewrites for tensor in rewrite.weights]
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            graph.name,
            graph.input,
            graph.output,
            [*graph.initializer, *weights],
            sparse_initializer=graph.sparse_initializer,
        ),
        opset_imports=loaded.proto.opset_import,
        ir_version=loaded.proto.ir_version,
        producer_name=loaded.proto.producer_name,
    )
    return _with_facts(loaded, remove_unread(proto), rewrites)


def _with_facts(
    loaded: LoadedModel, proto: onnx.ModelProto, rewrites: Sequence[Rewrite]
) -> LoadedModel:
    specs = dict(loaded.activations)
    specs |= {spec.name: spec for rewrite in rewrites for spec in rewrite.specs}
    new_weights = {
        tensor.name: TensorSpec(
            name=tensor.name,
            dtype=helper.tensor_dtype_to_np_dtype(tensor.data_type).name,
            shape=tuple(tensor.dims),
        )
        for rewrite in rewrites
        for tensor in rewrite.weights
    }
    constants = {**loaded.constants, **new_weights}
    parts = parts_of(proto)
    made = [name for i in parts.activation_nodes for name in proto.graph.node[i].output if name]
    return LoadedModel(
        proto=proto,
        path=loaded.path,
        name=loaded.name,
        source_sha256=loaded.source_sha256,
        inputs=loaded.inputs,
        outputs=loaded.outputs,
        activations={name: specs[name] for name in (*(s.name for s in loaded.inputs), *made)},
        constants={n: constants[n] for n in sorted(parts.constant_names) if n in constants},
        parts=parts,
        notes=loaded.notes,
    )
