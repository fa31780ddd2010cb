"""What cannot be folded is refused by the name of its block, before anything is written."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgekit.builder.fold.onnx_cost import cost_strategies
from edgekit.builder.fold.onnx_find import find_blocks
from edgekit.builder.fold.onnx_fold import fold_blocks, fold_model
from edgekit.builder.load import LoadedModel
from edgekit.errors import ConfigError, ModelError
from edgekit.spec.fusion import S3, FusionRule
from tests.branch_graphs import Graph, rep_block

ALL = [FusionRule(strategy=S3)]


def named_block(graph: Graph, name: str, *, broken: str = "") -> str:
    """A RepVGG block whose operators are named as by torch's exporter; "" or what is broken."""
    total = rep_block(graph)
    for node in graph.nodes:
        node.name = f"/stages/stages.0/{name}/{node.name}"
    weights = {"nan": ("Conv", 1, np.nan), "variance": ("BatchNormalization", 4, 0.0)}
    if broken:
        kind, position, value = weights[broken]
        node = next(node for node in graph.nodes if node.op_type == kind)
        graph.weights[node.input[position]].reshape(-1)[0] = value
        if broken == "variance":
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("epsilon", 0.0))
    return total


@pytest.mark.parametrize(
    ("broken", "reason"), [("nan", "NaN or infinity"), ("variance", "no square root")]
)
def test_numbers_that_define_no_function_are_refused(
    tmp_path: Path, broken: str, reason: str
) -> None:
    """inspect still lists them; fold names the block and the operator."""
    graph = Graph()
    loaded = graph.loaded(named_block(graph, "stages.0.1", broken=broken), tmp_path)
    findings = find_blocks(loaded)
    assert findings.blocks == ()
    assert findings.near_misses[0].is_damage
    with pytest.raises(ModelError, match=rf"block stages\.0\.1: .*{reason}"):
        fold_model(loaded, ALL)


@pytest.mark.parametrize("broken", ["nan", "variance"])
def test_a_single_convolution_is_refused_by_its_name(tmp_path: Path, broken: str) -> None:
    """Outside of blocks the operator is what people know."""
    graph = Graph()
    end = graph.conv_norm("x")
    node = graph.nodes[0 if broken == "nan" else 1]
    graph.weights[node.input[1 if broken == "nan" else 4]].reshape(-1)[0] = (
        np.nan if broken == "nan" else -1.0
    )
    loaded = graph.loaded(end, tmp_path)
    with pytest.raises(ModelError, match="Conv Conv_t0: "):
        fold_model(loaded, ALL)
    with pytest.raises(ModelError, match="Conv Conv_t0: "):
        cost_strategies(loaded, find_blocks(loaded))
    assert fold_model(loaded, ALL, conv_bn=False)[0] is loaded


def test_a_model_in_training_mode_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    """Its BatchNorms depend on the batch."""
    graph = Graph()
    total = named_block(graph, "stages.0.1")
    for node in graph.nodes:
        if node.op_type == "BatchNormalization":
            node.attribute.append(helper.make_attribute("training_mode", 1))
            node.output.extend([f"{node.name}/mean", f"{node.name}/variance"])
    with pytest.raises(ModelError, match=r"stages\.0\.1/.* is in training mode"):
        graph.loaded(total, tmp_path)


def test_a_block_that_does_not_exist_is_a_wrong_setting(loaded: LoadedModel) -> None:
    """The message lists what there is."""
    with pytest.raises(ConfigError, match="matches none of the 1 blocks"):
        fold_model(loaded, [FusionRule(strategy=S3, blocks="head.*")])
    with pytest.raises(ConfigError, match="matches none"):
        fold_model(loaded, [FusionRule(strategy=S3, blocks="3")])
    with pytest.raises(ConfigError, match="matches none"):
        fold_blocks(loaded, {"head": S3})


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    graph = Graph()
    return graph.loaded(rep_block(graph), tmp_path)


def test_float16_is_left_alone(tmp_path: Path) -> None:
    """Rounding to half precision would move outputs by more than the limit: fold before."""
    graph = Graph()
    half = graph.op("Cast", ["x"], to=10)
    terms = []
    for _ in range(2):
        weight = graph.op("Cast", [graph.weight(graph.numbers(4, 4, 3, 3))], to=10)
        terms.append(graph.op("Conv", [half, weight], pads=[1, 1, 1, 1]))
    total = graph.op("Cast", [graph.op("Add", terms)], to=1)
    loaded = graph.loaded(total, tmp_path)
    assert find_blocks(loaded).blocks == ()
    assert fold_model(loaded, ALL)[1].max_relative_error == 0
