"""Which tensors live inside a merged kernel."""

from edgekit.planner.dag import Dag
from edgekit.planner.kernel_groups import inner_names
from tests.graphs import workload


def inner(ops: list[tuple[str, list[str], list[str]]], outputs: list[str]) -> set[str]:
    return set(inner_names(Dag(workload(ops, outputs=outputs))))


def test_normalisation_and_activation_join_their_convolution() -> None:
    """conv, BatchNormalization, scale by a constant, relu: one kernel, one tensor written."""
    ops = [
        ("Conv", ["image"], ["c"]),
        ("BatchNormalization", ["c"], ["n"]),
        ("Mul", ["n"], ["m"]),
        ("Relu", ["m"], ["r"]),
        ("MaxPool", ["r"], ["end"]),
    ]
    assert inner(ops, ["end"]) == {"c", "n", "m"}


def test_a_gate_joins_its_convolution() -> None:
    """x * sigmoid(x), as exporters write SiLU."""
    ops = [
        ("Conv", ["image"], ["c"]),
        ("Sigmoid", ["c"], ["s"]),
        ("Mul", ["c", "s"], ["m"]),
        ("Conv", ["m"], ["end"]),
    ]
    assert inner(ops, ["end"]) == {"c", "s"}


def test_a_tensor_that_others_read_is_written_to_memory() -> None:
    """Another reader, or being a model output, keeps it outside."""
    ops = [
        ("Conv", ["image"], ["c"]),
        ("Relu", ["c"], ["r"]),
        ("Add", ["c", "r"], ["end"]),
    ]
    assert inner(ops, ["end"]) == set()
    assert inner(ops[:2], ["c", "r"]) == set()


def test_a_sum_of_two_branches_is_no_scaling() -> None:
    """Add joins a kernel only where its other operand is a constant."""
    ops = [
        ("Conv", ["image"], ["a"]),
        ("Conv", ["image"], ["b"]),
        ("Add", ["a", "b"], ["end"]),
    ]
    assert inner(ops, ["end"]) == set()
