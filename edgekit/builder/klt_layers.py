"""Write the transform of one tensor into the graphs of the shards that make and read it.

In: a shard, and the rows and mean of a tensor's principal components.  Out: a new shard that gives,
or takes, these components instead; the given one is never changed.
There: y = rows (x - mean), a 1x1 convolution behind the operator that makes x, or inside it where
that is a convolution which nobody else reads: then rows W and rows (b - mean) are its weights. And
back: x' = rows^T y + mean, a 1x1 convolution before the readers, or inside them where all are
convolutions without padding (zeros at a border would be zeros of y, not of x): then W rows^T and
b + W mean, summed over the taps.
"""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray
from onnx import helper

from edgekit.builder.fold.onnx_graph import attributes_of
from edgekit.builder.fold.onnx_write import Names
from edgekit.builder.normalize import remove_unread, value_info
from edgekit.spec.tensors import Array, TensorSpec

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transform:
    """Of one tensor, float32 (batch, channels, height, width)."""

    tensor: TensorSpec
    components: TensorSpec
    """What crosses instead: (batch, rows, height, width)."""
    rows: Floats
    """(rows, channels), orthonormal."""
    mean: Floats
    """(channels,)"""


def give_components(shard: onnx.ModelProto, transform: Transform) -> tuple[onnx.ModelProto, str]:
    """The shard with the components as output in the place of the tensor; and how, in words.

    Returns: a new shard whose result is ``rows (x - mean)`` up to rounding.
    """
    proto, names = _copied(shard)
    graph, tensor, given = proto.graph, transform.tensor.name, transform.components.name
    maker = next(node for node in graph.node if tensor in node.output)
    is_read = any(tensor in node.input for node in graph.node)
    layer = None if is_read else _layer_of(graph, maker)
    if layer is None:
        kernel = transform.rows[:, :, None, None]
        weights = _weights(graph, names, given, kernel, -transform.rows @ transform.mean)
        graph.node.append(_convolution(names, [tensor, *weights], given))
        done = f"{tensor}: a 1x1 convolution behind {maker.op_type} {maker.name!r}"
    else:
        kernel = np.einsum("kc,cihw->kihw", transform.rows, layer.kernel)
        bias = transform.rows @ (layer.bias - transform.mean)
        _rewrite(maker, _weights(graph, names, given, kernel, bias))
        maker.output[0] = given
        done = f"{tensor}: merged into {maker.op_type} {maker.name!r} that makes it"
    kept = [value_info(transform.components) if one.name == tensor else one for one in graph.output]
    return _finished(proto, [*graph.input], kept), done


def take_components(shard: onnx.ModelProto, transform: Transform) -> tuple[onnx.ModelProto, str]:
    """The shard with the components as input in the place of the tensor; and how, in words.

    Returns: a new shard that computes with ``rows^T y + mean`` up to rounding.
    """
    proto, names = _copied(shard)
    graph, tensor, taken = proto.graph, transform.tensor.name, transform.components.name
    readers = [node for node in graph.node if tensor in node.input]
    layers = [_reading(graph, node, tensor) for node in readers]
    if all(layers):
        for node, layer in zip(readers, layers, strict=True):
            if layer is not None:
                kernel = np.einsum("oihw,ki->okhw", layer.kernel, transform.rows)
                bias = layer.bias + layer.kernel.sum(axis=(2, 3)) @ transform.mean
                node.input[0] = taken
                _rewrite(node, _weights(graph, names, taken, kernel, bias))
        where = ", ".join(f"{node.op_type} {node.name!r}" for node in readers)
        done = f"{tensor}: merged into {where} that read it"
    else:
        kernel = transform.rows.T[:, :, None, None]
        weights = _weights(graph, names, taken, kernel, transform.mean)
        first = _convolution(names, [taken, *weights], tensor)
        later = [*graph.node]
        del graph.node[:]
        graph.node.extend([first, *later])
        done = f"{tensor}: a 1x1 convolution before what reads it"
    kept = [value_info(transform.components) if one.name == tensor else one for one in graph.input]
    return _finished(proto, kept, [*graph.output]), done


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layer:
    kernel: Floats
    bias: Floats


def _layer_of(graph: onnx.GraphProto, node: onnx.NodeProto) -> _Layer | None:
    """Weights of a convolution of one group; None if ``node`` is none, or they are not at hand."""
    if node.op_type != "Conv" or node.domain or attributes_of(node).get("group", 1) != 1:
        return None
    known = {one.name: one for one in graph.initializer}
    names = [name for name in node.input[1:] if name]
    if any(name not in known for name in names):
        return None
    values: list[Array] = [onnx.numpy_helper.to_array(known[name]) for name in names]
    if any(value.dtype != np.float32 for value in values) or values[0].ndim != 4:
        return None
    kernel = values[0].astype(np.float64)
    bias = values[1].astype(np.float64) if len(values) > 1 else np.zeros(len(kernel))
    return _Layer(kernel=kernel, bias=bias)


def _reading(graph: onnx.GraphProto, node: onnx.NodeProto, tensor: str) -> _Layer | None:
    """The layer that reads ``tensor``, if it is one without padding that reads it once."""
    layer = _layer_of(graph, node)
    attributes = attributes_of(node)
    is_padded = any(attributes.get("pads", ())) or attributes.get("auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    )
    return None if is_padded or [*node.input].count(tensor) != 1 else layer


def _copied(shard: onnx.ModelProto) -> tuple[onnx.ModelProto, Names]:
    proto = onnx.ModelProto()
    proto.CopyFrom(shard)
    return proto, Names(proto)


def _weights(
    graph: onnx.GraphProto, names: Names, of: str, kernel: Floats, bias: Floats
) -> list[str]:
    """New weights in the graph, rounded to float32: others may read the old ones."""
    made = []
    for value, role in ((kernel, "weight"), (bias, "bias")):
        name = names.free(f"{of}.{role}")
        rounded = np.ascontiguousarray(value, np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(rounded, name))
        made.append(name)
    return made


def _rewrite(node: onnx.NodeProto, weights: list[str]) -> None:
    """Give a convolution other weights."""
    first = node.input[0]
    del node.input[:]
    node.input.extend([first, *weights])


def _convolution(names: Names, inputs: list[str], output: str) -> onnx.NodeProto:
    name = names.free(f"{output}.transform")
    return helper.make_node("Conv", inputs, [output], name=name, kernel_shape=[1, 1])


def _finished(
    proto: onnx.ModelProto,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    del proto.graph.input[:], proto.graph.output[:]
    proto.graph.input.extend(inputs)
    proto.graph.output.extend(outputs)
    del proto.graph.value_info[:]
    return remove_unread(proto)
