"""Rewrite an ONNX graph into the one form that the rest of the builder understands.

In: a graph as exporters write it.  Out: the same function, bit for bit, with fixed shapes, IR 8,
opset <= 17, no weights among the inputs, one stable name per node, sorted initializers, integer
shape arithmetic resolved, and nothing that tells where it was made.
Each pass takes a proto that it may change and returns it; ``normalize`` works on a copy.
Float constants are never computed here, so no number can move.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference

from edgekit.builder.constants import static_names
from edgekit.builder.lower_opset import lower_opset
from edgekit.builder.probe import probe_tensors, seeded_inputs
from edgekit.errors import ModelError
from edgekit.spec.tensors import Array, TensorSpec

_MAX_FOLDED_ELEMENTS = 4096
_PATH_LIKE = re.compile(r"\.pyc?\b|\\")
_OPTIONAL_LAST_OUTPUTS = {"Dropout", "MaxPool", "BatchNormalization", "LayerNormalization"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One step of the normalisation."""

    name: str
    apply: Callable[[onnx.ModelProto], onnx.ModelProto]


def passes_for(inputs: tuple[TensorSpec, ...]) -> tuple[Pass, ...]:
    """The steps, in order, for a model whose inputs are ``inputs``."""
    return (
        Pass(name="inline functions", apply=_inline_functions),
        Pass(name="drop weights from the inputs", apply=_drop_input_initializers),
        Pass(name="fix input shapes", apply=lambda proto: _fix_inputs(proto, inputs)),
        Pass(name="lower the operator set", apply=lower_opset),
        Pass(name="sort nodes", apply=_sort_nodes),
        Pass(name="constants to initializers", apply=_constants_to_initializers),
        Pass(name="resolve shapes", apply=lambda proto: _fold_integers(proto, inputs)),
        Pass(name="remove what nothing reads", apply=remove_unread),
        Pass(name="strip and name", apply=_strip_and_name),
    )


def normalize(proto: onnx.ModelProto, inputs: tuple[TensorSpec, ...]) -> onnx.ModelProto:
    """A normalised copy of ``proto``. Raises: ModelError if a step cannot be done."""
    _refuse_training_mode(proto)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for step in passes_for(inputs):
        copy = step.apply(copy)
    return copy


def _refuse_training_mode(proto: onnx.ModelProto) -> None:
    """Raises: ModelError naming the first BatchNormalization that depends on the batch."""
    for node in proto.graph.node:
        modes = [one.i for one in node.attribute if one.name == "training_mode"]
        if node.op_type == "BatchNormalization" and any(modes):
            raise ModelError(
                f"operator BatchNormalization ({node.name or node.output[0]}) is in training mode, "
                "where it depends on the batch",
                hint="export the model after model.eval()",
            )


def _inline_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    if not proto.functions:
        return proto
    return onnx.inliner.inline_local_functions(proto)


def _drop_input_initializers(proto: onnx.ModelProto) -> onnx.ModelProto:
    weights = {tensor.name for tensor in proto.graph.initializer}
    kept = [value for value in proto.graph.input if value.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    return proto


def _fix_inputs(proto: onnx.ModelProto, inputs: tuple[TensorSpec, ...]) -> onnx.ModelProto:
    del proto.graph.input[:]
    proto.graph.input.extend(value_info(spec) for spec in inputs)
    del proto.graph.value_info[:]
    return proto


def value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    """The ONNX declaration of a tensor."""
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return onnx.helper.make_tensor_value_info(spec.name, element, spec.shape)


def _sort_nodes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Topological order; a file that has it keeps its own order."""
    known = {tensor.name for tensor in proto.graph.initializer} | {""}
    known |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    known |= {value.name for value in proto.graph.input}
    waiting, done = list(proto.graph.node), []
    while waiting:
        rest = []
        for node in waiting:
            if all(name in known for name in node.input):
                known.update(node.output)
                done.append(node)
            else:
                rest.append(node)
        if len(rest) == len(waiting):
            lost = next(name for name in rest[0].input if name not in known)
            raise ModelError(
                f"operator {rest[0].op_type} ({rest[0].name}) reads {lost!r}, which nothing makes",
                hint="export the model again",
            )
        waiting = rest
    del proto.graph.node[:]
    proto.graph.node.extend(done)
    return proto


def _constants_to_initializers(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Constant nodes become initializers (model outputs excepted); other constants stay."""
    outputs = {value.name for value in proto.graph.output}
    kept = []
    for node in proto.graph.node:
        is_plain = node.op_type == "Constant" and node.output[0] not in outputs
        value = _constant_value(node) if is_plain else None
        if value is None:
            kept.append(node)
        else:
            value.name = node.output[0]
            proto.graph.initializer.append(value)
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    return proto


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    attribute = node.attribute[0]
    if attribute.name == "value":
        copy = onnx.TensorProto()
        copy.CopyFrom(attribute.t)
        return copy
    dtypes = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if attribute.name not in dtypes:
        return None
    value = onnx.helper.get_attribute_value(attribute)
    return onnx.numpy_helper.from_array(np.asarray(value, dtypes[attribute.name]))


def _fold_integers(proto: onnx.ModelProto, inputs: tuple[TensorSpec, ...]) -> onnx.ModelProto:
    """Shape, Gather, Unsqueeze, Concat ... of static shapes become the integers they result in."""
    static = static_names(proto) - {value.name for value in proto.graph.output}
    floats = _float_names(proto)
    nodes = [
        node
        for node in proto.graph.node
        if all(name in static and name not in floats for name in node.output if name)
    ]
    names = [name for node in nodes for name in node.output if name]
    if not names:
        return proto
    values = probe_tensors(proto, seeded_inputs(inputs, 0), names)
    folded = [node for node in nodes if all(_is_small_integer(values[n]) for n in node.output if n)]
    gone = {name for node in folded for name in node.output if name}
    kept = [node for node in proto.graph.node if not gone & set(node.output)]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    for name in sorted(gone):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values[name], name))
    return proto


def _float_names(proto: onnx.ModelProto) -> set[str]:
    """Tensors that are known to hold floats: computing them here could cost gigabytes."""
    inferred = onnx.shape_inference.infer_shapes(proto).graph.value_info
    return {
        value.name
        for value in inferred
        if value.type.tensor_type.elem_type in {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
    }


def _is_small_integer(value: Array) -> bool:
    return value.dtype.kind in "iub" and value.size <= _MAX_FOLDED_ELEMENTS


def remove_unread(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Drop nodes, their outputs and initializers that no model output depends on; sort the rest."""
    needed = {value.name for value in proto.graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(proto.graph.node):
        if not needed & set(node.output):
            continue
        while (
            node.op_type in _OPTIONAL_LAST_OUTPUTS
            and len(node.output) > 1
            and node.output[-1] not in needed
        ):
            node.output.pop()
        needed.update(node.input)
        kept.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(kept))
    weights = {t.name: t for t in proto.graph.initializer if t.name in needed}
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(weights[name] for name in sorted(weights))
    return proto


def _strip_and_name(proto: onnx.ModelProto) -> onnx.ModelProto:
    """No doc strings, metadata or paths; one unique name per node."""
    graph = proto.graph
    proto.producer_name, proto.producer_version, proto.domain = "edgekit", "", ""
    proto.model_version = 0
    del proto.metadata_props[:]
    del graph.metadata_props[:]
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    graph.name, graph.doc_string, proto.doc_string = "model", "", ""
    for item in (*graph.input, *graph.output, *graph.initializer, *graph.node):
        item.doc_string = ""
        del item.metadata_props[:]
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in seen or _PATH_LIKE.search(node.name):
            node.name = _free_name(f"{node.op_type}_{index}", taken)
            taken.add(node.name)
        seen.add(node.name)
    return proto


def _free_name(wish: str, taken: set[str]) -> str:
    return wish if wish not in taken else _free_name(f"{wish}_", taken)


def refuse_static_outputs(proto: onnx.ModelProto) -> None:
    """Raises: ModelError if a model output is a weight: nothing would compute it."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    made = {name for node in proto.graph.node for name in node.output}
    passed = {value.name for value in proto.graph.input}
    for value in proto.graph.output:
        if value.name in weights:
            raise ModelError(
                f"the model output {value.name!r} is a constant",
                hint="remove that output from the export",
            )
        if value.name in passed or value.name not in made:
            raise ModelError(
                f"no operator makes the model output {value.name!r}",
                hint="remove that output from the export",
            )
