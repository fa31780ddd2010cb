"""How a model reads pictures, and on which held-out ones it is scored, from options of commands.

In:  a LoadedModel and options.  Out: cards, and a DetectionSet or a ClassSet.
"""

import tempfile
from pathlib import Path

from edgekit.builder.load import LoadedModel
from edgekit.builder.quantize import image_input
from edgekit.builder.quantize.evaluation_sets import class_set, detection_set
from edgekit.builder.quantize.score import ClassSet, DetectionSet
from edgekit.errors import ConfigError
from edgekit.spec.base import load
from edgekit.spec.card import InputCard, ModelCard
from edgekit.vision.cards import resolve_card


def cards_of(
    loaded: LoadedModel, decoder: str | None, preprocess: Path | None
) -> tuple[ModelCard | None, InputCard, str]:
    """The card if there is one, how pixels become the input, and how that was found."""
    try:
        card, how = resolve_card(
            loaded.path, decoder=decoder, inputs=loaded.inputs, outputs=loaded.outputs
        )
    except ConfigError as error:
        if preprocess is None or decoder is not None:
            raise ConfigError(
                error.what, hint=f"{error.hint}, or say with --preprocess FILE how pixels are fed"
            ) from None
        return None, load(preprocess, InputCard), f"pixels as {preprocess} says"
    if preprocess is not None:
        return card, load(preprocess, InputCard), f"{how}; pixels as {preprocess} says"
    return card, card.input, how


def evaluation_set(
    text: str, loaded: LoadedModel, card: ModelCard | None, pixels: InputCard
) -> DetectionSet | ClassSet:
    """The held-out set that ``--evaluate`` names.

    Raises: ConfigError if it is none, or cannot be read.
    """
    kind, _, place = text.partition(":")
    if kind == "boxes" and place:
        if card is None:
            raise ConfigError(
                f"--evaluate {text} needs a detector, and no card says how to decode this model",
                hint="name its family with --decoder",
            )
        return detection_set(Path(place), card, image_input(loaded))
    if kind == "classes" and place:
        with tempfile.TemporaryDirectory(prefix="edgekit-") as cache:
            return class_set(Path(place), pixels, image_input(loaded), Path(cache))
    raise ConfigError(
        f"--evaluate {text!r} names no held-out set", hint="write boxes:DIR or classes:PATH"
    )
