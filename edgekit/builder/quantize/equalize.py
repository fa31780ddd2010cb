"""Cross-layer equalisation: neighbouring layers share the spread of their channels evenly.

In:  a float model.  Out: another with other weights and the same outputs, to the last bit.
Behind one layer each channel may be divided by a positive number if the next layer multiplies it
again: what is between them lets a positive factor through. The number is chosen so that a channel
spans as much in the weights that make it as in those that read it, so one scale for all channels,
of weights or of activations, loses less. Folded blocks need it most: the identity branch leaves a
spike in each kernel.
The numbers are powers of two: then no product and no sum is rounded in another way.
Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019, sec. 4.1.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

from edgekit.builder.load import LoadedModel

_BETWEEN = frozenset(
    {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity"}
)
"""Operators f with f(a x) = a f(x) for a > 0, channel by channel."""
_SWEEPS = 8
"""A factor of two between neighbours travels along a chain by one layer in each sweep."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two convolutions, the second reading the first alone."""

    first: str
    second: str


def find_pairs(model: LoadedModel, among: Collection[str] | None = None) -> tuple[Pair, ...]:
    """Every pair of convolutions of ``model`` that can be equalised, in graph order.

    ``among``: names of operators; pairs of others are left out.
    Weights must be constants that nothing else reads, and no tensor between may leave the model.
    """
    graph = model.proto.graph
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    constants = {tensor.name for tensor in graph.initializer}
    own = {
        node.name
        for node in graph.node
        if node.op_type == "Conv"
        and (among is None or node.name in among)
        and all(name in constants and len(readers[name]) == 1 for name in node.input[1:] if name)
    }
    pairs = []
    for node in graph.node:
        behind: onnx.NodeProto | None = node if node.name in own else None
        while behind is not None:
            after = readers.get(behind.output[0], [])
            is_alone = len(after) == 1 and behind.output[0] not in outputs
            behind = after[0] if is_alone else None
            if behind is not None and behind.op_type not in _BETWEEN:
                if behind.name in own:
                    pairs.append(Pair(first=node.name, second=behind.name))
                behind = None
    return tuple(pairs)


def equalized(model: LoadedModel, among: Collection[str] | None = None) -> tuple[LoadedModel, int]:
    """``model`` with its pairs equalised, and how many of them changed; itself if none did.

    ``among``: names of operators; a pair with another stays as it is.
    Its tensors keep their names; those between two layers of a pair have other values.
    """
    pairs = find_pairs(model, among)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    nodes = {node.name: node for node in proto.graph.node}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    wanted = {
        name
        for pair in pairs
        for layer in (pair.first, pair.second)
        for name in nodes[layer].input[1:]
        if name
    }
    values = {name: onnx.numpy_helper.to_array(tensors[name]).copy() for name in wanted}
    changed: set[Pair] = set()
    for _ in range(_SWEEPS):
        moved = {pair for pair in pairs if _equalize(nodes[pair.first], nodes[pair.second], values)}
        changed |= moved
        if not moved:
            break
    if not changed:
        return model, 0
    for name, value in values.items():
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
    return replace(model, proto=proto), len(changed)


def _equalize(first: onnx.NodeProto, second: onnx.NodeProto, values: Mapping[str, Floats]) -> bool:
    """Change the weights of one pair in place; True if that was needed.

    Shapes: first (C, ...), its bias (C,); second (O, C / groups, kH, kW).
    """
    made, read = values[first.input[1]], values[second.input[1]]
    groups = next((one.i for one in second.attribute if one.name == "group"), 1)
    by_group = read.reshape(groups, len(read) // groups, *read.shape[1:])  # a view
    spans = np.abs(made).reshape(len(made), -1).max(axis=1)
    read_spans = np.abs(by_group).max(axis=(1, 3, 4)).reshape(-1)
    factors = _powers_of_two(spans, read_spans)
    if (factors == 1).all():
        return False
    made /= factors.reshape(-1, *(1,) * (made.ndim - 1))
    if len(first.input) > 2 and first.input[2]:
        values[first.input[2]][...] /= factors
    by_group *= factors.reshape(groups, 1, -1, 1, 1)
    return True


def _powers_of_two(spans: Floats, read_spans: Floats) -> Floats:
    """What each channel is divided by. Shapes: (C,). Dead channels stay as they are."""
    alive = (spans > 0) & (read_spans > 0)
    ratio = np.where(alive, spans / np.where(alive, read_spans, 1), 1)
    return np.exp2(np.round(np.log2(ratio) / 2)).astype(np.float32)
