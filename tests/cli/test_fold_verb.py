"""fold, and the blocks of inspect, as a user meets them."""

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from edgekit.builder.load import load_model
from edgekit.cli.fold import command as fold
from edgekit.cli.inspect import command as inspect
from edgekit.errors import ConfigError, EdgeKitError, ModelError
from tests.branch_graphs import Graph, rep_block
from tests.graphs import saved


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Two RepVGG blocks, a residual block that cannot fold, and a plain Conv + BN."""
    graph = Graph()
    first = graph.op("Relu", [rep_block(graph)])
    second = graph.op("Relu", [rep_block(graph, first)])
    crooked = graph.conv_norm(graph.op("Relu", [graph.conv_norm(second)]))
    return saved(graph.made(graph.op("Add", [crooked, second], "skip")), tmp_path / "net.onnx")


def run(command: object, *arguments: object) -> Result:
    result = CliRunner().invoke(command, list(map(str, arguments)))  # type: ignore[arg-type]
    if isinstance(result.exception, EdgeKitError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def folded(net: Path, out: Path, *arguments: object) -> dict:
    text = run(fold, net, "--out", out, "--latency-s", 0, "--json", *arguments).stdout
    return json.loads(text)


def test_inspect_lists_blocks_with_the_cost_of_each_strategy(net: Path) -> None:
    """Kinds, kernels, channels; the whole model under each strategy; what only looks alike."""
    document = json.loads(run(inspect, net, "--json").stdout)
    first, second = document["blocks"]
    assert [branch["kind"] for branch in first["branches"]] == ["3x3", "1x1", "identity"]
    assert [branch["is_main"] for branch in first["branches"]] == [True, False, False]
    assert first["branches"][0]["kernel"] == [3, 3]
    assert (first["in_channels"], first["out_channels"], first["groups"]) == (4, 4, 1)
    assert second["inputs"] != first["inputs"]
    for strategies in (first["strategies"], document["strategies"]):
        assert [one["strategy"] for one in strategies] == ["S3", "S3+Ss", "S3+S1", "S3+Ss+S1"]
        for one in strategies:
            ratio = one["work_flop"] / one["traffic_bytes"]
            assert one["intensity_flop_per_byte"] == pytest.approx(ratio)
    assert [one["operators"] for one in first["strategies"]] == [1, 3, 3, 5]
    assert "Relu" in document["near_misses"][0]["reason"]


def test_inspect_shows_blocks_as_tables(net: Path) -> None:
    """For people."""
    text = run(inspect, net).stdout
    for words in ("3x3 + 1x1 + identity", "S3+Ss+S1", "as it is", "looks like a block"):
        assert words in text


def test_fold_writes_a_model_that_loads_and_says_what_it_did(net: Path, tmp_path: Path) -> None:
    """Operators before and after, error, latency."""
    out = tmp_path / "folded.onnx"
    text = run(fold, net, "--out", out, "--latency-s", 0.01).stdout
    for words in ("operators", "before", "after", "outputs moved by", "ms before", "S3"):
        assert words in text
    kinds = [node.op_type for node in load_model(out).proto.graph.node]
    assert kinds.count("Conv") == 4
    assert "BatchNormalization" not in kinds
    assert not list(tmp_path.glob("*.part"))


def test_fold_as_json_is_complete(net: Path, tmp_path: Path) -> None:
    """Scripts read it."""
    document = folded(net, tmp_path / "o.onnx", "--strategy", "S3+Ss")
    assert [block["strategy"] for block in document["blocks"]] == ["S3+Ss", "S3+Ss"]
    assert [block["branches_live"] for block in document["blocks"]] == [1, 1]
    assert (document["conv_bn"], document["latency_before_s"]) == (2, None)
    assert document["max_relative_error"] <= 1e-5
    assert document["bytes"] == (tmp_path / "o.onnx").stat().st_size


def test_strategies_are_chosen_block_by_block(net: Path, tmp_path: Path) -> None:
    """--at refines; --blocks leaves the others with all their branches."""

    def strategies(*arguments: object) -> list[str]:
        document = folded(net, tmp_path / "o.onnx", "--force", *arguments)
        return [block["strategy"] for block in document["blocks"]]

    assert strategies("--strategy", "S3+S1", "--at", "1=S3") == ["S3+S1", "S3"]
    assert strategies("--at", "0-1=S3+Ss", "--at", "0=S3+Ss+S1") == ["S3+Ss+S1", "S3+Ss"]
    assert strategies("--blocks", "1") == ["S3+Ss+S1", "S3"]


def test_large_layers_can_be_factorised_afterwards(net: Path, tmp_path: Path) -> None:
    """Not exact, and refused where it is not faster, unless forced."""
    out = tmp_path / "o.onnx"
    document = folded(net, out, "--low-rank-rank", 1, "--low-rank-anyway")
    low_rank = document["low_rank"]
    assert low_rank["layers"]
    assert low_rank["work_flop_after"] < low_rank["work_flop_before"]
    assert low_rank["output_errors"].keys() == {"end"}
    assert document["max_relative_error"] <= 1e-5
    text = run(fold, net, "--out", out, "--force", "--low-rank-rank", 1, "--low-rank-anyway").stdout
    assert "not exact" in text


def test_batch_norms_outside_blocks_can_stay(net: Path, tmp_path: Path) -> None:
    """--no-conv-bn."""
    document = folded(net, tmp_path / "o.onnx", "--no-conv-bn")
    assert document["conv_bn"] == 0
    kinds = [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node]
    assert kinds.count("BatchNormalization") == 2


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--strategy", "S5"), ConfigError, "does not begin with S3"),
        (("--at", "S3"), ConfigError, "names no blocks"),
        (("--at", "9=S3"), ConfigError, "matches none of the 2 blocks"),
        (("--blocks", "skip"), ModelError, "looks like a block, but cannot be folded: Relu"),
        (("--input", "x=1x3x9x9"), EdgeKitError, "x"),
        (("--low-rank-energy", "2"), ConfigError, "energy"),
    ],
)
def test_wrong_settings_write_nothing(
    net: Path, tmp_path: Path, arguments: tuple[str, ...], error: type[Exception], words: str
) -> None:
    """Each says what is wrong."""
    with pytest.raises(error, match=words):
        folded(net, tmp_path / "o.onnx", *arguments)
    assert not (tmp_path / "o.onnx").exists()


def test_an_older_file_is_not_replaced_unasked(net: Path, tmp_path: Path) -> None:
    """Nor the model itself, ever; nor a folder; nor a file that is no .onnx."""
    out = tmp_path / "o.onnx"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        folded(net, out)
    assert out.read_text() == "mine"
    folded(net, out, "--force")
    assert out.read_bytes()[:1] != b"m"
    (tmp_path / "folder.onnx").mkdir()
    for wrong in (net, tmp_path / "folder.onnx", tmp_path / "o.pt", tmp_path / "no" / "o.onnx"):
        with pytest.raises(ConfigError, match="--out"):
            folded(net, wrong, "--force")
