"""Write small ONNX models without the onnx package, and list the operators of any ONNX file.

In:  nodes, weights and shapes as plain values.  Out: the bytes of an ONNX file (IR 8, opset 17).
Pure. Field numbers are those of onnx.proto3 (ONNX 1.12); what a probe model needs and no more.
Source: protocol buffers wire format (varints, length-delimited fields).
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgekit.errors import ModelError
from edgekit.spec.tensors import Array, TensorSpec

IR_VERSION = 8
OPSET = 17
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ELEMENT_TYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7,
    "bool": 9, "float16": 10, "float64": 11, "uint32": 12, "uint64": 13,
}  # fmt: skip
_FLOAT, _INT, _STRING, _FLOATS, _INTS = 1, 2, 3, 6, 7
Attribute = int | float | str | Sequence[int] | Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator of a probe model. An empty input name is an optional input left out."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    domain: str = ""
    name: str = ""


def write_model(
    nodes: Sequence[Node],
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    weights: Mapping[str, Array],
) -> bytes:
    """The bytes of an ONNX file that holds ``nodes`` in that order.

    Raises: ModelError for a dtype that ONNX does not have, or an attribute that is neither
    number, text, nor a list of numbers.
    """
    graph = b"".join(
        (
            *(_message(1, _node(node)) for node in nodes),
            _text(2, "probe"),
            *(_message(5, _tensor(name, array)) for name, array in weights.items()),
            *(_message(11, _value_info(spec)) for spec in inputs),
            *(_message(12, _value_info(spec)) for spec in outputs),
        )
    )
    domains = sorted({node.domain for node in nodes} | {""})
    opsets = b"".join(
        _message(8, (_text(1, domain) if domain else b"") + _number(2, 1 if domain else OPSET))
        for domain in domains
    )
    return _number(1, IR_VERSION) + _text(2, "edgekit") + _message(7, graph) + opsets


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedNode:
    """One operator of a file, as far as :func:`read_nodes` reads it."""

    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_nodes(data: bytes) -> tuple[ListedNode, ...]:
    """The operators of an ONNX file: how a runtime's own optimised graph is looked at.

    Raises: ModelError if ``data`` is no whole protocol buffer.
    """
    nodes = []
    for number, graph in _fields(data):
        if number != 7 or not isinstance(graph, bytes):
            continue
        for inner, value in _fields(graph):
            if inner == 1 and isinstance(value, bytes):
                nodes.append(_listed(value))
    return tuple(nodes)


def _listed(data: bytes) -> ListedNode:
    texts: dict[int, list[str]] = {1: [], 2: [], 4: [], 7: []}
    for number, value in _fields(data):
        if number in texts and isinstance(value, bytes):
            texts[number].append(value.decode("utf-8", "replace"))
    return ListedNode(
        op_type="".join(texts[4]),
        domain="".join(texts[7]),
        inputs=tuple(texts[1]),
        outputs=tuple(texts[2]),
    )


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; negative numbers as 64-bit two's complement."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _message(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _text(number: int, value: str) -> bytes:
    return _message(number, value.encode())


def _node(node: Node) -> bytes:
    return b"".join(
        (
            *(_text(1, name) for name in node.inputs),
            *(_text(2, name) for name in node.outputs),
            _text(3, node.name or node.outputs[0]),
            _text(4, node.op_type),
            *(_message(5, _attribute(name, value)) for name, value in node.attributes.items()),
            _text(7, node.domain) if node.domain else b"",
        )
    )


def _attribute(name: str, value: Attribute) -> bytes:
    head = _text(1, name)
    if isinstance(value, str):
        return head + _text(4, value) + _number(20, _STRING)
    if isinstance(value, float):
        return head + _varint(2 << 3 | _FIXED32) + struct.pack("<f", value) + _number(20, _FLOAT)
    if isinstance(value, int):
        return head + _number(3, value) + _number(20, _INT)
    if all(isinstance(item, int) for item in value):
        packed = b"".join(_varint(int(item)) for item in value)
        return head + _message(8, packed) + _number(20, _INTS)
    if all(isinstance(item, int | float) for item in value):
        return head + _message(7, struct.pack(f"<{len(value)}f", *value)) + _number(20, _FLOATS)
    raise ModelError(
        f"attribute {name!r} is {value!r}", hint="give a number, a text or a list of numbers"
    )


def _element_type(dtype: str, name: str) -> int:
    if dtype not in _ELEMENT_TYPES:
        raise ModelError(
            f"tensor {name!r} has the dtype {dtype}, which a probe model cannot hold",
            hint=f"use {', '.join(_ELEMENT_TYPES)}",
        )
    return _ELEMENT_TYPES[dtype]


def _tensor(name: str, array: Array) -> bytes:
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return b"".join(
        (
            *(_number(1, dim) for dim in array.shape),
            _number(2, _element_type(array.dtype.name, name)),
            _text(8, name),
            _message(9, little.tobytes()),
        )
    )


def _value_info(spec: TensorSpec) -> bytes:
    shape = b"".join(_message(1, _number(1, dim)) for dim in spec.shape)
    tensor = _number(1, _element_type(spec.dtype, spec.name)) + _message(2, shape)
    return _text(1, spec.name) + _message(2, _message(1, tensor))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of one message; fixed-width numbers come as their bytes."""
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        kind = tag & 7
        if kind == _VARINT:
            value, position = _read_varint(data, position)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, position = _read_varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise _cut_off(len(data))
        if position + size > len(data):
            raise _cut_off(len(data))
        yield tag >> 3, data[position : position + size]
        position += size


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _cut_off(len(data))


def _cut_off(size_bytes: int) -> ModelError:
    return ModelError(f"no whole ONNX file ({size_bytes} bytes)", hint="write or copy it again")
