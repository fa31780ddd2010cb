"""The whole road: build, deploy to agents in namespaces, film, answer over emulated links."""

import os
from pathlib import Path

import pytest

from edgekit.builder.build import build_bundle
from edgekit.builder.load import LoadedModel
from edgekit.spec.card import ModelCard
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.vision.cards import resolve_card
from tests.testbed.agents import run_stream
from tests.testbed.plain import Bed, PlainBed
from tests.testbed.testbed import Testbed

pytestmark = pytest.mark.integration
YARD = Path(__file__).parents[2] / "samples/yard/yard.pt"
FRAMES = 40
FLEET = Fleet(
    name="bed",
    device=(Device(name="camera", relative_speed=1.0), Device(name="gateway", relative_speed=2.0)),
    link=(Link(source="camera", target="gateway", bandwidth="60 Mbit/s", rtt="10 ms"),),
)


def card_for(loaded: LoadedModel) -> ModelCard:
    card, _ = resolve_card(loaded.path, decoder=None, inputs=loaded.inputs, outputs=loaded.outputs)
    return card


@pytest.fixture
def bed(request: pytest.FixtureRequest) -> Bed:
    return PlainBed(FLEET) if os.geteuid() else request.getfixturevalue("linked_bed")


@pytest.fixture
def linked_bed():  # type: ignore[no-untyped-def]
    with Testbed(FLEET) as made:
        yield made


def test_every_frame_is_answered_over_the_link_of_the_fleet_file(bed: Bed, tmp_path: Path) -> None:
    bundle = build_bundle(YARD, fleet=FLEET, out=tmp_path / "b", card=card_for).bundle
    run = run_stream(bed, bundle, f"scene:yard?mode=every&frames={FRAMES}")
    assert run.accounts.frames_answered == len(run.reports) == FRAMES
    assert sorted(report.frame for report in run.reports) == list(range(FRAMES))
    assert run.fps > 0
    if bed.is_linked:
        (cut,) = bundle.plan.cuts
        least_ms = 1e3 * (FLEET.link[0].rtt_s + cut.nbytes / FLEET.link[0].toward("gateway"))
        hops_ms = [hop.ms for report in run.reports for hop in report.hops]
        assert min(hops_ms) >= 0.8 * least_ms
