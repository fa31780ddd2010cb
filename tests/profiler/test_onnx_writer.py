"""Probe models written by hand are what the onnx package itself would have read and written."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from edgekit.errors import ModelError
from edgekit.profiler.onnx_writer import Node, read_nodes, write_model
from edgekit.runtime.ort import OrtSession
from edgekit.spec.tensors import TensorSpec

DTYPES = st.sampled_from(["float32", "float16", "float64", "int8", "uint8", "int32", "int64"])


def image(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def test_a_written_convolution_runs_as_numpy_would(tmp_path: Path) -> None:
    """A 1x1 convolution is a matrix product over channels."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 4, 1, 1)).astype(np.float32)
    data = write_model(
        [Node(op_type="Conv", inputs=("x", "w"), outputs=("y",), attributes={"pads": [0] * 4})],
        inputs=[image("x", 1, 4, 5, 6)],
        outputs=[image("y", 1, 3, 5, 6)],
        weights={"w": weight},
    )
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    path = tmp_path / "conv.onnx"
    path.write_bytes(data)
    x = rng.standard_normal((1, 4, 5, 6)).astype(np.float32)
    got = OrtSession(path).run({"x": x})["y"]
    np.testing.assert_allclose(got, np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], x), atol=1e-5)


@given(
    dtype=DTYPES,
    shape=st.lists(st.integers(0, 5), max_size=4),
    name=st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()),
    seed=st.integers(0, 99),
)
def test_weights_of_any_dtype_and_shape_survive(
    dtype: str, shape: list[int], name: str, seed: int
) -> None:
    """The onnx package reads back the same array under the same name."""
    array = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    data = write_model([], inputs=[], outputs=[], weights={name: array})
    (tensor,) = onnx.load_from_string(data).graph.initializer
    assert tensor.name == name
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), array)


ATTRIBUTES = st.dictionaries(
    st.text("abcdefgh_", min_size=1),
    st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.floats(width=32, allow_nan=False),
        st.text(min_size=1),
        st.lists(st.integers(-(2**31), 2**31), min_size=1),
        st.lists(st.floats(width=32, allow_nan=False), min_size=1),
    ),
)


@given(ATTRIBUTES)
def test_attributes_of_every_kind_survive(attributes: dict[str, object]) -> None:
    """Negative numbers take ten bytes as varints, which is easy to get wrong."""
    node = Node(op_type="Any", inputs=("x", "", "z"), outputs=("y",), attributes=attributes)
    (read,) = onnx.load_from_string(
        write_model([node], inputs=[], outputs=[], weights={})
    ).graph.node
    assert list(read.input) == ["x", "", "z"]
    found = {one.name: onnx.helper.get_attribute_value(one) for one in read.attribute}
    for name, value in attributes.items():
        got = found[name]
        assert (got.decode() if isinstance(got, bytes) else got) == value


def test_the_nodes_of_a_file_of_the_onnx_package_are_listed() -> None:
    """That is how the runtime's optimised graph is looked at."""
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["a"]),
        onnx.helper.make_node("Gelu", ["a"], ["y"], domain="com.microsoft"),
    ]
    value = onnx.helper.make_tensor_value_info("x", 1, [1, 2])
    graph = onnx.helper.make_graph(nodes, "g", [value], [])
    listed = read_nodes(onnx.helper.make_model(graph).SerializeToString())
    assert [(one.domain, one.op_type) for one in listed] == [
        ("", "Relu"),
        ("com.microsoft", "Gelu"),
    ]
    assert (listed[1].inputs, listed[1].outputs) == (("a",), ("y",))


@given(st.integers(1, 200), st.binary(max_size=5))
def test_cut_off_files_are_refused_or_shorter_never_a_crash(length: int, tail: bytes) -> None:
    """Any bytes at all give nodes or a ModelError."""
    whole = write_model(
        [Node(op_type="Relu", inputs=("x",), outputs=("y",))],
        inputs=[image("x", 1, 2)],
        outputs=[image("y", 1, 2)],
        weights={"w": np.ones(3, np.float32)},
    )
    try:
        read_nodes(whole[:length] + tail)
    except ModelError as error:
        assert "ONNX" in error.what


def test_a_dtype_that_onnx_lacks_is_refused_by_name() -> None:
    """Not written as something else."""
    with pytest.raises(ModelError, match="complex64"):
        write_model([], inputs=[], outputs=[], weights={"w": np.ones(2, np.complex64)})
