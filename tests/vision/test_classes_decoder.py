"""Classifiers answer like detectors: with one box, around everything."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.errors import ConfigError, ModelError
from edgekit.spec.base import load
from edgekit.spec.card import InputCard, ModelCard
from edgekit.spec.tensors import TensorSpec
from edgekit.vision.answers import detections_of
from edgekit.vision.cards import builtin_card, recognise, resolve_card
from edgekit.vision.preprocess import preprocess

SAMPLES = Path(__file__).parents[2] / "samples/classify"
PICTURE = (TensorSpec(name="image", dtype="float32", shape=(1, 3, 32, 32)),)
CARD = msgspec.structs.replace(builtin_card("classes"), labels=("cat", "dog", "frog"))


def answer_to(numbers: list[float], card: ModelCard = CARD, shape: tuple[int, ...] = (1, 3)):  # type: ignore[no-untyped-def]
    return detections_of(
        {"logits": np.array(numbers, np.float32).reshape(shape)},
        card,
        model_input=PICTURE[0],
        source_height_px=48,
        source_width_px=64,
    )


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_the_best_class_is_a_box_around_the_whole_picture(shape: tuple[int, ...]) -> None:
    (found,) = answer_to([1.0, 3.0, 2.0], shape=shape)
    assert (found.label, found.box) == ("dog", (0, 0, 64, 48))
    assert found.score == pytest.approx(0.6652, abs=1e-4)


def test_probabilities_are_scores_as_they_are() -> None:
    (found,) = answer_to([0.1, 0.2, 0.7])
    assert (found.label, found.score) == ("frog", 0.7)


def test_large_numbers_do_not_overflow() -> None:
    (found,) = answer_to([1e4, -1e4, 0.0])
    assert (found.label, found.score) == ("cat", 1.0)


def test_a_class_below_the_threshold_is_no_answer() -> None:
    output = msgspec.structs.replace(CARD.output, score_threshold=0.9)
    assert answer_to([1.0, 3.0, 2.0], msgspec.structs.replace(CARD, output=output)) == ()


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ModelError, match="NaN"):
        answer_to([1.0, float("nan"), 0.0])
    with pytest.raises(ModelError, match="classes"):
        answer_to([1.0] * 6, shape=(2, 3))


def test_a_classifier_is_taken_only_when_it_is_named() -> None:
    """Its layout is that of any network that ends in a vector."""
    outputs = (TensorSpec(name="logits", dtype="float32", shape=(1, 10)),)
    assert recognise(PICTURE, outputs) is None
    card, how = resolve_card(Path("net.onnx"), decoder="classes", inputs=PICTURE, outputs=outputs)
    assert card.label_of(3) == "class 3"
    assert "as asked" in how


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_cards_of_the_samples_name_their_classes(path: Path) -> None:
    card = load(path, ModelCard)
    assert card.name == path.stem
    assert path.with_suffix(".pt").exists()
    assert len(card.labels) == 10


def test_a_grey_picture_is_one_channel() -> None:
    card = InputCard(
        resize="stretch", color="gray", scale=1 / 255, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    grey = np.full((28, 28), 200, np.uint8)
    tensor = preprocess(np.repeat(grey[..., None], 3, axis=2), card, height_px=28, width_px=28)
    assert tensor.shape == (1, 1, 28, 28)
    np.testing.assert_allclose(tensor, (200 / 255 - 0.5) / 0.25, rtol=1e-6)


def test_an_unknown_colour_is_refused() -> None:
    with pytest.raises((ConfigError, msgspec.ValidationError)):
        msgspec.convert({"color": "yuv"}, InputCard)
