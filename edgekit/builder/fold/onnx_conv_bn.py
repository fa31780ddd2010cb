"""Fold BatchNormalizations and per-channel constants into the convolution before them.

In:  a GraphView and the operators that blocks have taken already.  Out: Rewrites: one operator
(Conv of any dimension, ConvTranspose or Gemm) where there were two or more; the tensor behind the
last of them keeps its name.
Source: Ding et al., "RepVGG", CVPR 2021, section 3.3, equation 3.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from edgekit.builder.fold.algebra import BatchNorm, Floats, Kernel, fold_batch_norm
from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.fold.onnx_graph import GraphView, attributes_of, per_channel
from edgekit.builder.fold.onnx_linear import batch_norm_of, scale_of
from edgekit.builder.fold.onnx_write import Draft, Names, Rewrite
from edgekit.errors import ModelError
from edgekit.spec.tensors import TensorSpec

_POINT = ConvGeometry(kernel=(1, 1), padding=(0, 0))
_HEADS = {"Conv", "ConvTranspose", "Gemm"}
_SCALINGS = {"Mul", "Add", "Sub", "Div"}
_FLOATS = {"float32", "float64"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NormedConv:
    """A convolution and what scales and shifts its output, by index in graph order."""

    head: int
    followers: tuple[int, ...]


def find_normed_convs(view: GraphView, taken: Set[int]) -> tuple[NormedConv, ...]:
    """All such convolutions, in model order, without operators that are in ``taken``."""
    found = (
        NormedConv(head=index, followers=tuple(_followers(view, index, taken)))
        for index in view.loaded.parts.activation_nodes
        if index not in taken and _is_head(view, index)
    )
    return tuple(pair for pair in found if pair.followers)


def rewrite_normed_conv(view: GraphView, names: Names, pair: NormedConv) -> Rewrite:
    """``pair`` as one operator, not proved yet.

    Raises: ModelError naming the operator if its numbers define no function.
    """
    head, last = view.node(pair.head), view.node((pair.head, *pair.followers)[-1])
    try:
        kernel = _kernel(view, head)
        for index in pair.followers:
            kernel = fold_batch_norm(kernel, _norm(view, index))
    except ModelError as error:
        raise ModelError(f"{head.op_type} {head.name}: {error.what}", hint=error.hint) from None
    output = last.output[0]
    draft = Draft(view=view, names=names, dtype=view.dtype(output))
    weight = draft.weight(_unflattened(kernel.weight, view, head), f"{head.name}.weight")
    bias = draft.weight(kernel.bias, f"{head.name}.bias")
    node = onnx.NodeProto()
    node.CopyFrom(head)
    node.input[:] = [head.input[0], weight, bias]
    node.output[:] = [output]
    if head.op_type == "Gemm":
        kept = [one for one in node.attribute if one.name != "beta"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("beta", 1.0)])
    spec = TensorSpec(name=output, dtype=draft.dtype, shape=view.shape(output))
    draft.node(node, spec)
    return draft.finished(head.name, output, (pair.head, *pair.followers))


def _is_head(view: GraphView, index: int) -> bool:
    node = view.node(index)
    if node.op_type not in _HEADS or node.domain not in ("", "ai.onnx"):
        return False
    weights = [name for name in node.input[1:] if name]
    constant = view.loaded.parts.constant_names
    bias = node.input[2] if len(node.input) > 2 else ""
    return (
        node.input[0] not in constant
        and all(name in constant for name in weights)
        and view.dtype(node.output[0]) in _FLOATS
        and (not bias or _bias_values(view, node, bias) is not None)
    )


def _followers(view: GraphView, index: int, taken: Set[int]) -> Iterator[int]:
    output = view.node(index).output[0]
    while view.is_inner(output):
        (reader,) = view.readers[output]
        if reader in taken or not _is_follower(view, reader, output):
            return
        yield reader
        output = view.node(reader).output[0]


def _is_follower(view: GraphView, index: int, source: str) -> bool:
    node = view.node(index)
    if node.op_type == "BatchNormalization":
        is_constant = all(view.is_constant(name) for name in node.input[1:])
        return (
            node.input[0] == source and is_constant and bool(attributes_of(node).get("spatial", 1))
        )
    if node.op_type not in _SCALINGS:
        return False
    try:
        return scale_of(view, node, source) is not None
    except ModelError:  # a number that is not finite: folding it says so, with the name
        return True


def _norm(view: GraphView, index: int) -> BatchNorm:
    node = view.node(index)
    if node.op_type == "BatchNormalization":
        return batch_norm_of(view, node)
    source = next(name for name in node.input if not view.is_constant(name))
    norm = scale_of(view, node, source)
    assert norm is not None, "it was one when the pair was found"
    return norm


def _kernel(view: GraphView, node: onnx.NodeProto) -> Kernel:
    """The weights with one row per output channel, whatever their own axes; a 1x1 to the algebra.

    Shapes: (O, everything else, 1, 1).
    """
    weight = view.constant(node.input[1]).astype(np.float64)
    outputs_first = _outputs_first(weight, node)
    bias = node.input[2] if len(node.input) > 2 else ""
    values = _bias_values(view, node, bias) if bias else None
    flat = outputs_first.reshape(len(outputs_first), -1, 1, 1)
    return Kernel(
        geometry=_POINT, weight=flat, bias=np.zeros(len(flat)) if values is None else values
    )


def _bias_values(view: GraphView, node: onnx.NodeProto, bias: str) -> Floats | None:
    """The bias as one number per output; None if it is not that."""
    channels = view.shape(node.output[0])[1]
    if node.op_type != "Gemm":
        return view.constant(bias).astype(np.float64)
    value = view.constant(bias)
    # A Gemm's bias broadcasts from the right: (N,) are its columns, which are its channels.
    values = per_channel(value.reshape(1, -1) if value.ndim == 1 else value, channels, 2)
    return None if values is None else values * float(attributes_of(node).get("beta", 1.0))


def _outputs_first(weight: Floats, node: onnx.NodeProto) -> Floats:
    attributes = attributes_of(node)
    if node.op_type == "Gemm":
        return weight if attributes.get("transB", 0) else weight.T
    if node.op_type == "ConvTranspose":  # (I, O / groups, k...), inputs sorted by group
        groups = int(attributes.get("group", 1))
        split = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
        rows: Floats = split.swapaxes(1, 2).reshape(groups * weight.shape[1], -1)
        return rows
    return weight


def _unflattened(flat: Floats, view: GraphView, node: onnx.NodeProto) -> Floats:
    """The inverse of what ``_kernel`` did to the axes."""
    shape = view.constant(node.input[1]).shape
    attributes = attributes_of(node)
    weight = flat.reshape(len(flat), -1)
    if node.op_type == "Gemm":
        return weight if attributes.get("transB", 0) else weight.T
    if node.op_type == "ConvTranspose":
        groups = int(attributes.get("group", 1))
        weight = weight.reshape(groups, shape[1], shape[0] // groups, -1).swapaxes(1, 2)
    back: Floats = weight.reshape(shape)
    return back
