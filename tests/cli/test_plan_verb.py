"""plan, as a user meets it: a model and a fleet in, a plan with its reasons out."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekit.cli.build import command as build
from edgekit.cli.plan import command as plan
from edgekit.errors import ConfigError, EdgeKitError, PlanError
from edgekit.profiler import fleet_profiles
from edgekit.profiler.library import FoundProfile, Library
from edgekit.spec.base import load
from edgekit.spec.planning import PlanReport
from tests.branch_graphs import Graph, rep_block
from tests.graphs import saved
from tests.profiler.test_fleet_profiles import HERE
from tests.world import data

YARD = """
name = "yard"
[[device]]
name = "camera"
relative_speed = 1.0
[[device]]
name = "gateway"
relative_speed = 4.0
[[link]]
from = "camera"
to = "gateway"
bandwidth = "{bandwidth}"
rtt = "1 ms"
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of two blocks, a fleet beside it, and a machine whose profile is known."""
    known = Library(found=(FoundProfile(profile=HERE, path=tmp_path / "h.toml"),), problems=())
    monkeypatch.setattr(fleet_profiles, "list_profiles", lambda: known)
    graph = Graph(size=24)
    first = graph.op("Relu", [rep_block(graph)], "stage0")
    second = graph.op("Relu", [rep_block(graph, first)], "stage1")
    (tmp_path / "fleet.toml").write_text(YARD.format(bandwidth="100 Mbit/s"))
    return saved(graph.made(rep_block(graph, second)), tmp_path / "net.onnx")


def run(net: Path, *options: str, measure: str = "never") -> Result:
    arguments = [str(net), "--fleet", str(net.parent / "fleet.toml"), "--measure", measure]
    result = CliRunner().invoke(plan, [*arguments, "--source-size", "64x48", *options])
    if isinstance(result.exception, EdgeKitError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def report(net: Path, *options: str, measure: str = "never") -> dict:
    return json.loads(run(net, "--json", *options, measure=measure).stdout)


def test_the_plan_is_shown_with_its_path_its_rivals_and_its_assumptions(net: Path) -> None:
    text = run(net).stdout
    for part in ("asked for", "the shortest latency", "the path of a frame", "weighed",
                 "chosen", "note: the fleet names no profiles", "bytes assumed"):  # fmt: skip
        assert part in text, part


def test_json_is_the_report_and_nothing_else(net: Path) -> None:
    document = report(net)
    assert document["model"] == "net" and document["fleet"] == "yard"
    assert document["chosen"]["latency"]["time_s"] > 0
    families = {one["family"] for one in document["alternatives"]}
    assert {"whole", "frames"} <= families


def test_the_saved_plan_is_read_back_and_built(net: Path) -> None:
    """What plan writes, build takes."""
    run(net, "--out", str(net.parent / "plan.json"))
    found = load(net.parent / "plan.json", PlanReport)
    assert found.chosen is not None
    arguments = [str(net), "--fleet", str(net.parent / "fleet.toml"), "--plan",
                 str(net.parent / "plan.json"), "--out", str(net.parent / "bundle"),
                 "--decoder", "none", "--json"]  # fmt: skip
    result = CliRunner().invoke(build, arguments)
    assert result.exit_code == 0, result.output
    placed = [one["device"] for one in json.loads(result.stdout)["placements"]]
    assert placed == list(found.chosen.devices)


def test_explain_says_why_and_what_would_change_it(net: Path) -> None:
    text = run(net, "--explain").stdout
    assert "For the shortest latency:" in text
    assert "of traffic" in text and "binds" in text
    assert "It would change" in text


def test_compare_puts_other_planners_beside_it(net: Path) -> None:
    text = run(net, "--compare").stdout
    assert "other planners on the same prices" in text and "neurosurgeon" in text


def test_the_report_is_one_file(net: Path) -> None:
    page = net.parent / "plan.html"
    run(net, "--report", str(page))
    html = page.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") and "data:image/svg+xml" in html
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_a_limit_that_nothing_keeps_exits_as_a_plan_error_that_says_by_how_much(
    net: Path,
) -> None:
    """And --json still prints what was weighed."""
    with pytest.raises(PlanError, match=r"max_latency_s: asked 1\.0 us, the best plan"):
        run(net, "--max-latency", "0.001")


@pytest.mark.parametrize("options", [("--max-latency", "0.001"), ("--arrival", "100000")])
def test_the_report_of_no_plan_is_saved_and_read_back(net: Path, options: tuple[str, str]) -> None:
    """JSON has no infinity."""
    out = net.parent / "plan.json"
    with pytest.raises(PlanError):
        run(net, "--out", str(out), *options)
    assert load(out, PlanReport).chosen is None


def test_waiting_without_end_is_no_figure_of_a_saved_plan(net: Path) -> None:
    """Neighbours of the chosen plan may not keep up with the frames."""
    out = net.parent / "plan.json"
    run(net, "--out", str(out), "--arrival", "200")
    assert load(out, PlanReport).chosen is not None


def test_limits_of_devices_are_kept(net: Path) -> None:
    """The gateway may not run anything here, so the camera runs it all."""
    document = report(net, "--max-params", "gateway=1")
    assert document["chosen"]["family"] == "whole"
    assert [one["device"] for one in document["chosen"]["stages"]] == ["camera"]


def test_memory_is_checked_on_the_shards_that_were_made(net: Path) -> None:
    document = report(net, "--memory", "camera=900MB", "--memory", "gateway=900MB")
    assert any("its shards were made and keep their limits" in one for one in document["notes"])


@pytest.mark.integration
def test_finalists_are_timed_where_a_device_is_this_machine(net: Path) -> None:
    """Every shard of the chosen plan, and the plan says so."""
    document = report(net, "--measure-seconds", "3", measure="auto")
    assert all(one["time"]["is_measured"] for one in document["chosen"]["stages"])
    assert any("shards were timed on this machine" in one for one in document["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--memory", "cellar=1GB"), "names no device of the fleet"),
        (("--memory", "camera"), "names no device of the fleet"),
        (("--max-macs", "camera=many"), "is no number"),
        (("--memory", "camera=1"), "unknown unit"),
        (("--source-size", "64"), "has not two sides"),
        (("--min-fps", "0"), "min_fps is 0"),
        (("--out", "plan.txt"), "is no .json file"),
        (("--report", "/nowhere/plan.html"), "there is no folder"),
        (("--image", "a.png", "--video", "b.mp4"), "both given"),
    ],
)
def test_options_that_cannot_be_read_are_named(
    net: Path, options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(net, *options)


def test_always_measuring_is_refused_where_no_device_is_this_machine(net: Path) -> None:
    """Numbers of this machine would say nothing about a Raspberry Pi."""
    text = YARD.format(bandwidth="100 Mbit/s").replace(
        "relative_speed", 'profile = "raspberry-pi-4"\nrelative_speed'
    )
    (net.parent / "fleet.toml").write_text(text)
    with pytest.raises(PlanError, match="no device of this fleet is this machine"):
        run(net, measure="always")


@pytest.mark.integration
def test_a_real_detector_on_two_boards_by_their_datasheets(tmp_path: Path) -> None:
    """A Raspberry Pi 4 with a camera, and a Jetson Orin Nano in the cellar."""
    fleet = YARD.format(bandwidth="100 Mbit/s")
    for device, board in (("camera", "raspberry-pi-4"), ("gateway", "jetson-orin-nano")):
        fleet = fleet.replace(f'name = "{device}"', f'name = "{device}"\nprofile = "{board}"')
    (tmp_path / "fleet.toml").write_text(fleet)
    model = data("models/yolox_nano/yolox_nano_416x416.onnx")
    arguments = [str(model), "--fleet", str(tmp_path / "fleet.toml"), "--json"]
    result = CliRunner().invoke(plan, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    families = {one["family"] for one in document["alternatives"]}
    assert {"whole", "frames", "farm"} <= families
    assert any("lower bounds" in one for one in document["notes"])
