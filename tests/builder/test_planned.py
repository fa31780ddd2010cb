"""A plan becomes a build: devices in its order, its cuts, its strategies, and nothing else."""

from typing import Any

import msgspec
import pytest

from edgekit.builder.planned import recipe_of
from edgekit.errors import PlanError
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.planning import PlanReport
from tests.plan_values import alone, candidate, farm, frames, hop, pipeline, plan_report, stage

FLEET = Fleet(
    name="yard",
    device=tuple(Device(name=name) for name in ("camera", "idler", "gateway")),
    link=(
        Link(source="camera", target="gateway"),
        Link(source="camera", target="idler"),
    ),
    sink="idler",
)


def test_the_working_devices_keep_the_order_of_the_plan() -> None:
    """Not that of the fleet file; idle devices and their links are left out."""
    back = candidate(
        "pipeline",
        [stage("gateway", 4, until=("a", "b")), stage("camera", 6, after=("a", "b"))],
        [hop("gateway", "camera", 2)],
    )
    recipe = recipe_of(plan_report(chosen=back), FLEET)
    assert [device.name for device in recipe.fleet.device] == ["gateway", "camera"]
    assert [(link.source, link.target) for link in recipe.fleet.link] == [("camera", "gateway")]
    assert recipe.rule == ("a,b",)
    assert recipe.notes == ("idle by this plan: idler",)


def test_each_device_folds_as_the_plan_says() -> None:
    mixed = candidate(
        "pipeline",
        [stage("camera", 4, until=("a",), strategy="S3+Ss"), stage("gateway", 6, after=("a",))],
        [hop("camera", "gateway", 2)],
    )
    rules = recipe_of(plan_report(chosen=mixed), FLEET).fusion
    assert [(rule.device, str(rule.strategy)) for rule in rules] == [
        ("camera", "S3+Ss"), ("gateway", "S3"),
    ]  # fmt: skip


def test_a_plan_that_does_not_split_is_a_bundle_of_one_shard() -> None:
    recipe = recipe_of(plan_report(chosen=alone()), FLEET)
    assert recipe.rule == ("none",) and len(recipe.fleet.device) == 1


def test_a_plan_that_sends_frames_has_the_camera_forward_them() -> None:
    """The first shard is not where the camera is."""
    recipe = recipe_of(plan_report(chosen=frames()), FLEET)
    assert [device.name for device in recipe.fleet.device] == ["gateway"]
    assert recipe.forwarding is not None
    assert recipe.forwarding.device == "camera"
    assert recipe.forwarding.codec.name == frames().hops[0].codec
    assert not any("idle" in note and "camera" in note for note in recipe.notes)


TWO_SERVERS = msgspec.structs.replace(
    farm(), members=(frames(), candidate("frames", [stage("idler", 9)], list(frames().hops)))
)
THERE_AND_BACK = candidate(
    "pipeline",
    [stage("gateway", 4, until=("a",)), stage("camera", 6, after=("a",))],
    [*frames().hops[:1], hop("gateway", "camera", 2)],
)


def test_an_alternative_can_be_built_by_its_number() -> None:
    """Counted as in the table, from 1."""
    recipe = recipe_of(plan_report(), FLEET, choice=2)
    assert [device.name for device in recipe.fleet.device] == ["camera"]


@pytest.mark.parametrize(
    ("changes", "choice", "message"),
    [
        ({"chosen": None}, 0, "no plan keeps all its limits"),
        ({"chosen": TWO_SERVERS}, 0, "a bundle is one pipeline"),
        ({"chosen": THERE_AND_BACK}, 0, "camera sends frames on and runs a later shard"),
        ({}, 9, "has 4 alternatives, not a number 9"),
        ({"fleet": "garden"}, 0, "made for the fleet 'garden', not for 'yard'"),
    ],
)
def test_what_cannot_be_built_is_refused(
    changes: dict[str, Any], choice: int, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        recipe_of(plan_report(**changes), FLEET, choice=choice)


def test_a_fleet_that_lost_a_device_is_refused_by_its_name() -> None:
    smaller = msgspec.structs.replace(FLEET, device=(Device(name="camera"),), link=(), sink="")
    with pytest.raises(PlanError, match="no device 'gateway'"):
        recipe_of(plan_report(), smaller)


def lowered(precisions: tuple[str, str], codec: str) -> PlanReport:
    chosen = pipeline()
    stages = tuple(
        msgspec.structs.replace(one, precision=precision)
        for one, precision in zip(chosen.stages, precisions, strict=True)
    )
    sent = msgspec.structs.replace(chosen.hops[0], codec=codec)
    return plan_report(chosen=msgspec.structs.replace(chosen, stages=stages, hops=(sent,)))


def test_precisions_and_codecs_are_those_of_the_plan() -> None:
    recipe = recipe_of(lowered(("fp32", "fp16"), "uint8-channel+lz4"), FLEET)
    assert recipe.precision == {"gateway": "fp16"}
    assert [one.name for one in recipe.codecs] == ["uint8-channel+lz4"]


@pytest.mark.parametrize(
    ("codec", "names"), [("qdq", []), ("qdq+zstd", ["fp32+zstd"]), ("fp32", [])]
)
def test_integers_that_travel_as_they_are_need_no_codec_but_may_be_packed(
    codec: str, names: list[str]
) -> None:
    """Plans call them qdq; on the wire they are what the shard made."""
    recipe = recipe_of(lowered(("int8", "int8"), codec), FLEET)
    assert recipe.precision == {"camera": "int8", "gateway": "int8"}
    assert [one.name for one in recipe.codecs] == names


@pytest.mark.parametrize("codec", ["uint4", "qdq+rar", ""])
def test_a_codec_that_no_build_knows_is_refused_with_the_hop(codec: str) -> None:
    with pytest.raises(PlanError, match="from camera to gateway as"):
        recipe_of(lowered(("fp32", "fp32"), codec), FLEET)


def test_a_plan_whose_hops_do_not_match_its_shards_is_refused() -> None:
    """Such a file was edited by hand."""
    chosen = msgspec.structs.replace(pipeline(), hops=())
    with pytest.raises(PlanError, match="over 0 hops between 2 shards"):
        recipe_of(plan_report(chosen=chosen), FLEET)
