"""Each decoder finds the one box that was put into its raw outputs, and refuses what is not its."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from synthetic_outputs import FAMILIES, ONE_CLASS, Outputs

from edgekit.errors import ConfigError, ModelError
from edgekit.spec.card import ModelCard, OutputCard
from edgekit.vision.cards import builtin_card
from edgekit.vision.decoders import decode, decoder_names
from edgekit.vision.geometry import Geometry, geometry_for

SIZE = (320, 416)
BOX = (100.0, 83.0, 150.0, 139.0)
ALL = sorted(FAMILIES)
every_family = pytest.mark.parametrize("family", ALL)


def card_of(family: str, **output: object) -> ModelCard:
    card = builtin_card(family)
    return msgspec.structs.replace(card, output=msgspec.structs.replace(card.output, **output))


def geometry(card: ModelCard, size: tuple[int, int] = SIZE) -> Geometry:
    """A source of 1000 x 500: letterbox and stretch both differ from the identity."""
    return geometry_for(
        card.input,
        source_height_px=500,
        source_width_px=1000,
        height_px=size[0],
        width_px=size[1],
    )


def outputs_of(family: str, box: tuple[float, float, float, float] = BOX, score: float = 0.9,
               class_id: int | None = None, size: tuple[int, int] = SIZE) -> Outputs:  # fmt: skip
    classes = 1 if family in ONE_CLASS else 80
    chosen = class_id if class_id is not None else min(3, classes - 1)
    return FAMILIES[family](box, score, chosen, size=size, classes=classes)


def test_every_decoder_has_a_synthetic_counterpart() -> None:
    """A family added without a test here would be untested; classes: test_classes_decoder.py."""
    assert set(decoder_names()) - {"classes"} == set(FAMILIES)


@every_family
def test_the_box_put_in_comes_out_in_source_pixels(family: str) -> None:
    card = card_of(family)
    found = decode(outputs_of(family), card, geometry(card))
    expected = geometry(card).to_source(np.array([BOX], np.float32))
    assert found.class_ids.tolist() == [0 if family in ONE_CLASS else 3]
    np.testing.assert_allclose(found.scores, [0.9], atol=1e-5)
    np.testing.assert_allclose(found.boxes_px, expected, atol=0.02)


@every_family
def test_a_score_below_the_threshold_is_left_out_and_at_the_threshold_is_kept(family: str) -> None:
    outputs = outputs_of(family, score=0.5)
    for threshold, count in ((0.499, 1), (0.501, 0)):
        card = card_of(family, score_threshold=threshold)
        assert len(decode(outputs, card, geometry(card))) == count


@every_family
def test_boxes_are_clipped_to_the_source(family: str) -> None:
    card = card_of(family)
    found = decode(outputs_of(family, box=(-20.0, 130.0, 60.0, 180.0)), card, geometry(card))
    left, top, right, _ = found.boxes_px[0]
    assert left == 0
    assert top > 0
    assert 0 < right < 200


@every_family
def test_nothing_above_the_threshold_gives_no_boxes(family: str) -> None:
    card = card_of(family, score_threshold=0.95)
    found = decode(outputs_of(family), card, geometry(card))
    assert len(found) == 0
    assert found.boxes_px.shape == (0, 4)
    assert found.to_spec(card) == ()


@pytest.mark.parametrize("family", [name for name in ALL if name != "ultraface"])
def test_another_input_size_than_the_outputs_is_refused(family: str) -> None:
    """Cells of a 320x416 input read as those of 416x416 would be boxes in wrong places.

    UltraFace's boxes are fractions: its number of priors says nothing about the size.
    """
    card = card_of(family)
    with pytest.raises(ModelError, match=r"must be \[.*got \["):
        decode(outputs_of(family), card, geometry(card, (416, 416)))


@every_family
def test_outputs_of_another_family_are_refused_with_names_and_shapes(family: str) -> None:
    for other in set(ALL) - {family}:
        card = card_of(family)
        with pytest.raises(ModelError, match=family) as caught:
            decode(outputs_of(other), card, geometry(card))
        assert "[1, " in str(caught.value)


@every_family
def test_missing_outputs_are_refused(family: str) -> None:
    card = card_of(family)
    with pytest.raises(ModelError, match="got none"):
        decode({}, card, geometry(card))


@every_family
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_not_a_number_is_an_error_and_not_an_empty_frame(family: str, poison: float) -> None:
    """NaN fails every comparison, so without a check the frame would look empty."""
    card = card_of(family)
    outputs = outputs_of(family)
    name = max((n for n in outputs if not n.startswith("kps")), key=lambda n: outputs[n].size)
    outputs[name].flat[5] = poison
    with pytest.raises(ModelError, match="NaN or infinity"):
        decode(outputs, card, geometry(card))


@every_family
def test_scores_that_are_no_probabilities_are_refused(family: str) -> None:
    """Pose and segmentation heads have similar shapes; their extra channels are not scores."""
    card = card_of(family)
    outputs = outputs_of(family, score=0.9)
    for value in outputs.values():
        value[np.isclose(value, 0.9)] = 200.0
    with pytest.raises(ModelError, match="not 0 to 1"):
        decode(outputs, card, geometry(card))


@every_family
def test_decoding_twice_gives_the_same_bits_and_leaves_the_outputs_alone(family: str) -> None:
    card = card_of(family)
    outputs = outputs_of(family)
    before = {name: value.copy() for name, value in outputs.items()}
    first, second = (decode(outputs, card, geometry(card)) for _ in range(2))
    assert first.to_spec(card) == second.to_spec(card)
    assert all(np.array_equal(outputs[name], before[name]) for name in before)


@every_family
def test_random_outputs_never_break_a_decoder(family: str) -> None:
    """Every cell above the threshold: huge sizes, boxes everywhere, still finite and clipped."""
    generator = np.random.default_rng(7)
    card = card_of(family, score_threshold=0.0)
    outputs = {
        name: (generator.random(value.shape, np.float32) * (1 if _is_score(family, name) else 30))
        for name, value in outputs_of(family).items()
    }
    if family in ("yolox", "fastestdet", "ultralytics"):
        value = next(iter(outputs.values()))
        value /= 30
        channels = slice(1, 5) if family == "fastestdet" else slice(0, 4)
        boxes = value[..., :4] if family == "yolox" else value[:, channels]
        boxes *= 100
    found = decode(outputs, card, geometry(card))
    assert 0 < len(found) <= card.output.max_detections
    assert np.isfinite(found.boxes_px).all()
    assert found.boxes_px.min() >= 0
    assert found.boxes_px.max() <= 1000
    assert (np.diff(found.scores) <= 0).all()


def _is_score(family: str, name: str) -> bool:
    return name.startswith(("cls", "obj", "scores"))


def test_yunet_takes_any_input_size_in_multiples_of_32() -> None:
    card = card_of("yunet")
    for size in ((96, 128), (480, 640), (256, 320)):
        box = (30.0, 20.0, 70.0, 60.0)
        found = decode(outputs_of("yunet", box=box, size=size), card, geometry(card, size))
        expected = geometry(card, size).to_source(np.array([box], np.float32))
        np.testing.assert_allclose(found.boxes_px, expected, atol=0.02)
    with pytest.raises(ModelError, match="multiples of 32"):
        decode(outputs_of("yunet"), card, geometry(card, (320, 400)))


def test_the_strides_of_a_card_reach_the_decoder() -> None:
    card = card_of("yolox", strides=(8, 16, 32, 64))
    with pytest.raises(ModelError, match="must be"):
        decode(outputs_of("yolox"), card, geometry(card))


def test_an_unknown_decoder_is_refused_with_the_list() -> None:
    card = ModelCard(name="x", labels=(), output=OutputCard(decoder="ssd"))
    with pytest.raises(ConfigError, match=r"'ssd'.*yolox"):
        decode({}, card, replace(geometry(card)))
