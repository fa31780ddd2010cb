"""Calibration frames: pictures of a source, spread over all of it, as the model's input.

In:  a source, how frames become the input.  Out: CalibrationFrames.
Refused are too few frames, and pictures that say nothing about what a camera will see.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.builder.load import LoadedModel
from edgekit.errors import ConfigError, ModelError
from edgekit.spec.card import InputCard
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.vision.preprocess import preprocess
from edgekit.vision.sources import EndOfSource, Source, open_source

MIN_FRAMES = 16
"""Fewer leave the ranges of most tensors to chance."""
MAX_FRAMES = 48
_MIN_SPREAD = 8
"""Grey levels between the darkest and the brightest pixel of a picture that shows something."""

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationFrames:
    """Inputs of the model, each (1, 3, height, width) float32, and what tells pictures apart."""

    tensors: tuple[Array, ...]
    digests: frozenset[str]
    uri: str


def image_input(loaded: LoadedModel) -> TensorSpec:
    """The one input of a model that reads a picture. Raises: ModelError if it is another kind."""
    specs = loaded.inputs
    fits = len(specs) == 1 and specs[0].dtype == "float32" and len(specs[0].shape) == 4
    if not fits or specs[0].shape[:2] != (1, 3):
        raise ModelError(
            f"{loaded.name} reads {', '.join(map(str, specs))}, not one colour picture "
            "float32[1, 3, height, width]",
            hint="export it for one picture, or fix its shape with --input NAME=1x3x416x416",
        )
    return specs[0]


def digest_of(picture: Picture) -> str:
    """What tells one picture from another."""
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest()


def calibration_frames(
    uri: str, card: InputCard, model_input: TensorSpec, *, at_most: int = MAX_FRAMES
) -> CalibrationFrames:
    """Up to ``at_most`` frames of the source ``uri``, evenly spread over it.

    Raises: ConfigError if there are fewer than MIN_FRAMES, or if they show nothing.
    """
    source = open_source(uri, mode="every")
    try:
        pictures = _spread(source, at_most)
    finally:
        source.close()
    check_pictures(pictures, uri)
    height_px, width_px = model_input.shape[2:]
    return CalibrationFrames(
        tensors=tuple(
            preprocess(picture, card, height_px=height_px, width_px=width_px)
            for picture in pictures
        ),
        digests=frozenset(map(digest_of, pictures)),
        uri=uri,
    )


def check_pictures(pictures: list[Picture], uri: str) -> None:
    """Raises: ConfigError if the pictures are too few, of one colour, or all the same."""
    if len(pictures) < MIN_FRAMES:
        raise ConfigError(
            f"{uri} gives {len(pictures)} calibration frames, {MIN_FRAMES} are needed",
            hint=f"give at least {MIN_FRAMES} pictures of what the camera will see, better 48",
        )
    flat = sum(int(picture.max()) - int(picture.min()) < _MIN_SPREAD for picture in pictures)
    if flat * 2 > len(pictures):
        raise ConfigError(
            f"{flat} of {len(pictures)} calibration frames of {uri} have one colour all over",
            hint="give pictures of what the camera will see, not test patterns",
        )
    different = len(set(map(digest_of, pictures)))
    if different < MIN_FRAMES:
        raise ConfigError(
            f"only {different} calibration frames of {uri} differ, {MIN_FRAMES} are needed",
            hint="give different pictures of what the camera will see",
        )


def refuse_seen(frames: CalibrationFrames, held_out: Collection[str]) -> None:
    """Raises: ConfigError if a picture that is scored, by digest, was calibrated on."""
    both = len(frames.digests & set(held_out))
    if both:
        raise ConfigError(
            f"{both} pictures of the evaluation are calibration frames too, so it would flatter",
            hint="calibrate on other pictures than those that are scored",
        )


def _spread(source: Source, at_most: int) -> list[Picture]:
    """Evenly over a source of known length; else the first ones."""
    count = source.info.frame_count
    wanted = None if count is None else {round(k * count / at_most) for k in range(at_most)}
    pictures: list[Picture] = []
    position = 0
    while len(pictures) < at_most:
        try:
            frame = source.read()
        except EndOfSource:
            break
        if wanted is None or position in wanted:
            pictures.append(frame.image)
        position += 1
    return pictures
