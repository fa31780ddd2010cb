"""Find out what the runtime fuses and how it lays tensors out, from its own optimised graphs.

In:  nothing but the runtime.  Out: names for ``DeviceProfile.fused``, such as "Conv+Relu".
Each habit has a small model and a question to the graph that the runtime makes of it.
"""

import numpy as np

from edgekit.planner.launches import ACTIVATIONS, LAYOUT
from edgekit.profiler.integer_habits import detect_integer_habits
from edgekit.profiler.onnx_writer import Attribute, ListedNode, Node, write_model
from edgekit.profiler.probe_session import optimized_nodes
from edgekit.spec.tensors import Array, TensorSpec

_CHANNELS, _SIZE_PX = 32, 16
_COPIES = {"ReorderInput", "ReorderOutput"}
_NARROWEST, _WIDEST = 2, 64


def detect_habits() -> tuple[str, ...]:
    """Kernel groups that this runtime launches as one, and its layout, sorted.

    Raises: DeviceError if the runtime refuses a probe model.
    """
    found = []
    for name in ACTIVATIONS:
        if _kernels([_conv("x", "a"), _activation(name, "a", "y")]) == ["Conv"]:
            found.append(f"Conv+{name}")
        summed = [_conv("x", "a"), _conv("x", "b", "v"), _node("Add", "c", "a", "b")]
        if _kernels([*summed, _activation(name, "c", "y")]) == ["Conv", "Conv"]:
            found.append(f"Conv+Add+{name}")
    if _kernels([_conv("x", "a"), _conv("x", "b", "v"), _node("Add", "y", "a", "b")]) == [
        "Conv", "Conv"
    ]:  # fmt: skip
        found.append("Conv+Add")
    gated = [_conv("x", "a"), _node("Sigmoid", "s", "a"), _node("Mul", "y", "a", "s")]
    if _kernels(gated) == ["Conv", "QuickGelu"]:
        found.append("Sigmoid*x")
    if _fuses_gemm():
        found.append("Gemm+Relu")
    if block := _block():
        found.append(f"{LAYOUT}{block}")
    return tuple(sorted((*found, *detect_integer_habits())))


def _node(kind: str, result: str, *inputs: str, **attributes: Attribute) -> Node:
    return Node(op_type=kind, inputs=inputs, outputs=(result,), attributes=attributes)


def _conv(source: str, result: str, weight: str = "w") -> Node:
    return _node("Conv", result, source, weight, pads=[1, 1, 1, 1])


def _activation(name: str, source: str, result: str) -> Node:
    if name == "Clip":
        return _node("Clip", result, source, "low", "high")
    return _node(name, result, source)


def _image(name: str, channels: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=(1, channels, _SIZE_PX, _SIZE_PX))


def _graph(nodes: list[Node], channels: int = _CHANNELS) -> tuple[ListedNode, ...]:
    generator = np.random.default_rng(0)
    shape = (channels, channels, 3, 3)
    known: dict[str, Array] = {
        "w": generator.standard_normal(shape).astype(np.float32),
        "v": generator.standard_normal(shape).astype(np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(6, np.float32),
    }
    used = {name for node in nodes for name in node.inputs}
    return optimized_nodes(
        write_model(
            nodes,
            inputs=[_image("x", channels)],
            outputs=[_image("y", channels)],
            weights={name: value for name, value in known.items() if name in used},
        )
    )


def _kernels(nodes: list[Node]) -> list[str]:
    """Operators that the runtime launches, layout copies left out."""
    return sorted(
        node.op_type.removeprefix("Fused") for node in _graph(nodes) if node.op_type not in _COPIES
    )


def _fuses_gemm() -> bool:
    model = write_model(
        [_node("Gemm", "a", "x", "w"), _node("Relu", "y", "a")],
        inputs=[TensorSpec(name="x", dtype="float32", shape=(4, 8))],
        outputs=[TensorSpec(name="y", dtype="float32", shape=(4, 8))],
        weights={"w": np.eye(8, dtype=np.float32)},
    )
    return len(optimized_nodes(model)) == 1


def _block() -> int:
    """The fewest channels that pooling runs blocked with; 0 if it never does."""
    channels = _NARROWEST
    while channels <= _WIDEST:
        pool = _node("MaxPool", "y", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        if any(node.op_type == "ReorderInput" for node in _graph([pool], channels)):
            return channels
        channels *= 2
    return 0
