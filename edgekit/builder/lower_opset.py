"""Bring a graph down to opset 17, which every ONNX Runtime since 1.13 loads.

In: a graph with fixed input shapes, any opset.  Out: the same function at opset <= 17, IR 8.
onnx's own converter does the work; two operators of opset 18 that exporters write all the time and
that it cannot lower are rewritten first: Split(num_outputs) and Pad(axes). Whether the outputs are
still the same is checked by whoever normalises.
"""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.shape_inference
import onnx.version_converter

from edgekit.errors import ModelError

IR_VERSION = 8
MAX_OPSET = 17
_RUNTIMES = ((21, "1.19.2"), (23, "1.23.2"), (26, "1.31.1"))
"""Highest opset of an ONNX Runtime release (findings.md, section 1)."""


def lower_opset(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Keep an opset up to 17, lower a newer one; set IR 8; import only the domains in use.

    Raises: ModelError naming what cannot be lowered, and the runtime that devices would need.
    """
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    opset = versions.get("", versions.get("ai.onnx", 0))
    if opset > MAX_OPSET:
        proto = _converted(_rewritten(proto), opset)
        versions = {entry.domain: entry.version for entry in proto.opset_import}
    domains = {node.domain for node in proto.graph.node} | {""}
    del proto.opset_import[:]
    proto.opset_import.extend(
        onnx.helper.make_opsetid(domain, version)
        for domain, version in sorted(versions.items())
        if domain in domains
    )
    proto.ir_version = IR_VERSION
    return proto


def _converted(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(proto, MAX_OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        first = str(error).strip().splitlines()[0][:200]
        newest = next((name for ceiling, name in _RUNTIMES if opset <= ceiling), "1.32")
        raise ModelError(
            f"opset {opset} of the model cannot be brought down to {MAX_OPSET}: {first}",
            hint=f"export it with opset_version={MAX_OPSET}; as it is, every device would need "
            f"ONNX Runtime {newest} or newer",
        ) from None


def _rewritten(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Write Split and Pad as they were before opset 18."""
    shapes = _shapes(proto)
    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    values |= {
        node.output[0]: node.attribute[0].t
        for node in proto.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    for node in proto.graph.node:
        shape = shapes.get(node.input[0]) if node.input else None
        if node.domain or shape is None:
            continue
        if node.op_type == "Split":
            _explicit_split(proto, node, shape)
        elif node.op_type == "Pad" and len(node.input) == 4 and node.input[3]:
            _explicit_pad(proto, node, len(shape), values)
    return proto


def _shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _explicit_split(proto: onnx.ModelProto, node: onnx.NodeProto, shape: Sequence[int]) -> None:
    """``num_outputs=n``: pieces of ceil(size / n), the last one what is left."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    count = attributes.pop("num_outputs", None)
    if count is None:
        return
    axis = attributes["axis"].i if "axis" in attributes else 0
    size = shape[axis]
    piece = -(-size // count.i)
    sizes = [min(piece, size - start) for start in range(0, size, piece)]
    if len(sizes) != count.i:
        return  # not a whole split: the converter will refuse it by name
    _drop_attribute(node, "num_outputs")
    del node.input[1:]
    node.input.append(_new_initializer(proto, f"{node.output[0]}_split", sizes))


def _explicit_pad(
    proto: onnx.ModelProto, node: onnx.NodeProto, rank: int, values: dict[str, onnx.TensorProto]
) -> None:
    """``axes``: pads of the other axes are 0."""
    if node.input[1] not in values or node.input[3] not in values:
        return
    pads = onnx.numpy_helper.to_array(values[node.input[1]])
    axes = onnx.numpy_helper.to_array(values[node.input[3]]) % rank
    whole = np.zeros((2, rank), np.int64)
    whole[:, axes] = pads.reshape(2, -1)
    del node.input[3:]
    node.input[1] = _new_initializer(proto, f"{node.output[0]}_pads", whole.ravel())


def _new_initializer(proto: onnx.ModelProto, name: str, value: Sequence[int]) -> str:
    array = np.asarray(value, np.int64)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return name


def _drop_attribute(node: onnx.NodeProto, name: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
