"""inspect, build and verify as a user meets them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekit.cli.build import command as build
from edgekit.cli.inspect import command as inspect
from edgekit.cli.verify import command as verify
from edgekit.errors import ConfigError, EdgeKitError, ModelError, PlanError, TrustError
from tests.graphs import residual_model, saved


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return saved(residual_model(), tmp_path / "net.onnx")


def run(command: object, *arguments: object) -> Result:
    result = CliRunner().invoke(command, list(map(str, arguments)))  # type: ignore[arg-type]
    if isinstance(result.exception, EdgeKitError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_inspect_shows_the_model_and_its_cuts(net: Path) -> None:
    """Facts, operators by work, cuts with bytes and share of work."""
    text = run(inspect, net).stdout
    for words in ("operators", "7", "parameters", "72", "Conv", "early,sum", "256 B", "flop/byte"):
        assert words in text
    assert "10 of 10 legal cuts shown (2 of one tensor)" in text


def test_inspect_json_is_complete(net: Path) -> None:
    """Scripts read it; nothing else is on standard output."""
    document = json.loads(run(inspect, net, "--json").stdout)
    assert len(document["operators"]) == 7
    assert document["parameters"] == 72
    assert document["work_flop"] == sum(op["work_flop"] for op in document["operators"])
    assert document["traffic_bytes"] == sum(op["traffic_bytes"] for op in document["operators"])
    ratio = document["work_flop"] / document["traffic_bytes"]
    assert document["intensity_flop_per_byte"] == pytest.approx(ratio)
    assert document["inputs"] == [
        {"name": "image", "dtype": "float32", "shape": [1, 2, 4, 4], "bytes": 128}
    ]
    cuts = {",".join(tensor["name"] for tensor in cut["tensors"]): cut for cut in document["cuts"]}
    assert len(cuts) == 10
    cut = cuts["early,sum"]
    assert (cut["bytes"], cut["op_count_before"]) == (256, 6)
    assert 0.9 < cut["work_share_before"] < 1


@pytest.mark.parametrize(("which", "count"), [("all", 10), ("single", 2), ("3", 3), ("0", 0)])
def test_inspect_lists_as_many_cuts_as_asked(net: Path, which: str, count: int) -> None:
    """Fewest bytes first where there are too many."""
    assert f"{count} of 10 legal cuts shown" in run(inspect, net, "--cuts", which).stdout


def test_inspect_says_what_it_assumed(tmp_path: Path) -> None:
    """An open batch dimension."""
    from onnx import helper

    from tests.graphs import model

    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    path = saved(model(nodes, {"x": ["N", 3, 8, 8]}, ["z"]), tmp_path / "net.onnx")
    assert "'N' is taken as 1" in run(inspect, path).stdout
    result = run(inspect, path, "--json")
    json.loads(result.stdout)
    assert "'N' is taken as 1" in result.stderr


def test_build_then_verify_tells_how_exact_the_split_is(net: Path, tmp_path: Path) -> None:
    """The whole way, in words."""
    out = tmp_path / "b"
    text = run(build, net, "--devices", 2, "--out", out, "--decoder", "none").stdout
    for words in ("deployment", "6 of 6 outputs bit-equal", "edge-a", "edge-b", "shards/shard-1"):
        assert words in text
    text = run(verify, out, "--against", net).stdout
    for words in ("early", "late", "random", "extended", "5 of 5", "10 of 10 outputs"):
        assert words in text


def test_build_and_verify_speak_json(net: Path, tmp_path: Path) -> None:
    """Every number that the text has."""
    out = tmp_path / "b"
    arguments = ("--devices", "camera=1,gateway=3", "--decoder", "none", "--json")
    built = json.loads(run(build, net, *arguments, "--out", out).stdout)
    assert built["rule"] == "auto"
    assert [placement["device"] for placement in built["placements"]] == ["camera", "gateway"]
    assert built["verified"]["bit_equal"] == built["verified"]["outputs_compared"] == 6
    checked = json.loads(run(verify, out, "--against", net, "--json").stdout)
    assert checked["ok"] is True
    assert checked["deployment"] == built["deployment"]
    assert {check["output"] for check in checked["checks"]} == {"early", "late"}
    assert all(check["max_relative_error"] <= checked["limit"] for check in checked["checks"])


def test_build_takes_a_fleet_file_and_one_cut_per_border(net: Path, tmp_path: Path) -> None:
    """Spaces after the comma are forgiven."""
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(
        'name = "yard"\n[[device]]\nname = "a"\n[[device]]\nname = "b"\n[[device]]\nname = "c"\n'
        '[[link]]\nfrom = "a"\nto = "b"\nbandwidth = "100 Mbit/s"\n'
    )
    arguments = ("--cut", "r0", "--cut", "sum, early", "--decoder", "none", "--json")
    built = run(build, net, "--fleet", fleet, "--out", tmp_path / "b", *arguments)
    cuts = [cut["tensors"] for cut in json.loads(built.stdout)["cuts"]]
    assert cuts == [["r0"], ["early", "sum"]]


def test_an_existing_bundle_needs_force(net: Path, tmp_path: Path) -> None:
    """Nothing is replaced by accident."""
    arguments = (net, "--devices", 2, "--decoder", "none", "--out", tmp_path / "b")
    run(build, *arguments)
    with pytest.raises(ConfigError, match="--force"):
        run(build, *arguments)
    run(build, *arguments, "--force")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((), ConfigError, "--devices 2"),
        (("--devices", "2", "--fleet", "f.toml"), ConfigError, "devices, once"),
        (("--devices", "2", "--input", "1x2"), ConfigError, "names no input"),
        (("--devices", "2", "--input", "image=1xfoo"), ConfigError, "positive whole numbers"),
        (("--devices", "2", "--cut", "erly"), PlanError, "'early'"),
        (("--devices", "2", "--cut", "r1"), PlanError, "--cut "),
        (("--devices", "2"), ConfigError, "--decoder"),
        (("--fleet", "absent.toml"), ConfigError, "absent.toml"),
    ],
)
def test_a_wrong_command_is_refused_and_leaves_nothing(
    net: Path, tmp_path: Path, arguments: tuple[str, ...], error: type[EdgeKitError], words: str
) -> None:
    """One clear error with the fix."""
    decoder = () if words == "--decoder" else ("--decoder", "none")
    with pytest.raises(error) as caught:
        run(build, net, "--out", tmp_path / "b", *decoder, *arguments)
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == [net]


def test_a_truncated_model_is_refused(net: Path) -> None:
    """By its name and size."""
    net.write_bytes(net.read_bytes()[:-50])
    with pytest.raises(ModelError, match=r"net\.onnx"):
        run(inspect, net)


def test_a_tampered_bundle_is_refused(net: Path, tmp_path: Path) -> None:
    """Before anything of it runs."""
    run(build, net, "--devices", 2, "--decoder", "none", "--out", tmp_path / "b")
    (tmp_path / "b/shards/shard-0.onnx").write_bytes(b"x")
    with pytest.raises(TrustError, match="shard-0"):
        run(verify, tmp_path / "b", "--against", net)


def test_a_choice_of_cuts_that_is_none_is_refused(net: Path) -> None:
    """With the choices."""
    with pytest.raises(ConfigError, match="--cuts all"):
        run(inspect, net, "--cuts", "some")
