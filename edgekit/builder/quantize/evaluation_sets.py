"""Read the held-out set that ``--evaluate`` names.

In:  ``boxes:DIR`` (DIR/images/*.jpg, DIR/labels*/*.txt as YOLO writes them) or ``classes:PATH``
(train/<class>/ and test/<class>/, or an archive of them; the test split is used).
Out: a DetectionSet or a ClassSet.  Writes only the cache of decoded classes it is given.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np

from edgekit.builder.quantize.frames import Picture, digest_of
from edgekit.builder.quantize.score import ClassSet, DetectionSet
from edgekit.builder.train.datasets import load_image_set
from edgekit.errors import ConfigError
from edgekit.spec.card import InputCard, ModelCard
from edgekit.spec.messages import Detection
from edgekit.spec.tensors import TensorSpec

_SCORE_THRESHOLD = 0.05
_MIN_PICTURES = 16


def detection_set(
    folder: Path, card: ModelCard, model_input: TensorSpec, *, label: str | None = None
) -> DetectionSet:
    """The pictures under ``folder``/images that have labels, and their boxes.

    ``label`` is the only label that is scored (and that the files may hold); without one, class 0
    of the card.
    Raises: ConfigError naming the file or folder that is missing or cannot be read.
    """
    label = label or card.label_of(0)
    label_folders = sorted(path for path in folder.glob("labels*") if path.is_dir())
    if len(label_folders) != 1 or not (folder / "images").is_dir():
        raise ConfigError(
            f"{folder} has no images folder with one labels folder beside it",
            hint="lay it out as images/NAME.jpg and labels/NAME.txt, boxes as YOLO writes them",
        )
    pictures, truths = [], []
    for path in sorted((folder / "images").iterdir()):
        boxes = label_folders[0] / f"{path.stem}.txt"
        if not boxes.is_file():
            continue
        picture = _picture(path)
        pictures.append(picture)
        truths.append(_boxes(boxes, picture.shape[1], picture.shape[0], label))
    _check_count(len(pictures), folder)
    threshold = min(card.output.score_threshold, _SCORE_THRESHOLD)
    output = msgspec.structs.replace(card.output, score_threshold=threshold)
    return DetectionSet(
        pictures=tuple(pictures),
        truths=tuple(truths),
        label=label,
        card=msgspec.structs.replace(card, output=output),
        model_input=model_input,
        digests=frozenset(map(digest_of, pictures)),
    )


def class_set(
    path: Path,
    card: InputCard,
    model_input: TensorSpec,
    cache_folder: Path,
    *,
    at_most: int | None = None,
) -> ClassSet:
    """The test split at ``path``, or ``at_most`` pictures spread evenly over it.

    Raises: ConfigError as ``load_image_set``, and if there are too few pictures or not in colour.
    """
    images = load_image_set(path, cache_folder).test
    if images.pixels.shape[3] != 3:
        raise ConfigError(f"{path} holds grey pictures", hint="evaluate on colour pictures")
    count = len(images)
    chosen: Sequence[int] = range(count)
    if at_most is not None and at_most < count:
        chosen = np.linspace(0, count - 1, at_most).astype(int).tolist()
    _check_count(len(chosen), path)
    pictures = [np.ascontiguousarray(images.pixels[k][..., ::-1]) for k in chosen]
    return ClassSet(
        pictures=pictures,
        labels=[int(images.labels[k]) for k in chosen],
        card=card,
        model_input=model_input,
        digests=frozenset(map(digest_of, pictures)),
    )


def _check_count(count: int, path: Path) -> None:
    if count < _MIN_PICTURES:
        raise ConfigError(
            f"{path} holds {count} labelled pictures, {_MIN_PICTURES} are needed to judge by",
            hint="add pictures; the interval that is reported says how many are enough",
        )


def _picture(path: Path) -> Picture:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise ConfigError(f"{path} cannot be decoded", hint="replace it, or remove its labels")
    return np.asarray(image, np.uint8)


def _boxes(path: Path, width_px: int, height_px: int, label: str) -> tuple[Detection, ...]:
    """Each line: class, then centre x, centre y, width, height as shares of the picture."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            kind, x, y, width, height = (float(word) for word in line.split()[:5])
        except ValueError:
            raise ConfigError(
                f"{path}:{number} is no box", hint="write: class x y width height, shares of 1"
            ) from None
        if kind != 0:
            raise ConfigError(
                f"{path}:{number} has class {kind:g}; one label is scored, as class 0",
                hint=f"keep the boxes of {label!r}, as class 0",
            )
        x, y, width, height = x * width_px, y * height_px, width * width_px, height * height_px
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        found.append(Detection(label=label, score=1.0, box=box))
    return tuple(found)
