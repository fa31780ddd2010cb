"""build --plan: a bundle of exactly what the plan says, or a refusal that says why not."""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from edgekit.builder.load import load_model
from edgekit.builder.plan_inputs import variants_of
from edgekit.cli.build import command as build
from edgekit.errors import ConfigError, EdgeKitError, PlanError
from edgekit.spec.base import save
from edgekit.spec.fleet import Device, Fleet
from edgekit.spec.planning import Candidate, PlanReport
from tests.branch_graphs import Graph, rep_block
from tests.graphs import saved
from tests.plan_values import alone, candidate, farm, hop, plan_report, stage

FLEET = Fleet(
    name="yard", device=tuple(Device(name=name) for name in ("camera", "idler", "gateway"))
)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    graph = Graph(size=12)
    first = graph.op("Relu", [rep_block(graph)], "stage0")
    return saved(graph.made(rep_block(graph, first)), tmp_path / "net.onnx")


def backward() -> Candidate:
    """The gateway begins, the camera ends, the idler idles; each folds in its own way."""
    return candidate(
        "pipeline",
        [
            stage("gateway", 4, until=("stage0",), strategy="S3+Ss"),
            stage("camera", 6, after=("stage0",), strategy="S3"),
        ],
        [hop("gateway", "camera", 2)],
    )


def planned(net: Path, chosen: Candidate, **changes: object) -> PlanReport:
    sha256 = load_model(net).source_sha256
    return plan_report(
        chosen=chosen, alternatives=(chosen, alone(), farm()), model_sha256=sha256, **changes
    )


def run(net: Path, report: PlanReport, *options: str, fleet: Fleet = FLEET) -> dict:
    folder = net.parent
    save(report, folder / "plan.json")
    save(fleet, folder / "fleet.toml")
    arguments = [str(net), "--fleet", str(folder / "fleet.toml"), "--plan",
                 str(folder / "plan.json"), "--out", str(folder / "bundle"), "--decoder", "none",
                 "--json", *options]  # fmt: skip
    result = CliRunner().invoke(build, arguments)
    if isinstance(result.exception, EdgeKitError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_devices_cut_and_strategies_are_those_of_the_plan(net: Path) -> None:
    """In the order of the plan, which is not that of the fleet file."""
    document = run(net, planned(net, backward()))
    assert [one["device"] for one in document["placements"]] == ["gateway", "camera"]
    assert [cut["tensors"] for cut in document["cuts"]] == [["stage0"]]
    folded = [[one["strategy"] for one in p["fusion"]] for p in document["placements"]]
    assert folded == [["S3+Ss"], ["S3"]]
    assert document["verified"]["max_relative_error_extended"] <= 1e-5


def test_an_alternative_of_the_plan_can_be_built_instead(net: Path) -> None:
    document = run(net, planned(net, backward()), "--choice", "2")
    assert [one["device"] for one in document["placements"]] == ["camera"]
    shared = run(net, planned(net, backward()), "--choice", "3", "--force")
    assert [one["device"] for one in shared["placements"]] == ["camera", "gateway"]
    assert all(one["outputs"] == shared["placements"][0]["outputs"] for one in shared["placements"])


def test_a_plan_of_another_model_is_refused(net: Path) -> None:
    """Its cut may exist here too, and mean something else."""
    report = msgspec.structs.replace(planned(net, backward()), model_sha256="cd" * 32)
    with pytest.raises(PlanError, match="made for another model"):
        run(net, report)
    assert not (net.parent / "bundle").exists()


def test_a_plan_of_another_fleet_is_refused(net: Path) -> None:
    other = msgspec.structs.replace(FLEET, name="garden")
    with pytest.raises(PlanError, match="made for the fleet 'yard', not for 'garden'"):
        run(net, planned(net, backward()), fleet=other)


def test_shards_that_break_a_limit_of_their_device_are_not_written(net: Path) -> None:
    """What counts is the shard as it turned out, not what was predicted."""
    limits = {"max_params": 10, "max_macs": 10}
    small = msgspec.structs.replace(FLEET.device[0], **limits)
    fleet = msgspec.structs.replace(FLEET, device=(small, *FLEET.device[1:]))
    with pytest.raises(PlanError, match="shard of camera breaks a limit") as caught:
        run(net, planned(net, backward()), fleet=fleet)
    assert "parameters, 10 allowed" in caught.value.what
    assert "multiply-adds, 10 allowed" in caught.value.what
    assert not (net.parent / "bundle").exists()


def test_memory_is_held_to_its_limit_in_a_process_of_its_own(net: Path) -> None:
    roomy = msgspec.structs.replace(FLEET.device[0], memory="500 MB")
    tight = msgspec.structs.replace(FLEET.device[0], memory="100 kB")
    rest = FLEET.device[1:]
    run(net, planned(net, backward()), fleet=msgspec.structs.replace(FLEET, device=(roomy, *rest)))
    with pytest.raises(PlanError, match="of memory, 100 kB allowed"):
        run(
            net,
            planned(net, backward()),
            "--force",
            fleet=msgspec.structs.replace(FLEET, device=(tight, *rest)),
        )


@pytest.mark.parametrize("option", [("--cut", "stage0"), ("--strategy", "S3"), ("--at", "0=S3")])
def test_a_plan_and_a_cut_of_ones_own_contradict(net: Path, option: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="--plan already says"):
        run(net, planned(net, backward()), *option)


def test_a_choice_without_a_plan_is_refused(net: Path) -> None:
    arguments = [str(net), "--devices", "2", "--out", str(net.parent / "b"), "--choice", "1"]
    result = CliRunner().invoke(build, arguments)
    assert isinstance(result.exception, ConfigError)


def test_the_variant_that_was_planned_is_the_one_that_is_built(net: Path) -> None:
    """Operators of the shards add up to the variants' own."""
    document = run(net, planned(net, backward()))
    by_strategy = {one.strategy: one.workload.work_flop for one in variants_of(load_model(net))}
    built = sum(one["work_flop"] for one in document["placements"])
    assert by_strategy["S3"] < built < by_strategy["S3+Ss"]
