"""What in a shard TensorRT is known to refuse, before a board finds out.

In:  a shard.  Out: Obstacles, each with its operator, its node and the next thing to try.  Pure: no
TensorRT is needed; where one is installed, ``parser.py`` asks it as well.

Source: onnx-tensorrt's operator table and what the parsers of TensorRT 10 and 11 answer; a test
compares ``UNSUPPORTED`` with the parser of TensorRT-RTX, operator by operator.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
import onnx.numpy_helper

UNSUPPORTED = frozenset(
    {"AffineGrid", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr",
     "BitwiseXor", "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger",
     "CumProd", "DFT", "DeformConv", "Det", "DynamicQuantizeLinear", "ImageDecoder",
     "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial",
     "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement", "OptionalHasElement",
     "QLinearConv", "QLinearMatMul", "RegexFullMatch", "SequenceAt", "SequenceConstruct",
     "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap",
     "SoftmaxCrossEntropyLoss", "SplitToSequence", "StringConcat", "StringNormalizer",
     "StringSplit", "SwiGLU", "TfIdfVectorizer", "Unique"}
)  # fmt: skip
"""Operators of ONNX that no TensorRT knows."""
_SIZED_BY_NUMBERS = frozenset({"NonMaxSuppression", "NonZero"})
_ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_INTEGERS = frozenset({"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})
_NO_TYPES = {
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.STRING: "text",
    onnx.TensorProto.INT16: "int16",
    onnx.TensorProto.UINT16: "uint16",
    onnx.TensorProto.UINT32: "uint32",
    onnx.TensorProto.UINT64: "uint64",
    onnx.TensorProto.COMPLEX64: "complex numbers",
    onnx.TensorProto.COMPLEX128: "complex numbers",
}

FROM_FLOAT = "give the float model it was made from, and build it with --precision int8"
ELSEWHERE = (
    'cut so that this operator runs on another device, or write provider = "cuda" or "cpu" for '
    "this one in the fleet file"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """One operator that TensorRT does not take."""

    operator: str
    node: str
    why: str
    hint: str = ELSEWHERE

    def __str__(self) -> str:
        return f"{self.operator} ({self.node}): {self.why}"


def obstacles_of(proto: onnx.ModelProto) -> tuple[Obstacle, ...]:
    """Every operator of ``proto`` that is known to be refused, in its order; mostly none."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant":
            value = next((one.t for one in node.attribute if one.name == "value"), None)
            constants |= {} if value is None else {node.output[0]: value}
    found = [*_of_borders(proto.graph)]
    for node in proto.graph.node:
        found += _of_node(node, constants)
    return tuple(found)


def _of_borders(graph: onnx.GraphProto) -> Iterator[Obstacle]:
    """Types that no engine has; uint8 only comes in, to be cast, or goes out, having been cast."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    for value in graph.input:
        kind, reading = value.type.tensor_type.elem_type, readers.get(value.name, [])
        if kind in _NO_TYPES and reading:
            yield _obstacle(reading[0], f"it reads {value.name!r} of {_NO_TYPES[kind]}")
        for node in reading:
            if kind == onnx.TensorProto.UINT8 and node.op_type not in ("Cast", *_ROUNDING):
                yield _obstacle(node, f"it reads {value.name!r} of uint8, which may only be cast")
    for node in graph.node:
        to_unsigned = any(
            one.name == "to" and one.i == onnx.TensorProto.UINT8 for one in node.attribute
        )
        if node.op_type == "Cast" and to_unsigned and node.output[0] in readers:
            yield _obstacle(node, "it makes uint8 that an operator reads, not who comes behind")


def _of_node(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Iterator[Obstacle]:
    if node.domain not in ("", "ai.onnx"):
        is_integer = node.op_type.startswith("QLinear")
        why = f"an operator of {node.domain}, not of ONNX"
        yield _obstacle(node, why, FROM_FLOAT if is_integer else ELSEWHERE)
    elif node.op_type in UNSUPPORTED:
        is_integer = node.op_type.startswith("QLinear") or node.op_type in _INTEGERS
        yield _obstacle(
            node, "an operator that no TensorRT has", FROM_FLOAT if is_integer else ELSEWHERE
        )
    elif node.op_type in _SIZED_BY_NUMBERS:
        yield _obstacle(node, "the size of its output depends on the numbers it gets")
    elif node.op_type == "MaxPool" and len(node.output) > 1 and node.output[1]:
        yield _obstacle(node, "it also makes indices, and TensorRT's makes maxima only")
    elif node.op_type in _ROUNDING:
        yield from _of_rounding(node, constants)


def _of_rounding(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> Iterator[Obstacle]:
    """TensorRT's integers are signed and their zero is 0; parsers take some others as if they were
    these, so that numbers above 127 would be cut off in silence."""
    integers = [constants.get(name) for name in (node.input[0], *node.input[2:]) if name]
    kinds = {one.data_type for one in integers if one is not None} - {onnx.TensorProto.FLOAT}
    wrong = kinds - {onnx.TensorProto.INT8}
    zero = constants.get(node.input[2]) if len(node.input) > 2 else None
    if node.input[1] not in constants:
        yield _obstacle(node, "its scale is computed, and TensorRT wants a constant", FROM_FLOAT)
    elif wrong:
        kind = onnx.TensorProto.DataType.Name(min(wrong)).lower()
        yield _obstacle(node, f"its integers are {kind}, not int8", FROM_FLOAT)
    elif zero is None and len(node.input) > 2:
        yield _obstacle(node, "its zero point is computed, not a constant 0", FROM_FLOAT)
    elif zero is None and node.op_type == "QuantizeLinear":
        yield _obstacle(node, "without a zero point it makes uint8, not int8", FROM_FLOAT)
    elif zero is not None and onnx.numpy_helper.to_array(zero).any():
        yield _obstacle(node, "its zero point is not 0", FROM_FLOAT)


def _obstacle(node: onnx.NodeProto, why: str, hint: str = ELSEWHERE) -> Obstacle:
    return Obstacle(
        operator=f"{node.domain}::{node.op_type}" if node.domain else node.op_type,
        node=node.name or node.output[0],
        why=why,
        hint=hint,
    )
