"""Normalising: one form for every exporter, and not a bit of the numbers changed."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import helper, numpy_helper

from edgekit.builder.compare import differences
from edgekit.builder.normalize import normalize
from edgekit.builder.probe import run_proto, seeded_inputs, to_bytes
from edgekit.spec.tensors import TensorSpec
from tests.graphs import FULL, model, random_models, residual_model

IMAGE = (TensorSpec(name="image", dtype="float32", shape=FULL),)


def node(kind: str, reads: list[str], makes: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, reads, makes, **attributes)


def normalized(nodes: list[onnx.NodeProto], outputs: list[str], **facts: object) -> onnx.ModelProto:
    return normalize(model(nodes, {"image": FULL}, outputs, **facts), IMAGE)  # type: ignore[arg-type]


@settings(max_examples=20, deadline=None)
@given(random_models())
def test_no_number_changes_and_the_result_is_stable(proto: onnx.ModelProto) -> None:
    """Bit-equal without optimisation, and normalising twice changes nothing."""
    once = normalize(proto, IMAGE)
    inputs = seeded_inputs(IMAGE, 7)
    want = run_proto(proto, inputs, optimization="none")
    got = run_proto(once, inputs, optimization="none")
    assert all(found.bit_equal for found in differences(want, got).values())
    assert to_bytes(normalize(once, IMAGE)) == to_bytes(once)


def test_the_given_graph_is_not_changed() -> None:
    """The caller may still need it."""
    proto = residual_model()
    before = proto.SerializeToString(deterministic=True)
    normalize(proto, IMAGE)
    assert proto.SerializeToString(deterministic=True) == before


def test_integer_shape_arithmetic_becomes_a_constant() -> None:
    """Shape, Gather, Unsqueeze, Concat and Reshape, as exporters write a flatten."""
    proto = normalized(
        [
            node("Shape", ["image"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Unsqueeze", ["n", "axes"], ["n1"]),
            node("Concat", ["n1", "rest"], ["shape"], axis=0),
            node("Reshape", ["image", "shape"], ["flat"]),
            node("Relu", ["flat"], ["out"]),
        ],
        ["out"],
        weights={"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])},
    )
    assert [n.op_type for n in proto.graph.node] == ["Reshape", "Relu"]
    (shape,) = proto.graph.initializer
    assert numpy_helper.to_array(shape).tolist() == [1, -1]


def test_float_constants_are_left_as_they_are() -> None:
    """Large made weights stay small on disk, and no float is computed by us."""
    proto = normalized(
        [
            node("ConstantOfShape", ["shape"], ["w"]),
            node("Add", ["image", "w"], ["out"]),
        ],
        ["out"],
        weights={"shape": np.array(FULL)},
    )
    assert [n.op_type for n in proto.graph.node] == ["ConstantOfShape", "Add"]


def test_constant_nodes_become_initializers() -> None:
    """Of every kind of value."""
    proto = normalized(
        [
            node("Constant", [], ["a"], value_float=2.0),
            node("Constant", [], ["b"], value=numpy_helper.from_array(np.ones(4, np.float32))),
            node("Constant", [], ["c"], value_ints=[1, 2, 4, 4]),
            node("Mul", ["image", "a"], ["m"]),
            node("Add", ["m", "b"], ["s"]),
            node("Reshape", ["s", "c"], ["out"]),
        ],
        ["out"],
    )
    assert [n.op_type for n in proto.graph.node] == ["Mul", "Add", "Reshape"]
    assert [t.name for t in proto.graph.initializer] == ["a", "b", "c"]


def test_weights_leave_the_inputs_and_are_sorted() -> None:
    """Old exporters list them there, in any order."""
    weights = {name: np.ones(FULL, np.float32) for name in ("zz", "aa", "unused")}
    proto = model(
        [node("Add", ["image", "zz"], ["t"]), node("Add", ["t", "aa"], ["out"])],
        {"image": FULL, "zz": FULL, "aa": FULL},
        ["out"],
        weights=weights,
    )
    done = normalize(proto, IMAGE)
    assert [value.name for value in done.graph.input] == ["image"]
    assert [tensor.name for tensor in done.graph.initializer] == ["aa", "zz"]


def test_nodes_in_any_order_are_sorted() -> None:
    """And a sorted file keeps its own order."""
    chain = [
        node("Relu", ["image"], ["a"], name="first"),
        node("Relu", ["a"], ["b"], name="second"),
        node("Relu", ["b"], ["out"], name="third"),
    ]
    for nodes in (chain, chain[::-1]):
        done = normalize(model(nodes, {"image": FULL}, ["out"]), IMAGE)
        assert [n.name for n in done.graph.node] == ["first", "second", "third"]


def test_what_nothing_reads_is_removed() -> None:
    """Dead branches and unused optional outputs."""
    proto = normalized(
        [
            node("Relu", ["image"], ["dead"]),
            node("Dropout", ["image"], ["kept", "mask"]),
            node("Split", ["kept"], ["out", "second"], axis=2),
        ],
        ["out"],
    )
    assert [n.op_type for n in proto.graph.node] == ["Dropout", "Split"]
    assert list(proto.graph.node[0].output) == ["kept"]
    assert list(proto.graph.node[1].output) == ["out", "second"]


def test_every_node_has_one_name_and_no_path_is_left() -> None:
    """Exporters leak where the training script lies."""
    nodes = [
        node("Relu", ["image"], ["a"], name="layer", doc_string="/home/me/train.py:12"),
        node("Relu", ["a"], ["b"], name="layer"),
        node("Relu", ["b"], ["c"]),
        node("Relu", ["c"], ["out"], name="C:\\train\\net.py:forward"),
    ]
    proto = model(nodes, {"image": FULL}, ["out"])
    proto.doc_string = proto.graph.doc_string = "secret"
    proto.metadata_props.add(key="k", value="secret")
    proto.graph.node[0].metadata_props.add(key="k", value="secret")
    proto.graph.name = "secret"
    done = normalize(proto, IMAGE)
    names = [n.name for n in done.graph.node]
    assert names == ["layer", "Relu_1", "Relu_2", "Relu_3"]
    data = done.SerializeToString()
    for word in (b"secret", b"train", b"home"):
        assert word not in data


def test_a_name_that_we_would_give_may_be_taken() -> None:
    """Names stay unique whatever the file holds."""
    nodes = [
        node("Relu", ["image"], ["a"]),
        node("Relu", ["a"], ["out"], name="Relu_0"),
    ]
    names = [n.name for n in normalized(nodes, ["out"]).graph.node]
    assert sorted(names) == ["Relu_0", "Relu_0_"]


@pytest.mark.parametrize(
    ("opset", "kind", "attributes", "extra"),
    [
        (18, "Split", {"axis": 3, "num_outputs": 2}, {}),
        (18, "Pad", {}, {"pads": np.array([1, 0, 1, 2]), "": None, "axes": np.array([2, -1])}),
        (18, "ReduceMean", {"keepdims": 0}, {"axes": np.array([2, 3])}),
        (18, "ReduceMax", {"noop_with_empty_axes": 0}, {}),
        (20, "GridSample", {"mode": "cubic"}, {"grid": np.zeros((1, 3, 3, 2), np.float32)}),
        (19, "Resize", {"mode": "linear"}, {"": None, "sizes": None}),
        (23, "Relu", {}, {}),
    ],
)
def test_a_newer_operator_set_is_brought_down(
    opset: int, kind: str, attributes: dict[str, object], extra: dict[str, np.ndarray | None]
) -> None:
    """What exporters write by default since opset 18, with the same numbers."""
    weights = {name: array for name, array in extra.items() if array is not None}
    reads = ["image", *extra]
    if kind == "Resize":
        reads, weights = ["image", "", "scales"], {"scales": np.array([1, 1, 2, 2], np.float32)}
    makes = ["out", "more"] if kind == "Split" else ["out"]
    proto = model(
        [node(kind, reads, makes, **attributes)], {"image": FULL}, makes,
        weights=weights, opset=opset,
    )  # fmt: skip
    done = normalize(proto, IMAGE)
    assert [(entry.domain, entry.version) for entry in done.opset_import] == [("", 17)]
    assert done.ir_version == 8
    inputs = seeded_inputs(IMAGE, 0)
    want = run_proto(proto, inputs, optimization="none")
    got = run_proto(done, inputs, optimization="none")
    assert max(found.relative_error for found in differences(want, got).values()) <= 1e-6
