"""The decoders by name. To add a family: one file here, one line in the list, one built-in card."""

from collections.abc import Sequence

from edgekit.errors import ConfigError
from edgekit.spec.card import ModelCard
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.vision.decoders import (
    classes,
    fastestdet,
    nanodet,
    ultraface,
    ultralytics,
    yolox,
    yunet,
)
from edgekit.vision.decoders.port import Decoder
from edgekit.vision.detections import Detections
from edgekit.vision.geometry import Geometry

_DECODERS: dict[str, Decoder] = {
    module.DECODER.name: module.DECODER
    for module in (yolox, nanodet, fastestdet, yunet, ultraface, ultralytics, classes)
}

_DEFAULT_STRIDES = (8, 16, 32)


def decoder_names() -> tuple[str, ...]:
    """Every family that can be decoded."""
    return tuple(sorted(_DECODERS))


def decoder_named(name: str) -> Decoder:
    """The decoder. Raises: ConfigError listing the known ones."""
    if name not in _DECODERS:
        raise ConfigError(
            f"there is no decoder {name!r}", hint=f"use one of {', '.join(decoder_names())}"
        )
    return _DECODERS[name]


def recognise_family(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[Decoder, int] | None:
    """The family whose layout the tensors have, with its class count; None if none or several.

    With the strides that all these families have by default; others need a card.
    """
    matches = [
        (decoder, count)
        for decoder in _DECODERS.values()
        if decoder.is_recognisable
        and (count := decoder.class_count(inputs, outputs, _DEFAULT_STRIDES)) is not None
    ]
    return matches[0] if len(matches) == 1 else None


def decode(outputs: dict[str, Array], card: ModelCard, geometry: Geometry) -> Detections:
    """Boxes of one frame from the model's raw outputs, in pixels of the source.

    Raises: ConfigError if the card names no known decoder; ModelError if the outputs have another
    layout than the decoder reads, or hold NaN.
    """
    return decoder_named(card.output.decoder).decode(outputs, card, geometry)
