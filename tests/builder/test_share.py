"""The device with the camera answers some frames itself: built, proved, planned, run."""

import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from click.testing import CliRunner

from edgekit.builder.build import build_bundle
from edgekit.builder.forwarding import Forwarding, behind_the_camera
from edgekit.builder.planned import recipe_of
from edgekit.builder.verify import verify_bundle
from edgekit.bundle.bundle import OWN_SHARD_PATH, Bundle, open_bundle
from edgekit.cli import build
from edgekit.errors import ConfigError, PlanError
from edgekit.spec.base import load
from edgekit.spec.card import ModelCard
from edgekit.spec.fleet import Device, Fleet
from edgekit.spec.plan import FRAME_CUT
from edgekit.spec.planning import Candidate
from tests.plan_values import alone, candidate, farm, hop, plan_report, stage
from tests.testbed.agents import run_stream
from tests.testbed.plain import PlainBed

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "samples/classify/mnist-repvgg.pt"
FLEET = Fleet(
    name="shared",
    device=(
        Device(name="camera", relative_speed=1.0, fusion="S3+Ss"),
        Device(name="gateway", relative_speed=2.0),
    ),
)


@pytest.fixture(scope="module")
def shared_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    forwarding, rest, _ = behind_the_camera(FLEET, shares=True)
    card = load(MODEL.with_suffix(".toml"), ModelCard)
    out = tmp_path_factory.mktemp("share") / "b"
    built = build_bundle(MODEL, fleet=rest, rule="none", forwarding=forwarding, out=out, card=card)
    return open_bundle(built.bundle.folder)


def test_the_whole_model_of_the_camera_is_proved_like_the_shards(shared_bundle: Bundle) -> None:
    """Folded as its device likes it, with golden vectors of its own."""
    bundle = shared_bundle
    assert bundle.plan.shares_frames
    assert bundle.plan.cuts == (FRAME_CUT,)
    own, other = bundle.plan.placements
    assert own.shard == OWN_SHARD_PATH
    assert own.outputs == other.outputs == bundle.plan.model_outputs
    assert {one.strategy for one in own.fusion} == {"S3+Ss"}
    assert {one.strategy for one in other.fusion} == {"S3"}
    assert bundle.golden(0) is not None and bundle.golden(1) is not None
    report = verify_bundle(bundle, MODEL)
    assert report.is_ok
    assert len(report.checks) == 4  # either device, at two levels


def test_a_copy_that_computes_something_else_does_not_pass(
    shared_bundle: Bundle, tmp_path: Path
) -> None:
    """The camera's own model is compared, not only that of the others."""
    shutil.copytree(shared_bundle.folder, tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    path = bundle.folder / OWN_SHARD_PATH
    model = onnx.load(path)
    weights = next(one for one in model.graph.initializer if len(one.dims) == 4)
    values = onnx.numpy_helper.to_array(weights)
    weights.CopyFrom(onnx.numpy_helper.from_array(-values, weights.name))
    onnx.save(model, path)
    assert not verify_bundle(bundle, MODEL).is_ok


def shared() -> Candidate:
    own = candidate("whole", [stage("camera", 40, strategy="S3+Ss")], [])
    sent = candidate(
        "frames",
        [stage("gateway", 10)],
        [hop("camera", "gateway", 2, carries="frame", codec="raw")],
    )
    return msgspec.structs.replace(farm(), members=(own, sent), shares=(0.2, 0.8))


def test_a_plan_that_shares_frames_becomes_one_bundle() -> None:
    """The camera keeps the strategy that the plan gives it; the others are the pipeline."""
    recipe = recipe_of(plan_report(chosen=shared(), fleet="shared"), FLEET)
    assert recipe.forwarding == Forwarding(device="camera", own=FLEET.device[0])
    assert [device.name for device in recipe.fleet.device] == ["gateway"]
    assert recipe.notes == ()


def test_other_farms_are_refused_still() -> None:
    """Two pipelines that both get frames by wire, or a camera that quantizes its copy."""
    one = shared()
    both = msgspec.structs.replace(one, members=(one.members[1], one.members[1]))
    own = one.members[0]
    small = msgspec.structs.replace(
        own, stages=(msgspec.structs.replace(own.stages[0], precision="int8"),)
    )
    for wrong in (both, msgspec.structs.replace(one, members=(small, one.members[1]))):
        with pytest.raises(PlanError, match="deals frames out"):
            recipe_of(plan_report(chosen=wrong, fleet="shared"), FLEET)
    assert alone().shared_by("camera") is None


def test_share_without_cut_frame_is_refused_with_what_to_add(tmp_path: Path) -> None:
    error = (
        CliRunner()
        .invoke(
            build.command, [str(MODEL), "--devices", "2", "--share", "--out", str(tmp_path / "b")]
        )
        .exception
    )
    assert isinstance(error, ConfigError)
    assert "--cut frame" in error.hint


@pytest.mark.integration
def test_two_agents_share_the_frames_of_one_camera(shared_bundle: Bundle, tmp_path: Path) -> None:
    """Real agents, broker and hop: every frame answered, by both of them."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((28, 28), 30 * number, np.uint8))
    slow = msgspec.structs.replace(FLEET, host_speed=40.0)
    run = run_stream(PlainBed(slow), shared_bundle, f"images:{folder}?loop=1&frames=300&mode=every")
    assert sorted(one.frame for one in run.reports) == list(range(300))
    assert not any(run.accounts.frames_dropped.values())
    answered_by = {one.stages[-1].device for one in run.reports}
    assert answered_by == {"camera", "gateway"}
