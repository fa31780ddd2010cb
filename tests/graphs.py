"""Small ONNX graphs for tests: written by hand, or drawn at random."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import OpCost, Workload

FULL, HALF = (1, 2, 4, 4), (1, 2, 2, 4)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str]],
    outputs: Sequence[str],
    *,
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 13,
    ir_version: int = 8,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A float32 model; outputs carry no shape, as the loader must not rely on them."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    """Write ``proto`` and return where."""
    path.write_bytes(proto.SerializeToString())
    return path


def residual_model() -> onnx.ModelProto:
    """conv -> relu -> (conv -> relu, skip) -> add -> two heads; head "early" is made half-way."""
    generator = np.random.default_rng(0)
    weights = {
        name: generator.standard_normal((2, 2, 3, 3), dtype=np.float32) for name in ("w0", "w1")
    }
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["c0"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"], name="stem_relu"),
        helper.make_node("Sigmoid", ["r0"], ["early"], name="early_head"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="body", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="body_relu"),
        helper.make_node("Add", ["r0", "r1"], ["sum"], name="join"),
        helper.make_node("Tanh", ["sum"], ["late"], name="late_head"),
    ]
    return model(nodes, {"image": FULL}, ["early", "late"], weights=weights)


@st.composite
def random_models(draw: st.DrawFn, *, max_ops: int = 9) -> onnx.ModelProto:
    """A random DAG of operators with one or two inputs and outputs, early outputs included."""
    tensors = {"image": FULL}
    nodes: list[onnx.NodeProto] = []
    made_weights = draw(st.booleans())
    for index in range(draw(st.integers(2, max_ops))):
        made = _random_node(draw, index, tensors, "made" if made_weights else "stored")
        nodes.append(made)
        shape = {"Split": HALF, "Concat": FULL}.get(made.op_type) or tensors[made.input[0]]
        tensors |= dict.fromkeys(made.output, shape)
    read = {name for node in nodes for name in node.input}
    ends = [name for name in tensors if name not in read and name != "image"]
    inner = [name for name in tensors if name in read and name != "image"]
    early = draw(st.lists(st.sampled_from(inner), unique=True, max_size=2)) if inner else []
    return model(
        [*_weight_nodes(), *nodes] if made_weights else nodes,
        {"image": FULL},
        [*ends, *early],
        weights=_weights(),
    )


def _weights() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {
        "stored": generator.standard_normal((2, 2, 3, 3), dtype=np.float32) / 4,
        "weight_shape": np.array([2, 2, 3, 3], np.int64),
    }


def _weight_nodes() -> list[onnx.NodeProto]:
    """A weight that the graph makes itself, as the "light" models do."""
    value = numpy_helper.from_array(np.array([0.125], np.float32))
    return [
        helper.make_node("ConstantOfShape", ["weight_shape"], ["filled"], value=value),
        helper.make_node("Add", ["filled", "stored"], ["made"]),
    ]


def _random_node(
    draw: st.DrawFn, index: int, tensors: dict[str, tuple[int, ...]], weight: str
) -> onnx.NodeProto:
    full = [name for name, shape in tensors.items() if shape == FULL]
    half = [name for name, shape in tensors.items() if shape == HALF]
    kinds = ["Relu", "Sigmoid", "Add", "Mul", "Conv", "Split"] + (["Concat"] if half else [])
    kind, name = draw(st.sampled_from(kinds)), f"t{index}"
    if kind == "Split":
        outputs = [f"{name}a", f"{name}b"]
        return helper.make_node("Split", [draw(st.sampled_from(full))], outputs, axis=2)
    if kind == "Concat":
        pair = [draw(st.sampled_from(half)), draw(st.sampled_from(half))]
        return helper.make_node("Concat", pair, [name], axis=2)
    if kind == "Conv":
        inputs = [draw(st.sampled_from(full)), weight]
        return helper.make_node("Conv", inputs, [name], pads=[1, 1, 1, 1])
    first = draw(st.sampled_from([*full, *half]))
    if kind in {"Relu", "Sigmoid"}:
        return helper.make_node(kind, [first], [name])
    second = draw(st.sampled_from(half if first in half else full))
    return helper.make_node(kind, [first, second], [name])


def workload(
    ops: Sequence[tuple[str, Sequence[str], Sequence[str]]],
    *,
    inputs: Sequence[str] = ("image",),
    outputs: Sequence[str],
    flop: dict[str, int] | None = None,
    elements: dict[str, int] | None = None,
) -> Workload:
    """A workload by hand: (op type, inputs, outputs) per operator; 100 flop and 10 floats each."""
    names = dict.fromkeys([*inputs, *(name for _, _, made in ops for name in made)])
    return Workload(
        model="test",
        model_sha256="0" * 64,
        ops=tuple(
            OpCost(
                name=f"{kind}-{index}",
                op_type=kind,
                inputs=tuple(reads),
                outputs=tuple(makes),
                work_flop=(flop or {}).get(makes[0], 100),
                traffic_bytes=8,
                weight_bytes=0,
                parameter_count=0,
            )
            for index, (kind, reads, makes) in enumerate(ops)
        ),
        tensors=tuple(
            TensorSpec(name=name, dtype="float32", shape=((elements or {}).get(name, 10),))
            for name in names
        ),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
    )


@st.composite
def random_workloads(draw: st.DrawFn, *, max_ops: int = 9) -> Workload:
    """A random DAG of up to ``max_ops`` operators; every operator leads to a model output."""
    made, ops = ["image", "other"], []
    for index in range(draw(st.integers(1, max_ops))):
        reads = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
        makes = [f"t{index}"] + ([f"t{index}x"] if draw(st.integers(0, 4)) == 0 else [])
        ops.append(("Add", reads, makes))
        made += makes
    read = {name for _, reads, _ in ops for name in reads}
    ends = [name for name in made[2:] if name not in read]
    early = draw(st.lists(st.sampled_from(made[2:]), unique=True, max_size=2))
    return workload(ops, inputs=("image", "other"), outputs=list(dict.fromkeys([*ends, *early])))
