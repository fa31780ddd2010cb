"""build --strategy and --at, as a user meets them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli.build import command as build
from edgekit.cli.options import fusion_rules
from edgekit.errors import ConfigError, EdgeKitError
from edgekit.spec.fleet import local_fleet
from tests.branch_graphs import Graph, rep_block
from tests.graphs import saved


@pytest.fixture
def net(tmp_path: Path) -> Path:
    graph = Graph(size=12)
    first = graph.op("Relu", [rep_block(graph)], "stage0")
    return saved(graph.made(rep_block(graph, first)), tmp_path / "net.onnx")


def run(net: Path, *options: str) -> str:
    arguments = [str(net), "--devices", "2", "--out", str(net.parent / "bundle"), *options]
    result = CliRunner().invoke(build, arguments)
    if isinstance(result.exception, EdgeKitError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_build_says_how_many_blocks_were_folded_and_how(net: Path) -> None:
    text = " ".join(run(net, "--decoder", "none", "--strategy", "edge-b=S3+Ss").split())
    assert "2 blocks (1 S3, 1 S3+Ss)" in text


def test_build_json_names_the_strategy_of_every_block(net: Path) -> None:
    options = ("--decoder", "none", "--json", "--strategy", "S3+S1", "--at", "edge-a:0=S3")
    document = json.loads(run(net, *options))
    said = [[one["strategy"] for one in p["fusion"]] for p in document["placements"]]
    assert said == [["S3"], ["S3+S1"]]
    assert document["folded"]["max_relative_error"] <= 1e-5


def test_build_can_leave_the_branches_alone(net: Path) -> None:
    document = json.loads(run(net, "--decoder", "none", "--json", "--strategy", "none"))
    assert document["folded"] is None
    assert [p["fusion"] for p in document["placements"]] == [[], []]


@pytest.mark.parametrize(
    ("strategies", "exceptions", "words"),
    [
        (("S2",), (), "S2"),
        (("nano=S3",), (), "nano"),
        (("none", "S3"), (), "none"),
        (("none",), ("0=S3",), "none"),
        ((), ("S3",), "names no blocks"),
        ((), ("0=S4",), "S4"),
    ],
)
def test_an_option_that_cannot_be_read_is_named(strategies, exceptions, words) -> None:
    with pytest.raises(ConfigError) as caught:
        fusion_rules(strategies, exceptions, local_fleet(2))
    assert words in str(caught.value) and caught.value.hint


def test_a_block_name_with_a_colon_is_not_taken_for_a_device() -> None:
    rules = fusion_rules((), ("net:conv=S3",), local_fleet(2))
    assert rules is not None and (rules[0].device, rules[0].blocks) == ("*", "net:conv")
