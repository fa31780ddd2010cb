"""Write the model that runs one kernel again and again, each time on what the last one made.

In:  key and sizes of a kernel, a precision, how many links.  Out: the bytes of an ONNX file.  Pure.
A GPU runs kernels while the processor waits, and no clock of ONNX Runtime sees them: what a kernel
takes is the difference between a chain with it and the same chain without. One number enters, and
one leaves; each link spreads its number over the kernel's input, runs the kernel, and picks one
number of the result, so that links cannot overlap and nothing is copied but that number.
A pooling writes the input, because TensorRT fuses no pooling with its neighbours: without it the
chain without the kernel would be simplified away. After an operator that works element by element
another pooling keeps the pick from being moved in front of it; after an integer kernel it keeps the
rounding with the kernel. (Seen in the programs that TensorRT-RTX 1.7 made of such chains.)
Precision lives in the model: fp16 weights and tensors, or Q/DQ pairs (int8, symmetric, weights per
channel, float bias), as TensorRT takes them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgekit.profiler.onnx_writer import Attribute, Node, write_model
from edgekit.profiler.probe_branch import FEEDER, Branch
from edgekit.profiler.probe_models import branch_of
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import Array, TensorSpec

_FLOAT_OF = {"QLinearConv": "Conv", "QGemm": "Gemm", "QLinearMatMul": "MatMul"}
"""Kernels that have weights, by the names of their integer forms."""
_OPAQUE = ("Conv", "Gemm", "MatMul", "MaxPool", "AveragePool", "ConvTranspose", "Resize",
           "GlobalAveragePool", "ReduceMean", "LRN")  # fmt: skip
"""A number of their results cannot be had without the kernel."""
_MOVERS = ("View", "Concat", "Slice", "Split", "Gather", "Pad")
"""A GPU's runtime leaves most of them out; alone they would look dearer than they are."""
_POOLING: Mapping[str, Attribute] = {
    "kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1],
}  # fmt: skip
_SCALE = 0.02
_FIRST = "k0_"


def is_measurable(key: str, precision: Precision) -> bool:
    """Whether a chain can be made of it: integer kernels at int8 only, and the others otherwise."""
    words = key.split(" ")
    if precision == "int8":
        return words[0] in _FLOAT_OF and "u8" not in words
    is_integer = words[0].startswith(("Q", "Nhwc", "Dequantize")) or "u8" in words
    return not (is_integer or words[0] in _MOVERS)


def chain_of(
    key: str, sizes: tuple[int, ...], precision: Precision, *, links: int, has_kernel: bool
) -> bytes | None:
    """The model, or None for a key of which none can be made."""
    if not is_measurable(key, precision):
        return None
    words = key.split(" ")
    name = " ".join([_FLOAT_OF.get(words[0], words[0]), *words[1:]])
    if precision == "int8" and words[0] == "QLinearConv":
        name += " plain"
    first = branch_of(name, sizes, _FIRST)
    if first is None or any(spec.dtype != "float32" for spec in first.inputs):
        return None
    chain = _Chain(precision=precision)
    for index in range(links):
        prefix = f"k{index}_"
        chain.add(_again(first, prefix), prefix, has_kernel=has_kernel)
    return chain.model()


@dataclass
class _Chain:
    """Collects the links."""

    precision: Precision
    nodes: list[Node] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)
    number: str = "x"
    """Name of the one number that the next link starts from."""

    def add(self, branch: Branch, prefix: str, *, has_kernel: bool) -> None:
        """One link: its number spread, the kernel, and a number of what it makes."""
        for index, spec in enumerate(branch.inputs):
            self._spread(spec, prefix, index)
        body = [node for node in branch.nodes if not _is_feeder(node)]
        last = body.pop()
        fed = [self._fed(spec) for spec in branch.inputs]
        result = fed[0]
        if has_kernel:
            self._take_weights(branch, prefix, body)
            self.nodes += [_shared(node, branch.weights, prefix) for node in body]
            result = last.inputs[0]
            if self.precision == "int8":
                result = self._pair(result)
        if self.precision == "int8" or not body or body[0].op_type not in _OPAQUE:
            if not body or body[0].op_type != "Conv":
                four = (1, 1, 1, -1) if self.precision == "int8" else _four(branch.inputs[0].shape)
                result = self._node("Reshape", result, self._shape("flat", four))
            result = self._node("MaxPool", result, **_POOLING)
        # A second input must be made in the chain without the kernel too, where nobody reads it.
        numbers = [self._pick(name) for name in (result, *fed[1:])]
        number = numbers[0]
        for other in numbers[1:]:
            number = self._node("Add", number, other)
        self.number = self._node("Sigmoid", number)

    def model(self) -> bytes:
        """The bytes of the file."""
        return write_model(
            self.nodes,
            inputs=[TensorSpec(name="x", dtype="float32", shape=(1,))],
            outputs=[TensorSpec(name=self.number, dtype="float32", shape=(1,))],
            weights=self.weights,
        )

    def _spread(self, spec: TensorSpec, prefix: str, index: int) -> None:
        """Fill a tensor of this shape, each input of a kernel with another number."""
        number = self.number
        if index:
            factor = self._weight(f"factor{index}", np.array([1 / (1 + index)], np.float32))
            number = self._node("Mul", number, factor)
        if self.precision == "fp16":
            number = self._node("Cast", number, to=10)
        wide = self._node("Expand", number, self._shape(f"wide{index}", _four(spec.shape)))
        pooled = self._node("MaxPool", wide, **_POOLING)
        fed = f"{spec.name}-{FEEDER}"
        shape = self._shape(f"fed{index}", spec.shape)
        self.nodes.append(Node(op_type="Reshape", inputs=(pooled, shape), outputs=(fed,), name=fed))
        if self.precision == "int8":
            self._pair(fed)

    def _take_weights(self, branch: Branch, prefix: str, body: list[Node]) -> None:
        """The kernel's weights, once for all links; in int8 those with channels as integers."""
        kept = {name for node in body if node.op_type == "Resize" for name in node.inputs}
        for name, array in branch.weights.items():
            short = name.removeprefix(prefix)
            if short in self.weights:
                continue
            if self.precision == "fp16" and array.dtype == np.float32 and name not in kept:
                array = array.astype(np.float16)
            self.weights[short] = array
        if self.precision != "int8":
            return
        for position, node in enumerate(body):
            if node.op_type in _FLOAT_OF.values():
                value = self._paired(node.inputs[0])
                weight = self._dequantized(node, branch.weights[node.inputs[1]], prefix)
                inputs = (value, weight, *node.inputs[2:])
                body[position] = Node(
                    op_type=node.op_type, inputs=inputs, outputs=node.outputs, name=node.name,
                    attributes=node.attributes,
                )  # fmt: skip

    def _dequantized(self, node: Node, array: Array, prefix: str) -> str:
        """Integers for a float weight of this node, with a scale for each output channel."""
        axis = 0 if node.op_type == "Conv" else array.ndim - 1
        short = node.inputs[1].removeprefix(prefix)
        self.weights.pop(short, None)
        name, scales, zeros = (f"{short}-{part}" for part in ("int8", "scale", "zero"))
        if name not in self.weights:
            scale = float(np.abs(array).max() or 1.0) / 127
            self.weights[name] = np.clip(np.rint(array / scale), -127, 127).astype(np.int8)
            self.weights[scales] = np.full(array.shape[axis], scale, np.float32)
            self.weights[zeros] = np.zeros(array.shape[axis], np.int8)
        return self._node("DequantizeLinear", name, scales, zeros, axis=axis)

    def _pair(self, name: str) -> str:
        """QuantizeLinear and DequantizeLinear; the result's name ends like ``_paired``."""
        scale = self._weight("scale", np.array(_SCALE, np.float32))
        zero = self._weight("zero", np.array(0, np.int8))
        integers = f"{name}-integers"
        self.nodes.append(
            Node(op_type="QuantizeLinear", inputs=(name, scale, zero), outputs=(integers,),
                 name=integers)
        )  # fmt: skip
        back = self._paired(name)
        self.nodes.append(
            Node(op_type="DequantizeLinear", inputs=(integers, scale, zero), outputs=(back,),
                 name=back)
        )  # fmt: skip
        return back

    @staticmethod
    def _paired(name: str) -> str:
        return f"{name}-rounded"

    def _pick(self, result: str) -> str:
        """The first number of a tensor."""
        flat = self._node("Reshape", result, self._shape("line", (-1,)))
        bounds = [self._shape(name, (value,)) for name, value in (("from", 0), ("until", 1))]
        number = self._node("Slice", flat, *bounds)
        return self._node("Cast", number, to=1) if self.precision == "fp16" else number

    def _fed(self, spec: TensorSpec) -> str:
        """What an input of the kernel is called."""
        fed = f"{spec.name}-{FEEDER}"
        return self._paired(fed) if self.precision == "int8" else fed

    def _shape(self, name: str, shape: tuple[int, ...]) -> str:
        return self._weight(f"shape-{name}-{'x'.join(map(str, shape))}", np.array(shape, np.int64))

    def _weight(self, name: str, array: Array) -> str:
        self.weights.setdefault(name, array)
        return name

    def _node(self, kind: str, *inputs: str, **attributes: Attribute) -> str:
        result = f"c{len(self.nodes)}"
        self.nodes.append(
            Node(op_type=kind, inputs=inputs, outputs=(result,), attributes=attributes, name=result)
        )
        return result


def _again(branch: Branch, prefix: str) -> Branch:
    """The same operators on the same weights, under names that begin with ``prefix``."""

    def named(name: str) -> str:
        return prefix + name.removeprefix(_FIRST) if name else name

    nodes = tuple(
        Node(
            op_type=node.op_type, inputs=tuple(map(named, node.inputs)),
            outputs=tuple(map(named, node.outputs)), attributes=node.attributes,
            domain=node.domain, name=named(node.name),
        )
        for node in branch.nodes
    )  # fmt: skip
    inputs = tuple(
        TensorSpec(name=named(spec.name), dtype=spec.dtype, shape=spec.shape)
        for spec in branch.inputs
    )
    weights = {named(name): array for name, array in branch.weights.items()}
    return Branch(nodes=nodes, inputs=inputs, output=branch.output, weights=weights)


def _is_feeder(node: Node) -> bool:
    """Whether it writes an input of the kernel; the last operator of a branch is none."""
    return node.outputs[0].endswith(f"-{FEEDER}") and node.op_type == "Relu"


def _shared(node: Node, weights: Mapping[str, Array], prefix: str) -> Node:
    """The operator with the weights under the names that all links share."""
    inputs = tuple(name.removeprefix(prefix) if name in weights else name for name in node.inputs)
    return Node(
        op_type=node.op_type, inputs=inputs, outputs=node.outputs, attributes=node.attributes,
        domain=node.domain, name=node.name,
    )  # fmt: skip


def _four(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The same numbers as an image of batch 1."""
    rest = shape[1:] if shape[0] == 1 and len(shape) > 1 else shape
    height, width = (rest[-2], rest[-1]) if len(rest) > 1 else (1, rest[-1])
    return 1, math.prod(rest[:-2]), height, width
