"""A detector in int8 over two devices: what the chain finds in a real frame is what floats find."""

from pathlib import Path

import pytest

from edgekit.builder.build import build_bundle
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.quantize import calibration_frames, image_input
from edgekit.builder.quantize.agreement import agreement
from edgekit.builder.quantize.chain_session import ChainSession
from edgekit.builder.quantize.shard_order import ANY_DEVICE, Lowering
from edgekit.bundle.bundle import Bundle, open_bundle
from edgekit.bundle.chain import leaving_of
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import Session
from edgekit.spec.card import ModelCard
from edgekit.spec.codec import parse_request
from edgekit.spec.fleet import local_fleet
from edgekit.spec.messages import Detection
from edgekit.transport.codecs import make_codec
from edgekit.vision.answers import detections_of
from edgekit.vision.cards import resolve_card
from edgekit.vision.preprocess import preprocess
from edgekit.vision.sources import open_source
from tests.world import DATA

MODEL = DATA / "models/light_person_detector/light_person_detector.onnx"
VIDEO = DATA / "video/vtest_pedestrians/vtest.mp4"
FRAMES = (20, 60, 100)


def chain_of(bundle: Bundle) -> Session:
    """The bundle's shards in this process, with its codecs between them."""
    plan = bundle.plan
    count = len(plan.placements)
    return ChainSession(
        [OrtSession(bundle.shard(index)) for index in range(count)],
        [[spec.name for spec in leaving_of(plan, index)] for index in range(count)],
        [make_codec(plan.codec_of(index)) for index in range(count - 1)],
        inputs=plan.model_inputs,
        outputs=plan.model_outputs,
    )


def found_by(session: Session, bundle: Bundle) -> list[tuple[Detection, ...]]:
    """What it detects in some frames of the video."""
    assert bundle.card is not None
    (given,) = bundle.plan.model_inputs
    height_px, width_px = given.shape[2:]
    source, found = open_source(f"file:{VIDEO}", mode="every"), []
    for number in range(max(FRAMES) + 1):
        image = source.read().image
        if number in FRAMES:
            tensor = preprocess(image, bundle.card.input, height_px=height_px, width_px=width_px)
            found.append(
                detections_of(
                    session.run({given.name: tensor}), bundle.card, model_input=given,
                    source_height_px=image.shape[0], source_width_px=image.shape[1],
                )
            )  # fmt: skip
    source.close()
    return found


@pytest.mark.integration
@pytest.mark.timeout(900)
@pytest.mark.skipif(not MODEL.exists(), reason="the real models are not here")
def test_two_int8_shards_find_the_same_people(tmp_path: Path) -> None:
    """Integers cross, packed; the boxes are those of the float model."""
    cards: list[ModelCard] = []

    def card_for(loaded: LoadedModel) -> ModelCard:
        card, _ = resolve_card(
            loaded.path, decoder=None, inputs=loaded.inputs, outputs=loaded.outputs
        )
        cards.append(card)
        return card

    def lowering(loaded: LoadedModel, card: ModelCard | None) -> Lowering:
        return Lowering(
            precision={ANY_DEVICE: "int8"},
            codecs=(parse_request("uint8+zstd"),),
            frames=calibration_frames(
                f"file:{VIDEO}", cards[0].input, image_input(loaded), at_most=16
            ),
            card=card,
            calibrators=("minmax",),
            race_s=0.1,
        )

    result = build_bundle(
        MODEL, fleet=local_fleet(2), out=tmp_path / "b", card=card_for, lowering=lowering
    )
    assert result.lowering is not None
    assert result.lowering.bit_equal == result.lowering.outputs_compared > 0
    bundle = open_bundle(tmp_path / "b")
    assert [one.precision for one in bundle.plan.placements] == ["int8", "int8"]
    assert [one.name for one in bundle.plan.codecs] == ["fp32+zstd"]
    assert {one.dtype for one in bundle.plan.cuts[0].tensors} == {"uint8"}
    want = found_by(OrtSession(MODEL), bundle)
    got = found_by(chain_of(bundle), bundle)
    assert sum(map(len, want)) >= 3
    assert agreement(want, got) > 0.75
    assert load_model(MODEL).outputs == bundle.plan.model_outputs
