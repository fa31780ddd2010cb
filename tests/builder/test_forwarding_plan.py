"""Bundles in which the first device films and forwards."""

from pathlib import Path

import msgspec
import pytest

from edgekit.builder.build import build_bundle
from edgekit.builder.forwarding import Forwarding, behind_the_camera
from edgekit.builder.verify import verify_bundle
from edgekit.bundle.bundle import open_bundle
from edgekit.errors import ConfigError
from edgekit.spec.codec import CodecRequest, parse_request
from edgekit.spec.fleet import Device, Fleet, Link, local_fleet
from edgekit.spec.plan import FRAME_CUT
from tests.graphs import residual_model, saved

JPEG = parse_request("jpeg-90")
FLEET = Fleet(
    name="f",
    device=(Device(name="a"), Device(name="b"), Device(name="c")),
    link=(Link(source="a", target="b"), Link(source="b", target="c")),
    source="a",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(residual_model(), tmp_path / "m.onnx")


def test_the_camera_comes_first_and_runs_nothing(model: Path, tmp_path: Path) -> None:
    fleet = local_fleet(1)
    forwarding = Forwarding(device="camera", codec=JPEG)
    build_bundle(model, fleet=fleet, out=tmp_path / "b", rule="none", forwarding=forwarding)
    plan = open_bundle(tmp_path / "b").plan
    assert [one.device for one in plan.placements] == ["camera", "edge-a"]
    assert plan.forwards_frames and plan.cuts[0] == FRAME_CUT
    assert plan.codec_of(0).name == "jpeg-90"
    assert plan.placements[1].inputs == plan.model_inputs


def test_such_a_bundle_can_be_verified(model: Path, tmp_path: Path) -> None:
    bundle = build_bundle(
        model, fleet=local_fleet(1), out=tmp_path / "b", rule="none",
        forwarding=Forwarding(device="camera"),
    ).bundle  # fmt: skip
    assert bundle.plan.codecs == ()
    assert verify_bundle(bundle, model, seeds=[0]).is_ok


def test_the_devices_behind_the_camera_keep_their_links_and_codecs() -> None:
    uint8 = parse_request("uint8")
    forwarding, rest, codecs = behind_the_camera(FLEET, (JPEG, uint8))
    assert (forwarding.device, forwarding.codec) == ("a", JPEG)
    assert [one.name for one in rest.device] == ["b", "c"]
    assert rest.link == FLEET.link[1:] and codecs == (uint8,)


@pytest.mark.parametrize(
    ("given", "of_frames", "of_cuts"),
    [("uint8", "fp32", ["uint8"]), ("png", "png", []), ("", "fp32", [])],
)
def test_a_single_codec_goes_where_it_fits(given: str, of_frames: str, of_cuts: list[str]) -> None:
    requests = (parse_request(given),) if given else ()
    forwarding, _, codecs = behind_the_camera(FLEET, requests)
    assert forwarding.codec.name == of_frames
    assert [one.name for one in codecs] == of_cuts


def test_frames_cannot_travel_as_activations() -> None:
    with pytest.raises(ConfigError, match="'uint8' is none of pictures"):
        Forwarding(device="a", codec=CodecRequest(element="uint8"))
    alone = msgspec.structs.replace(FLEET, device=FLEET.device[:1], link=())
    with pytest.raises(ConfigError, match="no device is behind it"):
        behind_the_camera(alone)
