"""Which float operators between DequantizeLinear and QuantizeLinear a runtime runs on integers.

In:  operators in order, each with its position.  Out: the same with every such chain as one integer
operator, as ``profiler.habits`` found that the runtime joins them ("QDQ Conv" and so on).  Pure.
A quantised model in QDQ form keeps its float operators and marks each tensor by a QuantizeLinear
and a DequantizeLinear for every reader. The runtime replaces DequantizeLinear, operator,
QuantizeLinear by an integer kernel where both ends have a type it takes, and else runs all of them,
those of the weights too.
Source: ONNX Runtime, "Quantize ONNX models", QDQ format, and the graphs it makes of them.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import msgspec

from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import KernelShape, OpCost

Step = tuple[int, OpCost]
"""A position in the workload, and an operator that runs there."""
QDQ = "QDQ "
"""Begins the names of these habits, such as "QDQ Conv", or "QDQ Conv+Relu" with an activation."""
SIGNED, SIGNED_UNFORKED = "QDQ int8", "QDQ int8 unforked"
"""Signed activations are taken too: always, or where a single operator reads the tensor."""
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
ON_BYTES = (
    "MaxPool", "Resize", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice",
    "Gather", "Split",
)  # fmt: skip
"""Operators that run on bytes as they are; the others have an integer form of another name."""
INTEGER_FORMS = {
    "Conv": "QLinearConv", "Add": "QLinearAdd", "Mul": "QLinearMul", "Concat": "QLinearConcat",
    "Sigmoid": "QLinearSigmoid", "LeakyRelu": "QLinearLeakyRelu", "Softmax": "QLinearSoftmax",
    "AveragePool": "QLinearAveragePool", "GlobalAveragePool": "QLinearGlobalAveragePool",
    "MatMul": "QLinearMatMul", "Gemm": "QGemm",
}  # fmt: skip
_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat")
_ALIKE = ("Add", "Mul", "Concat")
"""Operators whose constants must have the type of the other inputs."""
_WITH_BIAS = ("Conv", "Gemm")
_ACTIVATIONS = ("Relu", "Clip")


def joined(
    steps: Sequence[Step], fused: Set[str], tensor: Mapping[str, TensorSpec], leaving: Set[str]
) -> list[Step]:
    """``steps`` with every chain that the runtime joins as one; ``leaving`` must exist as it is."""
    if not any(op.op_type in (QUANTIZE, DEQUANTIZE) for _, op in steps):
        return list(steps)
    once = _rounded_once(steps, fused, tensor, leaving)
    return _Joining(steps=once, fused=fused, tensor=tensor, leaving=leaving).result()


def _rounded_once(
    steps: Sequence[Step], fused: Set[str], tensor: Mapping[str, TensorSpec], leaving: Set[str]
) -> list[Step]:
    """``steps`` without the integers between a layer and its activation.

    The quantizer rounds the layer's results, and those of the activation again; the runtime keeps
    the second rounding alone where its least integer stands for 0, so that the activation is
    contained in it. A workload does not know zero points: unsigned integers have theirs there,
    signed ones are taken to be symmetric.
    Source: ONNX Runtime, DoubleQDQPairsRemover and ReluQuantFusion.
    """
    makers = {name: op for _, op in steps for name in op.outputs}
    readers: dict[str, list[OpCost]] = {}
    for _, op in steps:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    gone: set[str] = set()
    direct: dict[str, OpCost] = {}
    for _, op in steps:
        if op.op_type not in _ACTIVATIONS or not _is_read_once(op.outputs[0], readers, leaving):
            continue
        back = makers.get(op.inputs[0])
        there = makers.get(back.inputs[0]) if back and back.op_type == DEQUANTIZE else None
        layer = makers.get(there.inputs[0]) if there and there.op_type == QUANTIZE else None
        if back is None or there is None or layer is None:
            continue
        between = (there.inputs[0], there.outputs[0], back.outputs[0])
        is_joined = f"{QDQ}{layer.op_type}+{op.op_type}" in fused
        rounding = readers[op.outputs[0]][0]
        is_rounded = rounding.op_type == QUANTIZE and tensor[rounding.outputs[0]].dtype == "uint8"
        if is_joined and is_rounded and all(_is_read_once(n, readers, leaving) for n in between):
            gone.update((there.name, back.name))
            inputs = (there.inputs[0], *op.inputs[1:])
            direct[op.name] = msgspec.structs.replace(op, inputs=inputs)
    return [(at, direct.get(op.name, op)) for at, op in steps if op.name not in gone]


def _is_read_once(name: str, readers: Mapping[str, Sequence[OpCost]], leaving: Set[str]) -> bool:
    return len(readers.get(name, ())) == 1 and name not in leaving


@dataclass
class _Joining:
    """Looks at one operator after the other, and notes which of them go."""

    steps: Sequence[Step]
    fused: Set[str]
    tensor: Mapping[str, TensorSpec]
    leaving: Set[str]
    makers: dict[str, OpCost] = field(default_factory=dict)
    readers: dict[str, list[OpCost]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    """Names of operators that became part of another."""
    taken: dict[str, int] = field(default_factory=dict)
    """Float tensors to how many of their readers take the integers instead."""

    def __post_init__(self) -> None:
        for _, op in self.steps:
            self.makers.update(dict.fromkeys(op.outputs, op))
            for name in op.inputs:
                self.readers.setdefault(name, []).append(op)

    def result(self) -> list[Step]:
        replaced = {op.name: one for _, op in self.steps if (one := self._integer(op)) is not None}
        found: list[Step] = []
        for position, op in self.steps:
            if op.name in self.gone:
                continue
            if op.op_type == DEQUANTIZE:
                found += [(position, op)] * self._left(op)
            elif op.name in replaced:
                found.append((position, replaced[op.name]))
            else:
                found += [(position, _prepared(op, count)) for count in _integer_counts(op)]
                found.append((position, op))
        return found

    def _left(self, op: OpCost) -> int:
        """The runtime gives each reader that needs floats a DequantizeLinear of its own."""
        name = op.outputs[0]
        return self._count(name) - self.taken.get(name, 0)

    def _count(self, name: str) -> int:
        return len(self.readers.get(name, ())) + (name in self.leaving)

    def _integer(self, op: OpCost) -> OpCost | None:
        """The integer operator that replaces ``op``, its readers' ends noted as gone."""
        kind, kernel = op.op_type, op.kernel
        if kernel is None or kind in (QUANTIZE, DEQUANTIZE) or not op.inputs:
            return None
        if f"{QDQ}{_form(kernel)}" not in self.fused:
            return None
        if kind in _WITH_WEIGHTS and op.weight_bytes and not op.dequantized:
            return None
        begins = [self._origin(name) for name in op.inputs]
        ends, between = self._ends(op)
        if not ends or None in begins:
            return None
        names = [one.inputs[0] for one in begins if one is not None]
        results = [one.outputs[0] for one in ends]
        types = {self._dtype(name) for name in (*names, *results)}
        if kind in _ALIKE:
            types.update(one.dtype for one in op.dequantized)
        if len(types) > 1 or not (types == {"uint8"} or kind in ON_BYTES or SIGNED in self.fused):
            return None
        self.gone.update(one.name for one in (*ends, *between))
        for name in op.inputs:
            self.taken[name] = self.taken.get(name, 0) + 1
        return msgspec.structs.replace(
            op, op_type=INTEGER_FORMS.get(kind, f"{kind} u8"), inputs=tuple(dict.fromkeys(names)),
            outputs=tuple(results), kernel=_integer_kernel(op, kernel), dequantized=(),
        )  # fmt: skip

    def _origin(self, name: str) -> OpCost | None:
        maker = self.makers.get(name)
        return maker if maker is not None and maker.op_type == DEQUANTIZE else None

    def _ends(self, op: OpCost) -> tuple[list[OpCost], list[OpCost]]:
        """The QuantizeLinear behind each result, and an activation before it; none if one lacks."""
        found: list[OpCost] = []
        between: list[OpCost] = []
        for name in op.outputs:
            reader = self._sole_reader(name)
            if reader is not None and reader.op_type in _ACTIVATIONS:
                if f"{QDQ}{op.op_type}+{reader.op_type}" not in self.fused:
                    return [], []
                between.append(reader)
                reader = self._sole_reader(reader.outputs[0])
            if reader is None or reader.op_type != QUANTIZE:
                return [], []
            found.append(reader)
        return found, between

    def _sole_reader(self, name: str) -> OpCost | None:
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.leaving else None

    def _dtype(self, name: str) -> str:
        """As the runtime sees it: it shifts signed bytes to unsigned ones where none forks."""
        dtype = self.tensor[name].dtype
        if dtype != "int8" or SIGNED_UNFORKED not in self.fused or name not in self.makers:
            return dtype
        reader = self._sole_reader(name)
        if reader is None or reader.op_type != DEQUANTIZE:
            return dtype
        return "uint8" if self._count(reader.outputs[0]) == 1 else dtype


def _form(kernel: KernelShape) -> str:
    """How a habit calls the operator; a Resize by its mode, since only copies run on bytes."""
    words = kernel.key.split(" ")
    if words[0] == "View":
        return words[1]
    return f"Resize {words[1]}" if words[0] == "Resize" else words[0]


def _integer_counts(op: OpCost) -> list[int]:
    """Elements of each weight that a DequantizeLinear makes floats of at every run.

    A bias in floats is no exception: the runtime quantises it as soon as the weights are.
    """
    counts = [one.element_count for one in op.dequantized]
    rest_bytes = op.weight_bytes - sum(one.nbytes for one in op.dequantized)
    if op.op_type in _WITH_BIAS and len(counts) == 1 and rest_bytes > 0:
        counts.append(rest_bytes // 4)
    return counts


def _prepared(op: OpCost, count: int) -> OpCost:
    """What makes floats of ``count`` integers, since ``op`` was not joined."""
    return OpCost(
        name=f"{op.name} weights", op_type=DEQUANTIZE, inputs=(), outputs=(), work_flop=2 * count,
        traffic_bytes=5 * count, weight_bytes=count, parameter_count=0,
        kernel=KernelShape(key=DEQUANTIZE, sizes=(1, count)),
    )  # fmt: skip


def _integer_kernel(op: OpCost, kernel: KernelShape) -> KernelShape:
    words = kernel.key.split(" ")
    if words[0] == "View":
        return kernel
    if words[0] in INTEGER_FORMS:
        words[0] = INTEGER_FORMS[words[0]]
        if words[0] == "QLinearConv" and any(
            one.dtype == "uint8" and len(one.shape) > 1 for one in op.dequantized
        ):
            words.append("u8")
        if words[0] == "QLinearAveragePool":
            words.append("plain")
    else:
        words.append("u8")
    return KernelShape(key=" ".join(words), sizes=kernel.sizes)
