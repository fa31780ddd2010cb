"""Model cards: the built-in ones, those beside a model, and which one to take.

In: a card's path or name, or the tensors of a model.  Out: a ModelCard, and how it was found.
Never guesses in silence: what was recognised is said, what was not is refused with the list.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import msgspec

from edgekit.errors import ConfigError, ModelError
from edgekit.spec.base import load, parse_toml
from edgekit.spec.card import ModelCard
from edgekit.spec.tensors import TensorSpec
from edgekit.vision.decoders import port
from edgekit.vision.decoders.registry import decoder_named, recognise_family

_KNOWN_MODELS: dict[tuple[str, int, tuple[int, int] | None], str] = {
    ("yolox", 1, (192, 192)): "light_person",
}
"""Models whose labels follow from family, class count and input size."""


def builtin_names() -> tuple[str, ...]:
    """Names that ``builtin_card`` knows."""
    files = resources.files(__package__).iterdir()
    return tuple(sorted(file.name[:-5] for file in files if file.name.endswith(".toml")))


def builtin_card(name: str) -> ModelCard:
    """The card that comes with EdgeKit. Raises: ConfigError listing the known ones."""
    if name not in builtin_names():
        raise ConfigError(
            f"there is no built-in card {name!r}", hint=f"use one of {', '.join(builtin_names())}"
        )
    data = resources.files(__package__).joinpath(f"{name}.toml").read_bytes()
    return parse_toml(data, ModelCard, origin=f"built-in card {name}")


def load_card(path: Path) -> ModelCard:
    """The card at ``path``. Raises: ConfigError if it is not valid, or its decoder not known."""
    card = load(path, ModelCard)
    try:
        decoder_named(card.output.decoder)
    except ConfigError as error:
        raise ConfigError(f"{path}: output.decoder: {error.what}", hint=error.hint) from None
    return card


def recognise(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str | None:
    """Name of the built-in card that fits a model's inputs and outputs, None if none does.

    A free dimension is 0.
    """
    found = recognise_family(inputs, outputs)
    if found is None:
        return None
    decoder, class_count = found
    known = (decoder.name, class_count, port.input_size_px(inputs))
    return _KNOWN_MODELS.get(known, decoder.name)


def resolve_card(
    model_path: Path,
    *,
    decoder: str | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> tuple[ModelCard, str]:
    """The card to use for a model, and how it was found, in words to print.

    In this order: the built-in card named ``decoder``; a card beside the model
    (``<stem>.toml``, then ``model.toml``); the family recognised from the tensors.
    Raises: ConfigError if there is none, or its labels do not fit; ModelError if the card's
    decoder cannot read the outputs.
    """
    if decoder is not None:
        return _fitted(_asked_for(decoder, inputs, outputs), inputs, outputs, how="as asked")
    for path in (model_path.with_suffix(".toml"), model_path.with_name("model.toml")):
        if path.is_file():
            card = load_card(path)
            _check(card, inputs, outputs, origin=str(path))
            return card, f"card {path.name} beside the model (decoder {card.output.decoder})"
    name = recognise(inputs, outputs)
    if name is None:
        raise ConfigError(
            f"{model_path.name}: the detector family is not recognised from its outputs "
            f"{_described(outputs)}",
            hint=f"name it with --decoder ({', '.join(builtin_names())}), "
            f"or put a card {model_path.stem}.toml beside the model",
        )
    return _fitted(builtin_card(name), inputs, outputs, how="recognised from the outputs")


def _asked_for(name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> ModelCard:
    """The built-in card, or its variant for a known model of that family."""
    card = builtin_card(name)
    known = recognise(inputs, outputs)
    if known is not None and builtin_card(known).output.decoder == name:
        return builtin_card(known)
    return card


def _fitted(
    card: ModelCard, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, how: str
) -> tuple[ModelCard, str]:
    """A built-in card with the labels that the model's class count allows."""
    count = _class_count(card, inputs, outputs)
    what = f"decoder {card.output.decoder}, {how} ({_described(outputs)})"
    if count == len(card.labels):
        return card, f"{what}; labels {_shortened(card.labels)}"
    card = msgspec.structs.replace(card, labels=())
    return card, f"{what}; the labels of its {count} classes are not known: class 0, ..."


def _shortened(labels: Sequence[str]) -> str:
    if len(labels) <= 3:
        return ", ".join(labels)
    return f"{labels[0]}, {labels[1]}, ... ({len(labels)})"


def _check(
    card: ModelCard, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, origin: str
) -> None:
    """Refuse a card that cannot be this model's."""
    count = _class_count(card, inputs, outputs)
    if card.labels and len(card.labels) != count:
        raise ConfigError(
            f"{origin}: labels names {len(card.labels)} classes, the model has {count}",
            hint="list one label per class in the order of training",
        )


def _class_count(
    card: ModelCard, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> int:
    decoder = decoder_named(card.output.decoder)
    count = decoder.class_count(inputs, outputs, card.output.strides)
    if count is None:
        raise ModelError(
            f"decoder {decoder.name} reads {decoder.layout} (strides {list(card.output.strides)}); "
            f"this model has {_described(inputs)} -> {_described(outputs)}",
            hint="fix the model's shapes, like --input NAME=1x3x416x416"
            if any(0 in spec.shape for spec in (*inputs, *outputs))
            else "name another decoder, or check the strides of the card",
        )
    return count


def _described(specs: Sequence[TensorSpec]) -> str:
    """Names, dtypes and shapes; of many tensors the first three."""
    more = f" and {len(specs) - 3} more" if len(specs) > 3 else ""
    return ", ".join(map(str, specs[:3])) + more
