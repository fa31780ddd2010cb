"""Shards of several precisions become one graph again: integers cross where they can.

In:  the graph of each shard, quantized or not.  Out: graphs that end with integers, graphs that
begin with them, and all of them joined.  Pure.
A float tensor ``t`` that a shard rounds last leaves as the integers themselves,
``t_QuantizeLinear_Output``; every shard that reads it begins with a DequantizeLinear of its own, so
that nothing but the integers crosses, however many shards read them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from edgekit.builder.normalize import value_info
from edgekit.spec.tensors import Array, TensorSpec

_ROUND, _BACK = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wire:
    """A float tensor that travels as integers."""

    tensor: str
    integers: TensorSpec
    scale: onnx.TensorProto
    zero_point: onnx.TensorProto


def wires_of(proto: onnx.ModelProto, specs: Mapping[str, TensorSpec]) -> dict[str, Wire]:
    """Those of the outputs ``specs`` that ``proto`` rounds last, with one scale."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    found = {}
    for name, spec in specs.items():
        back = makers.get(name)
        if back is None or back.op_type != _BACK or back.input[0] not in makers:
            continue
        if makers[back.input[0]].op_type != _ROUND or len(back.input) < 3:
            continue
        scale, zero_point = constants.get(back.input[1]), constants.get(back.input[2])
        if scale is None or zero_point is None or scale.dims:
            continue
        dtype = onnx.helper.tensor_dtype_to_np_dtype(zero_point.data_type).name
        integers = TensorSpec(name=back.input[0], dtype=dtype, shape=spec.shape)
        found[name] = Wire(tensor=name, integers=integers, scale=scale, zero_point=zero_point)
    return found


def ending_in_integers(proto: onnx.ModelProto, wires: Mapping[str, Wire]) -> onnx.ModelProto:
    """``proto`` with the outputs in ``wires`` as integers; unread floats are dropped."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    read = {name for node in graph.node for name in node.input}
    read |= {value.name for value in graph.output if value.name not in wires}
    dropped = set(wires) - read
    kept = [node for node in graph.node if node.output[0] not in dropped]
    outputs = [
        value_info(wires[value.name].integers) if value.name in wires else value
        for value in graph.output
    ]
    del graph.node[:], graph.output[:]
    graph.node.extend(kept)
    graph.output.extend(outputs)
    _drop_unread(graph)
    return result


def beginning_with_integers(proto: onnx.ModelProto, wires: Mapping[str, Wire]) -> onnx.ModelProto:
    """``proto`` with the inputs in ``wires`` as integers, which it dequantizes first."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    taken = [wires[value.name] for value in graph.input if value.name in wires]
    if not taken:
        return result
    _rename(graph, {one.integers.name: f"{one.integers.name}_again" for one in taken})
    nodes = list(graph.node)
    inputs = [
        value_info(wires[value.name].integers) if value.name in wires else value
        for value in graph.input
    ]
    del graph.node[:], graph.input[:]
    graph.input.extend(inputs)
    for wire in taken:
        names = [wire.integers.name]
        for what, tensor in (("scale", wire.scale), ("zero_point", wire.zero_point)):
            own = graph.initializer.add()
            own.CopyFrom(tensor)
            own.name = f"{wire.tensor}_arriving_{what}"
            names.append(own.name)
        node = onnx.helper.make_node(_BACK, names, [wire.tensor], f"{wire.tensor}_arriving")
        graph.node.append(node)
    graph.node.extend(nodes)
    return result


def dequantized(frame: Mapping[str, Array], wires: Mapping[str, Wire]) -> dict[str, Array]:
    """``frame`` with the floats that the integers of ``wires`` stand for."""
    values = dict(frame)
    for name, wire in wires.items():
        scale, zero_point = (
            onnx.numpy_helper.to_array(one) for one in (wire.scale, wire.zero_point)
        )
        integers = frame[wire.integers.name].astype(np.float32)
        values[name] = (integers - zero_point.astype(np.float32)) * scale
    return values


def rounded_by_reader(proto: onnx.ModelProto, names: Collection[str]) -> dict[str, str]:
    """Those inputs ``names`` that ``proto`` does nothing with but round, once: name -> integers."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return {
        name: readers[name][0].output[0]
        for name in names
        if len(readers.get(name, ())) == 1
        and readers[name][0].op_type == _ROUND
        and readers[name][0].input[0] == name
    }


def joined(
    pieces: Sequence[onnx.ModelProto], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[onnx.ModelProto, tuple[Mapping[str, str], ...]]:
    """One graph of all ``pieces``, each reading what those before it made or the model's inputs.

    Returns: the graph, and for each piece which of its names had to be changed, to what.
    """
    known: dict[str, bytes] = {spec.name: b"" for spec in inputs}
    node_names: set[str] = set()
    nodes, tensors, changes = [], [], []
    for index, piece in enumerate(pieces):
        renamed = _collisions(piece, known, index)
        changes.append(renamed)
        for tensor in piece.graph.initializer:
            own = onnx.TensorProto()
            own.CopyFrom(tensor)
            own.name = renamed.get(tensor.name, tensor.name)
            if own.name not in known:
                known[own.name] = _content(own)
                tensors.append(own)
        for node in piece.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [renamed.get(name, name) for name in node.input]
            copy.output[:] = [renamed.get(name, name) for name in node.output]
            while copy.name in node_names:
                copy.name = f"s{index}.{copy.name}"
            node_names.add(copy.name)
            known.update(dict.fromkeys(copy.output, b""))
            nodes.append(copy)
    graph = onnx.helper.make_graph(
        nodes, "whole", list(map(value_info, inputs)), list(map(value_info, outputs)), tensors
    )
    versions = {one.domain: one for piece in pieces for one in piece.opset_import}
    whole = onnx.helper.make_model(
        graph,
        opset_imports=[versions[domain] for domain in sorted(versions)],
        ir_version=pieces[0].ir_version,
        producer_name="edgekit",
    )
    return whole, tuple(changes)


def _collisions(piece: onnx.ModelProto, known: Mapping[str, bytes], index: int) -> dict[str, str]:
    """New names for what ``piece`` defines and somebody before it defined otherwise."""
    fixed = {value.name for value in piece.graph.output}
    taken = {
        tensor.name
        for tensor in piece.graph.initializer
        if known.get(tensor.name, _content(tensor)) != _content(tensor)
    }
    taken |= {name for node in piece.graph.node for name in node.output if name in known}
    renamed = {}
    for name in sorted(taken - fixed - {""}):
        fresh = f"s{index}.{name}"
        while fresh in known:
            fresh = f"s{index}.{fresh}"
        renamed[name] = fresh
    return renamed


def _content(tensor: onnx.TensorProto) -> bytes:
    """Type, shape and numbers: what must be equal to be one constant."""
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = ""
    data: bytes = copy.SerializeToString(deterministic=True)
    return data


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """What is rounded again must not be called like what arrives."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    read |= {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
