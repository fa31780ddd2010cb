"""Find out which QDQ chains the runtime runs on integers, from its own optimised graphs.

In:  nothing but the runtime.  Out: names for ``DeviceProfile.fused``, such as "QDQ Conv+Relu".
Each chain is a small model: QuantizeLinear, DequantizeLinear, operator, QuantizeLinear,
DequantizeLinear. Where the runtime joins it, no more than the first and the last remain around one
kernel.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from edgekit.planner.channels_last import HABIT
from edgekit.planner.integer_chains import QDQ, SIGNED, SIGNED_UNFORKED
from edgekit.profiler.onnx_writer import Attribute, ListedNode, Node, write_model
from edgekit.profiler.probe_session import optimized_nodes
from edgekit.spec.tensors import Array, TensorSpec

_CHANNELS, _SIDE_PX = 16, 8
_SHAPE = (1, _CHANNELS, _SIDE_PX, _SIDE_PX)
_SCALE = 6 / 255
"""So that bytes span what a Relu6 lets through."""


def detect_integer_habits() -> tuple[str, ...]:
    """Names of the chains that this runtime joins, and how it lays integer tensors out.

    Raises: DeviceError if the runtime refuses a probe model.
    """
    found = [f"{QDQ}{name}" for name, chain in _chains().items() if _is_joined(chain)]
    if _splits():
        found.append(f"{QDQ}Split")
    if _forked_count() == 0:
        found.append(SIGNED)
    elif _is_joined(_conv(_Chain(dtype="int8"))):
        found.append(SIGNED_UNFORKED)
    if any(node.op_type == "Transpose" for node in _conv(_Chain()).graph()):
        found.append(HABIT)
    return tuple(found)


@dataclass
class _Chain:
    """One QDQ chain as it is written."""

    dtype: str = "uint8"
    result: tuple[int, ...] = ()
    """Shape that the chain makes, if it is not that of its input."""
    nodes: list[Node] = field(default_factory=list)
    inputs: list[TensorSpec] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        zero = {"uint8": 0, "int8": -128}[self.dtype]
        self.weights["scale"] = np.array(_SCALE, np.float32)
        self.weights["zero"] = np.array(zero, self.dtype)

    def fed(self, *shape: int) -> str:
        """A quantised input, as floats."""
        name = f"x{len(self.inputs)}"
        self.inputs.append(TensorSpec(name=name, dtype="float32", shape=shape or _SHAPE))
        return self.pair(name)

    def pair(self, name: str) -> str:
        """QuantizeLinear and DequantizeLinear."""
        return self.node("DequantizeLinear", self.node("QuantizeLinear", name, "scale", "zero"),
                         "scale", "zero")  # fmt: skip

    def weight(self, array: Array) -> str:
        """Constant floats made of integers."""
        name = f"w{len(self.weights)}"
        self.weights[name] = array
        scale = _SCALE**2 if array.dtype == np.int32 else _SCALE
        self.weights[f"{name}s"] = np.array(scale, np.float32)
        self.weights[f"{name}z"] = np.array(0, array.dtype)
        return self.node("DequantizeLinear", name, f"{name}s", f"{name}z")

    def node(self, kind: str, *inputs: str, **attributes: Attribute) -> str:
        """The next operator; its result."""
        result = f"t{len(self.nodes)}"
        self.nodes.append(
            Node(op_type=kind, inputs=inputs, outputs=(result,), attributes=attributes)
        )
        return result

    def graph(self) -> tuple[ListedNode, ...]:
        """What the runtime makes of the chain, the last result quantised too."""
        result = self.pair(self.nodes[-1].outputs[0])
        output = TensorSpec(name=result, dtype="float32", shape=self.result or _SHAPE)
        return optimized_nodes(
            write_model(self.nodes, inputs=self.inputs, outputs=[output], weights=self.weights)
        )


def _is_joined(chain: _Chain) -> bool:
    """Whether one kernel is left besides the quantised inputs and the float result."""
    kinds = [node.op_type for node in chain.graph() if node.op_type != "Transpose"]
    ends = [kind for kind in kinds if kind in ("QuantizeLinear", "DequantizeLinear")]
    allowed = len(chain.inputs) + 1
    is_transposed = any(node.op_type == "Transpose" for node in chain.nodes)
    return len(ends) == allowed and len(kinds) - allowed == (0 if is_transposed else 1)


def _integers(*shape: int, dtype: type = np.int8) -> Array:
    return np.random.default_rng(0).integers(-100, 100, shape).astype(dtype)


def _conv(chain: _Chain, source: str = "") -> _Chain:
    weight = chain.weight(_integers(_CHANNELS, _CHANNELS, 3, 3))
    bias = chain.weight(_integers(_CHANNELS, dtype=np.int32))
    chain.node("Conv", source or chain.fed(), weight, bias, pads=[1, 1, 1, 1])
    return chain


def _activated(name: str) -> _Chain:
    chain = _conv(_Chain())
    limits = {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    if name == "Clip":
        chain.weights |= limits
    chain.node(name, chain.nodes[-1].outputs[0], *(limits if name == "Clip" else ()))
    return chain


def _forked_count() -> int:
    """Float convolutions left of two that read the same signed result of a third."""
    chain = _conv(_Chain(dtype="int8"))
    shared = chain.pair(chain.nodes[-1].outputs[0])
    results = [chain.pair(_conv(chain, shared).nodes[-1].outputs[0]) for _ in range(2)]
    chain.node("Add", *results)
    return sum("QLinear" not in node.op_type and "Conv" in node.op_type for node in chain.graph())


def _splits() -> bool:
    """Whether the parts of a tensor are taken from its bytes."""
    chain = _Chain(result=(1, _CHANNELS // 2, _SIDE_PX, _SIDE_PX))
    half, other = "half", chain.node("Split", chain.fed(), axis=1)
    chain.nodes[-1] = replace(chain.nodes[-1], outputs=(half, other))
    chain.node("Add", chain.pair(half), chain.pair(other))
    return sorted(node.op_type for node in chain.graph()) == [
        "DequantizeLinear", "QLinearAdd", "QuantizeLinear", "Split"
    ]  # fmt: skip


def _simple(
    kind: str,
    *constants: Array,
    input_count: int = 1,
    result: tuple[int, ...] = (),
    **attributes: Attribute,
) -> _Chain:
    """One operator that reads quantised inputs, and constants that are no weights."""
    chain = _Chain(result=result)
    names = [chain.fed() for _ in range(input_count)]
    for array in constants:
        names.append(f"c{len(chain.weights)}")
        chain.weights[names[-1]] = array
    chain.node(kind, *names, **attributes)
    return chain


def _product(kind: str) -> _Chain:
    chain = _Chain(result=(1, _CHANNELS))
    chain.node(kind, chain.fed(1, _CHANNELS), chain.weight(_integers(_CHANNELS, _CHANNELS)))
    return chain


def _resize(mode: str, how: str, **attributes: Attribute) -> _Chain:
    chain = _Chain(result=(1, _CHANNELS, 2 * _SIDE_PX, 2 * _SIDE_PX))
    chain.weights["factors"] = np.array([1, 1, 2, 2], np.float32)
    chain.node("Resize", chain.fed(), "", "factors", mode=mode,
               coordinate_transformation_mode=how, **attributes)  # fmt: skip
    return chain


def _chains() -> dict[str, _Chain]:
    half, flat = (1, _CHANNELS, _SIDE_PX // 2, _SIDE_PX // 2), (1, _CHANNELS * _SIDE_PX**2)
    axes = np.array([0])
    return {
        "Conv": _conv(_Chain()),
        "Conv+Relu": _activated("Relu"),
        "Conv+Clip": _activated("Clip"),
        "Add": _simple("Add", input_count=2),
        "Mul": _simple("Mul", input_count=2),
        "Concat": _simple("Concat", input_count=2, result=(2, *_SHAPE[1:]), axis=0),
        "Sigmoid": _simple("Sigmoid"),
        "LeakyRelu": _simple("LeakyRelu"),
        "Softmax": _simple("Softmax", axis=-1),
        "MaxPool": _simple("MaxPool", result=half, kernel_shape=[2, 2], strides=[2, 2]),
        "AveragePool": _simple("AveragePool", result=half, kernel_shape=[2, 2], strides=[2, 2]),
        "GlobalAveragePool": _simple("GlobalAveragePool", result=(1, _CHANNELS, 1, 1)),
        "Gemm": _product("Gemm"),
        "MatMul": _product("MatMul"),
        "Resize nearest": _resize("nearest", "asymmetric", nearest_mode="floor"),
        "Resize linear": _resize("linear", "half_pixel"),
        "Reshape": _simple("Reshape", np.array(flat), result=flat),
        "Flatten": _simple("Flatten", result=flat, axis=1),
        "Squeeze": _simple("Squeeze", axes, result=(_CHANNELS, _SIDE_PX, _SIDE_PX)),
        "Unsqueeze": _simple("Unsqueeze", axes, result=(1, 1, _CHANNELS, _SIDE_PX, _SIDE_PX)),
        "Transpose": _simple("Transpose", result=(1, _SIDE_PX, _SIDE_PX, _CHANNELS),
                             perm=[0, 2, 3, 1]),
        "Slice": _simple("Slice", np.array([0]), np.array([4]), np.array([1]),
                         result=(1, 4, _SIDE_PX, _SIDE_PX)),
        "Gather": _simple("Gather", np.array(0), result=(_CHANNELS, _SIDE_PX, _SIDE_PX), axis=0),
    }  # fmt: skip
