"""Bring a graph down to opset 17, which every ONNX Runtime since 1.13 loads.

In: a graph with fixed input shapes, any opset.  Out: the same function at opset <= 17, IR 8.
onnx's own converter does the work; what exporters write all the time and it cannot lower (or lowers
into something that no runtime loads) is rewritten here: Split(num_outputs), Pad(axes), reductions
with their axes as an input, and GridSample. Whether the outputs are still the same is checked by
whoever normalises.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import onnx.version_converter
from numpy.typing import NDArray

from edgekit.errors import ModelError

IR_VERSION = 8
MAX_OPSET = 17
_WAITING = "edgekit.waiting"
_REDUCTIONS = {
    f"Reduce{kind}"
    for kind in ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
}
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
    """Convert all but the rewritten operators, which wait in a domain of their own."""
    proto.opset_import.append(onnx.helper.make_opsetid(_WAITING, 1))
    try:
        converted = onnx.version_converter.convert_version(proto, MAX_OPSET)
    except (
        RuntimeError,
        onnx.version_converter.ConvertError,
        onnx.shape_inference.InferenceError,
    ) as error:
        first = str(error).strip().splitlines()[0].rpartition(": ")[2][:200]
        newest = next((name for ceiling, name in _RUNTIMES if opset <= ceiling), "1.32")
        raise ModelError(
            f"opset {opset} of the model cannot be brought down to {MAX_OPSET}: {first}",
            hint=f"export it with opset_version={MAX_OPSET}; as it is, every device would need "
            f"ONNX Runtime {newest} or newer",
        ) from None
    for node in converted.graph.node:
        if node.domain == _WAITING:
            node.domain = ""
    return converted


def _rewritten(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Write some operators as they were in opset 17."""
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
        if (
            (node.op_type == "Split" and _explicit_split(proto, node, shape))
            or (node.op_type == "Pad" and _explicit_pad(proto, node, len(shape), values))
            or (node.op_type in _REDUCTIONS and _axes_attribute(node, values))
            or (node.op_type == "GridSample" and len(shape) == 4 and _older_modes(node))
        ):
            node.domain = _WAITING
    return proto


def _shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _explicit_split(proto: onnx.ModelProto, node: onnx.NodeProto, shape: Sequence[int]) -> bool:
    """``num_outputs=n``: pieces of ceil(size / n), the last one what is left."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if "num_outputs" not in attributes:
        return True
    size = shape[attributes["axis"].i if "axis" in attributes else 0]
    piece = -(-size // attributes["num_outputs"].i)
    sizes = [min(piece, size - start) for start in range(0, size, piece)]
    if len(sizes) != attributes["num_outputs"].i:
        return False
    node.attribute.remove(attributes["num_outputs"])
    del node.input[1:]
    node.input.append(_new_initializer(proto, f"{node.output[0]}_split", np.array(sizes)))
    return True


def _explicit_pad(
    proto: onnx.ModelProto, node: onnx.NodeProto, rank: int, values: dict[str, onnx.TensorProto]
) -> bool:
    """``axes``: pads of the other axes are 0. Mode "wrap" is newer than opset 17."""
    if any(attribute.s == b"wrap" for attribute in node.attribute):
        return False
    if len(node.input) < 4 or not node.input[3]:
        return True
    if node.input[1] not in values or node.input[3] not in values:
        return False
    pads = onnx.numpy_helper.to_array(values[node.input[1]])
    axes = onnx.numpy_helper.to_array(values[node.input[3]]) % rank
    whole = np.zeros((2, rank), np.int64)
    whole[:, axes] = pads.reshape(2, -1)
    del node.input[3:]
    node.input[1] = _new_initializer(proto, f"{node.output[0]}_pads", whole.ravel())
    return True


def _axes_attribute(node: onnx.NodeProto, values: dict[str, onnx.TensorProto]) -> bool:
    """Axes were an attribute; none meant all."""
    noop = [one for one in node.attribute if one.name == "noop_with_empty_axes"]
    axes = node.input[1] if len(node.input) > 1 else ""
    if (axes and axes not in values) or (not axes and any(one.i for one in noop)):
        return False
    for one in noop:
        node.attribute.remove(one)
    if axes:
        chosen = onnx.numpy_helper.to_array(values[axes]).ravel().tolist()
        node.attribute.append(onnx.helper.make_attribute("axes", chosen))
    del node.input[1:]
    return True


def _older_modes(node: onnx.NodeProto) -> bool:
    """Opset 20 says linear and cubic where 16 said bilinear and bicubic."""
    for attribute in node.attribute:
        if attribute.name == "mode":
            older = {b"linear": b"bilinear", b"cubic": b"bicubic"}
            attribute.s = older.get(attribute.s, attribute.s)
    return True


def _new_initializer(proto: onnx.ModelProto, name: str, value: NDArray[Any]) -> str:
    proto.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.int64), name))
    return name
