"""Where a runtime lays tensors out with the channels last, for the sake of integer convolutions.

In:  operators in order.  Out: the same with the transpositions that the runtime adds, and without
those that it saves.  Pure.
Integer convolutions read and write channels last. What lies between two of them can mostly follow;
whether it does, the runtime decides by counting transpositions: it moves one behind an operator
where fewer remain, counting a result as free that leads to another transposition.
Source: ONNX Runtime, NhwcTransformer and transpose optimizer (CalculateCost), and their graphs.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import msgspec

from edgekit.planner.integer_chains import Step
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import KernelShape, OpCost

HABIT = "layout NHWC int8"
_TO_LAST, _FROM_LAST = "Transpose 0231", "Transpose 0312"
_POOLS = {"MaxPool": "NhwcMaxPool", "QLinearAveragePool": "QLinearAveragePool",
          "QLinearGlobalAveragePool": "QLinearGlobalAveragePool"}  # fmt: skip
_FOLLOWING = {
    "QuantizeLinear", "DequantizeLinear", "QLinearAdd", "QLinearMul", "QLinearConcat",
    "QLinearSigmoid", "QLinearLeakyRelu", "Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Relu",
    "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Exp", "Sqrt", "Slice",
    "Pad", "Concat", "Split", "Resize",
}  # fmt: skip
"""Operators that a transposition can move through."""


def laid_out(
    steps: Sequence[Step], tensor: Mapping[str, TensorSpec], leaving: Set[str]
) -> list[Step]:
    """``steps`` with the runtime's transpositions; as they are without an integer convolution."""
    if not any(_word(op) == "QLinearConv" for _, op in steps):
        return list(steps)
    return _Layout(steps=steps, tensor=tensor, leaving=leaving).result()


def _word(op: OpCost) -> str:
    return op.kernel.op_type if op.kernel is not None else op.op_type


@dataclass
class _Layout:
    """Walks the operators, and remembers how each tensor lies."""

    steps: Sequence[Step]
    tensor: Mapping[str, TensorSpec]
    leaving: Set[str]
    leading: set[str] = field(default_factory=set)
    """Tensors from which another transposition is reached."""
    makers: dict[str, int] = field(default_factory=dict)
    last: set[str] = field(default_factory=set)
    """Tensors that are made with the channels last."""
    both: set[str] = field(default_factory=set)
    """Tensors of which there is a transposed copy."""
    found: list[Step] = field(default_factory=list)

    def result(self) -> list[Step]:
        for _, op in reversed(self.steps):
            if self._leads(op):
                self.leading.update(op.inputs)
        for position, op in self.steps:
            self.makers.update(dict.fromkeys(op.outputs, position))
            self._add(position, op)
        for name in self.makers:
            if name in self.leaving:
                self._plain(name)
        return self.found

    def _leads(self, op: OpCost) -> bool:
        word = _word(op)
        if word in ("QLinearConv", "Transpose"):
            return True
        return (word in _FOLLOWING or word in _POOLS) and bool(self.leading & set(op.outputs))

    def _add(self, position: int, op: OpCost) -> None:
        word = _word(op)
        key = op.kernel.key if op.kernel is not None else op.op_type
        if word == "QLinearConv" and self._is_image(*op.inputs):
            self._launch_last(position, op)
        elif word in _POOLS and op.inputs and op.inputs[0] in self.last:
            self._launch_last(position, _renamed(op, _POOLS[word]))
        elif key.startswith(_TO_LAST) and op.inputs[0] in self.last:
            return
        elif word in _FOLLOWING and self._follows(op):
            self._launch_last(position, self._along_channels(op))
        else:
            for name in op.inputs:
                self._plain(name)
            self.found.append((position, op))

    def _follows(self, op: OpCost) -> bool:
        """Whether fewer transpositions remain if one moves from before ``op`` to behind it."""
        if not self._is_image(*op.inputs, *op.outputs):
            return False
        saved = sum(1 if name in self.last else -1 for name in op.inputs)
        is_free = bool(self.leading & set(op.outputs))
        return saved > (0 if is_free else 1)

    def _is_image(self, *names: str) -> bool:
        return bool(names) and all(len(self.tensor[name].shape) == 4 for name in names)

    def _launch_last(self, position: int, op: OpCost) -> None:
        for name in op.inputs:
            if name not in self.last and name not in self.both:
                self._transpose(position, name, _TO_LAST)
        self.found.append((position, op))
        self.last.update(op.outputs)

    def _plain(self, name: str) -> None:
        if name in self.last and name not in self.both:
            self._transpose(self.makers[name], name, _FROM_LAST)

    def _transpose(self, position: int, name: str, key: str) -> None:
        self.both.add(name)
        spec = self.tensor[name]
        batch, channels, height, width = spec.shape
        sizes = (batch, channels, height, width) if key == _TO_LAST else (
            batch, height, width, channels
        )  # fmt: skip
        suffix = " u8" if spec.nbytes == spec.element_count else ""
        copy = OpCost(
            name=f"{name} {key}", op_type="Transpose", inputs=(name,), outputs=(), work_flop=0,
            traffic_bytes=2 * spec.nbytes, weight_bytes=0, parameter_count=0,
            kernel=KernelShape(key=f"{key}{suffix}", sizes=sizes),
        )  # fmt: skip
        self.found.append((position, copy))

    def _along_channels(self, op: OpCost) -> OpCost:
        """Its kernel, where another order of the numbers changes it."""
        kernel = op.kernel
        if kernel is None:
            return op
        word, sizes = kernel.op_type, kernel.sizes
        if word in ("QLinearConcat", "Concat", "Split") and len(sizes) == 3:
            whole = op.inputs[0] if word == "Split" else op.outputs[0]
            run = self.tensor[whole].shape[1]
            key = kernel.key.replace("axis1", "axis3")
            return _rekeyed(op, key, (sizes[0], run, sizes[2]))
        if word == "Slice":
            return _rekeyed(op, kernel.key, (sizes[0], self.tensor[op.outputs[0]].shape[1], 1))
        if word == "Resize":
            return _rekeyed(op, f"{kernel.key} last", sizes)
        return op


def _renamed(op: OpCost, word: str) -> OpCost:
    kernel = op.kernel
    if kernel is None:
        return op
    words = [word, *kernel.key.removesuffix(" u8").removesuffix(" plain").split(" ")[1:]]
    return _rekeyed(op, " ".join(words), kernel.sizes)


def _rekeyed(op: OpCost, key: str, sizes: tuple[int, ...]) -> OpCost:
    return msgspec.structs.replace(op, kernel=KernelShape(key=key, sizes=sizes))
