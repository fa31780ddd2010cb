"""Blocks have the names that people gave to their modules, as far as exporters kept them."""

from pathlib import Path

import pytest

from edgekit.builder.fold.onnx_find import find_blocks
from edgekit.builder.fold.onnx_names import unique_names
from edgekit.spec.fusion import S3, FusionRule, choose_strategies
from tests.branch_graphs import Graph


def name_of(graph: Graph, output: str, folder: Path) -> str:
    (block,) = find_blocks(graph.loaded(output, folder)).blocks
    return block.name


def two_branches(graph: Graph, output: str | None = None) -> str:
    return graph.op("Add", [graph.conv("x"), graph.conv("x", 4, 1)], output)


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        ("/stages.0/stages.0.1/Add_2", "stages.0.1"),
        ("/backbone/stage1/stage1.0/Add", "backbone.stage1.0"),
        ("/body/body/block/Add", "body.body.block"),
    ],
)
def test_operators_of_the_older_exporter_hold_the_path(
    tmp_path: Path, operator: str, name: str
) -> None:
    """The module that adds, not the branches."""
    graph = Graph()
    total = two_branches(graph)
    graph.nodes[-1].name = operator
    assert name_of(graph, total, tmp_path) == name


def test_tensors_of_our_own_exports_hold_the_path(tmp_path: Path) -> None:
    """name_by_module writes the module and the operation."""
    graph = Graph()
    assert name_of(graph, two_branches(graph, "stages.1.2.add_2"), tmp_path) == "stages.1.2"


def test_weights_hold_the_path_where_nothing_else_does(tmp_path: Path) -> None:
    """The current exporter: what the weights of all branches have in common."""
    graph = Graph()
    total = two_branches(graph)
    for node, branch in zip(graph.nodes, ("dense", "point"), strict=False):
        graph.weights[f"net.3.{branch}.weight"] = graph.weights.pop(node.input[1])
        node.input[1] = f"net.3.{branch}.weight"
    assert name_of(graph, total, tmp_path) == "net.3"


@pytest.mark.parametrize(
    ("tensor", "name"),
    [("sum", "sum"), ("758", "tensor_758"), ("3-5", "tensor_3-5"), ("a,b*[c] ?", "a_b__c___")],
)
def test_the_tensor_names_a_block_without_path(tmp_path: Path, tensor: str, name: str) -> None:
    """Never so that a rule for blocks would read it as numbers, a list or a pattern."""
    graph = Graph()
    found = name_of(graph, two_branches(graph, tensor), tmp_path)
    assert found == name
    assert choose_strategies(["other", found], [FusionRule(strategy=S3, blocks=found)])


def test_names_are_unique() -> None:
    """A module that is called twice makes two blocks."""
    assert unique_names(["a", "b", "a", "a_2", "a"]) == ("a", "b", "a_2", "a_2_2", "a_3")
