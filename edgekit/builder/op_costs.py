"""Arithmetic of one ONNX operator from its shapes: the table behind every workload.

In: a node with the shapes of its inputs and outputs.  Out: work in flop (1 multiply-add = 2 flop,
integer operations alike; exp, log, sqrt, division count 1).  Pure.
An operator that is not in the table is a ModelError that names it, never a silent zero; operators
that only move data are in the table, with work 0. A bias that starts an accumulation is free.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx

from edgekit.errors import ModelError
from edgekit.spec.tensors import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShapes:
    """A node with the specs of its inputs (None where an optional input is absent) and outputs."""

    node: onnx.NodeProto
    inputs: tuple[TensorSpec | None, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def out_count(self) -> int:
        """Elements of the first output."""
        return self.outputs[0].element_count

    @property
    def in_count(self) -> int:
        """Elements of the first input."""
        return self.shape(0, element_count=True)[0]

    def shape(self, index: int, *, element_count: bool = False) -> tuple[int, ...]:
        """Shape of input ``index`` (or its element count, as a tuple of one)."""
        spec = self.inputs[index] if index < len(self.inputs) else None
        if spec is None:
            raise ModelError(
                f"operator {self.node.op_type} ({self.node.name}) lacks its input {index}",
                hint="export the model again",
            )
        return (spec.element_count,) if element_count else spec.shape

    def attribute(self, name: str, default: Any) -> Any:
        """Attribute ``name``, or ``default``."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default


Rule = Callable[[NodeShapes], int]


def work_of(shapes: NodeShapes) -> int:
    """Work of one node in flop.

    Raises: ModelError naming the operator if the table lacks it.
    """
    rule = _RULES.get(shapes.node.op_type)
    if rule is None or shapes.node.domain not in _DOMAINS:
        domain = shapes.node.domain or "ai.onnx"
        raise ModelError(
            f"operator {domain}.{shapes.node.op_type} ({shapes.node.name}) is not in the cost "
            "table, so its work is unknown",
            hint="export the model without it, or add its rule to edgekit/builder/op_costs.py",
        )
    return rule(shapes)


_DOMAINS = {"", "ai.onnx", "com.microsoft"}


def _nothing(_: NodeShapes) -> int:
    return 0


def _per_output(flop: int) -> Rule:
    return lambda shapes: flop * shapes.out_count


def _per_input(flop: int) -> Rule:
    return lambda shapes: flop * shapes.in_count


def _convolution(weight_index: int) -> Rule:
    """2 x outputs x (input channels / groups) x kernel. Weight shape (O, I / groups, k...)."""

    def rule(shapes: NodeShapes) -> int:
        return 2 * shapes.out_count * math.prod(shapes.shape(weight_index)[1:])

    return rule


def _transposed_convolution(shapes: NodeShapes) -> int:
    """2 x inputs x (output channels / groups) x kernel. Weight shape (I, O / groups, k...)."""
    return 2 * shapes.in_count * math.prod(shapes.shape(1)[1:])


def _matmul(shapes: NodeShapes) -> int:
    """2 x outputs x inner dimension, batched as numpy.matmul."""
    return 2 * shapes.out_count * shapes.shape(0)[-1]


def _gemm(shapes: NodeShapes) -> int:
    inner = shapes.shape(0)[0 if shapes.attribute("transA", 0) else 1]
    scaling = sum(
        shapes.out_count for name in ("alpha", "beta") if shapes.attribute(name, 1.0) != 1.0
    )
    return int(2 * shapes.out_count * inner + scaling)


def _pool(shapes: NodeShapes) -> int:
    """One operation per element of the window."""
    return shapes.out_count * int(math.prod(shapes.attribute("kernel_shape", (1,))))


def _variadic(shapes: NodeShapes) -> int:
    """Sum, Max, Min, Mean of n inputs: n - 1 operations per element."""
    return shapes.out_count * max(1, len(shapes.inputs) - 1)


def _resize(shapes: NodeShapes) -> int:
    """Nearest moves data; linear: 2 flop per tap, 2 taps per scaled dimension; cubic: 4 taps."""
    mode = shapes.attribute("mode", "nearest")
    if mode == "nearest":
        return 0
    before, after = shapes.shape(0), shapes.outputs[0].shape
    scaled = sum(one != other for one, other in zip(before, after, strict=True))
    return 2 * shapes.out_count * int((4 if mode == "cubic" else 2) ** scaled)


def _grid_sample(shapes: NodeShapes) -> int:
    taps = {"nearest": 0, "cubic": 16, "bicubic": 16}.get(shapes.attribute("mode", "linear"), 4)
    return 2 * taps * shapes.out_count


def _local_response(shapes: NodeShapes) -> int:
    """A square and a sum over ``size`` channels, then scale, add, power, divide."""
    return shapes.out_count * (2 * int(shapes.attribute("size", 1)) + 4)


def _roi_align(shapes: NodeShapes) -> int:
    samples = int(shapes.attribute("sampling_ratio", 0)) or 2
    return 8 * samples * samples * shapes.out_count


def _quantized_pool(shapes: NodeShapes) -> int:
    return _pool(shapes) + 2 * shapes.out_count


def _table(rules: dict[str, Rule]) -> dict[str, Rule]:
    """Split the space-separated operator names of each row."""
    return {name: rule for names, rule in rules.items() for name in names.split()}


_RULES: dict[str, Rule] = _table(
    {
        "Conv FusedConv ConvInteger": _convolution(1),
        "QLinearConv": _convolution(3),
        "ConvTranspose": _transposed_convolution,
        "MatMul MatMulInteger FusedMatMul": _matmul,
        "QLinearMatMul": _matmul,
        "Gemm FusedGemm QGemm": _gemm,
        "MaxPool AveragePool LpPool": _pool,
        "QLinearAveragePool": _quantized_pool,
        "GlobalAveragePool GlobalMaxPool GlobalLpPool QLinearGlobalAveragePool": _per_input(1),
        "Relu Abs Neg Floor Ceil Round Sign Not Reciprocal Sqrt Exp Log Erf": _per_output(1),
        "Sin Cos Tan Asin Acos Atan Sinh Cosh Tanh IsNaN IsInf BitShift BitwiseNot": _per_output(1),
        "Add Sub Mul Div Pow Mod PRelu ThresholdedRelu And Or Xor": _per_output(1),
        "Equal Greater GreaterOrEqual Less LessOrEqual Where": _per_output(1),
        "LeakyRelu Clip BatchNormalization": _per_output(2),
        "Sigmoid HardSigmoid Elu Celu Selu Softplus Softsign Shrink": _per_output(4),
        "HardSwish QuickGelu Mish Gelu": _per_output(6),
        "Sum Max Min Mean": _variadic,
        "Softmax LogSoftmax Hardmax": _per_output(4),
        "QLinearSoftmax": _per_output(6),
        "LayerNormalization InstanceNormalization GroupNormalization": _per_output(8),
        "MeanVarianceNormalization SimplifiedLayerNormalization": _per_output(8),
        "SkipLayerNormalization": _per_output(9),
        "LpNormalization": _per_output(3),
        "LRN": _local_response,
        "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ArgMax ArgMin CumSum": _per_input(1),
        "ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp TopK": _per_input(2),
        "Resize Upsample": _resize,
        "GridSample": _grid_sample,
        "RoiAlign": _roi_align,
        "QuantizeLinear DequantizeLinear": _per_output(2),
        "DynamicQuantizeLinear": _per_input(4),
        "QLinearAdd QLinearMul QLinearLeakyRelu": _per_output(5),
        "QLinearSigmoid": _per_output(8),
        "QLinearConcat": _per_output(2),
        "Reshape Flatten Squeeze Unsqueeze Identity Dropout Cast CastLike": _nothing,
        "Transpose Concat Split Slice Gather GatherElements GatherND Pad": _nothing,
        "Expand Tile DepthToSpace SpaceToDepth ScatterElements ScatterND Scatter": _nothing,
        "Constant ConstantOfShape Shape Size Range OneHot EyeLike Trilu ReverseSequence": _nothing,
    }
)
