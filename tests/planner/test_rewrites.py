"""Operators that a runtime merges, moves or drops before it chooses kernels are not counted."""

from edgekit.planner.launches import Habits, launches_of
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import KernelShape, OpCost, Workload

SHAPES = {"x": (1, 16, 8, 8), "a": (1, 8, 8, 8), "b": (1, 8, 8, 8), "v": (8, 2, 64),
          "t": (2, 8, 64), "g": (2, 1, 8, 8, 8)}  # fmt: skip


def op(kind: str, source: str, output: str, key: str, *sizes: int, twin: str = "") -> OpCost:
    return OpCost(
        name=output, op_type=kind, inputs=(source,), outputs=(output,), work_flop=1,
        traffic_bytes=1, weight_bytes=0, parameter_count=0, twin=twin,
        kernel=KernelShape(key=key, sizes=sizes),
    )  # fmt: skip


def launched(*ops: OpCost, outputs: str, opset: int = 17, only: range | None = None) -> list[str]:
    names = {name for one in ops for name in (*one.inputs, *one.outputs)}
    model = Workload(
        model="m", model_sha256="0", ops=ops, inputs=("x",), outputs=tuple(outputs.split()),
        opset=opset, tensors=tuple(
            TensorSpec(name=name, dtype="float32", shape=SHAPES.get(name, (1, 8, 8, 8)))
            for name in sorted(names)
        ),
    )  # fmt: skip
    found = launches_of(model, only or range(len(ops)), Habits())
    return [f"{one.key} {one.sizes}" for one in found]


def relu(source: str, output: str, twin: str = "") -> OpCost:
    return op("Relu", source, output, "Relu", 8, 64, twin=twin)


def test_operators_that_compute_the_same_are_launched_once() -> None:
    """And so are those that then read the same."""
    ops = [relu("x", "a"), relu("x", "b", "a"), relu("a", "c"), relu("b", "d", "c")]
    ops.append(op("Sum", "c", "y", "Sum same", 8, 64))
    assert len(launched(*ops, outputs="y")) == 3


def test_a_twin_whose_result_leaves_is_launched() -> None:
    """Both tensors must exist."""
    assert len(launched(relu("x", "a"), relu("x", "b", "a"), outputs="a b")) == 2


def test_a_twin_in_another_shard_does_not_help() -> None:
    """Each shard computes its own."""
    ops = [relu("x", "a"), relu("x", "b", "a"), relu("b", "y")]
    assert len(launched(*ops, outputs="a y", only=range(1, 3))) == 2


def shuffle() -> list[OpCost]:
    return [
        op("Reshape", "x", "v", "View Reshape", 1024),
        op("Transpose", "v", "t", "Transpose 102", 8, 2, 64),
        op("Reshape", "t", "g", "View Reshape", 1024),
        op("Gather", "g", "a", "Gather", 512, 512, 1),
        op("Gather", "g", "b", "Gather", 512, 512, 1),
    ]


def test_a_channel_shuffle_gathers_straight_from_its_view() -> None:
    """Neither the transposition nor the second view is launched; the runs get shorter."""
    assert launched(*shuffle(), outputs="a b", opset=11) == [
        "View Reshape (1024,)", "Gather (512, 64, 1)", "Gather (512, 64, 1)"
    ]  # fmt: skip


def test_from_opset_13_on_gathered_halves_are_one_split() -> None:
    """With a view for each, since a Split keeps the dimension of length 1."""
    found = launched(*shuffle(), outputs="a b", opset=13)
    assert found == [
        "View Reshape (1024,)", "Split (1024, 128, 2)", "View Squeeze (512,)",
        "View Squeeze (512,)",
    ]  # fmt: skip


def test_halves_of_the_channels_are_one_split_but_every_other_row_is_not() -> None:
    """The runtime joins slices without a step only."""
    for run, count in ((512, 1), (64, 2)):
        halves = [op("Slice", "x", name, "Slice", 512, run, 1) for name in ("a", "b")]
        assert len(launched(*halves, outputs="a b")) == count
