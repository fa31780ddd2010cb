"""A class-folder image set in memory: every image decoded once, as one uint8 array per split.

In:  a folder or archive (see image_files), and a folder for the cache, which is never the data's
own.  Out: an ImageSet.  The cache is keyed by the fingerprint of the data and carries a digest of
its content: a stale or damaged one is decoded again, never believed.
"""

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edgekit.builder.train.dataset_cache import load_cached, save_cached
from edgekit.builder.train.image_files import (
    SPLITS,
    ImageFile,
    find_source,
    fingerprint,
    read_images,
)
from edgekit.errors import ConfigError

log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
_ENDS = {b"\x89PNG": b"IEND\xaeB`\x82", b"\xff\xd8\xff": b"\xff\xd9"}
"""How a whole file of each format ends: decoders fill a missing part with gray and say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImages:
    """Shapes: pixels (N, H, W, C) uint8, C = 1 gray or 3 red, green, blue; labels (N,) int64."""

    pixels: Pixels
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageSet:
    """A training and a test split over the same classes; a label is the index of its class."""

    classes: tuple[str, ...]
    train: LabelledImages
    test: LabelledImages

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width in px of every image."""
        _, height, width, channels = self.train.pixels.shape
        return channels, height, width

    @property
    def sha256(self) -> str:
        """Digest of the classes, labels and pixels."""
        digest = hashlib.sha256(f"{self.classes} {self.image_shape}\n".encode())
        for split in (self.train, self.test):
            digest.update(np.ascontiguousarray(split.labels).data)
            digest.update(np.ascontiguousarray(split.pixels).data)
        return digest.hexdigest()


def load_image_set(path: Path, cache_folder: Path) -> ImageSet:
    """The images at ``path``, from ``cache_folder`` if they were decoded before.

    Raises: ConfigError naming the folder or file that is missing, empty, damaged or of another
    size than the first image.
    """
    source = find_source(path)
    key = fingerprint(source)
    cached = cache_folder / f"{source.name.split('.')[0]}-{key[:16]}.npz"
    arrays = load_cached(cached, key)
    if arrays is not None:
        return _image_set(arrays)
    start_s = time.perf_counter()
    decoded = _decoded(read_images(source))
    save_cached(_arrays(decoded), cached, key)
    log.info(
        "decoded %s: train=%d test=%d classes=%d seconds=%.1f",
        source, len(decoded.train), len(decoded.test), len(decoded.classes),
        time.perf_counter() - start_s,
    )  # fmt: skip
    return decoded


def _decoded(files: Sequence[ImageFile]) -> ImageSet:
    classes = tuple(sorted({file.kind for file in files}))
    images = [_image(file) for file in files]
    first = images[0].shape[:2]
    for file, image in zip(files, images, strict=True):
        if image.shape[:2] != first:
            raise ConfigError(
                f"{file.place} is {_size(image)} px, {files[0].place} is {_size(images[0])} px",
                hint="bring all images to one size",
            )
    # One color image makes the set a color set: JPEG files of gray scenes are often stored gray.
    is_gray = all(image.ndim == 2 for image in images)
    index = {kind: number for number, kind in enumerate(classes)}
    splits = {}
    for split in SPLITS:
        chosen = [n for n, file in enumerate(files) if file.split == split]
        splits[split] = LabelledImages(
            pixels=np.stack([_channels(images[n], is_gray=is_gray) for n in chosen]),
            labels=np.array([index[files[n].kind] for n in chosen], np.int64),
        )
    return ImageSet(classes=classes, **splits)


def _image(file: ImageFile) -> Pixels:
    """(H, W) for gray, (H, W, 3) red, green, blue for color."""
    end = next((end for start, end in _ENDS.items() if file.data.startswith(start)), None)
    # Not at the very end: some cameras write more behind it. Not in the first half: thumbnails.
    if end is None or end not in file.data[len(file.data) // 2 :]:
        raise _damaged(file)
    try:
        image = cv2.imdecode(np.frombuffer(file.data, np.uint8), cv2.IMREAD_ANYCOLOR)
    except cv2.error:
        image = None
    if image is None or image.dtype != np.uint8:
        raise _damaged(file)
    decoded: Pixels = image if image.ndim == 2 else image[..., ::-1]
    return decoded


def _damaged(file: ImageFile) -> ConfigError:
    return ConfigError(
        f"{file.place} is not a whole PNG or JPEG file ({len(file.data)} bytes)",
        hint="copy it again, or remove it",
    )


def _channels(image: Pixels, *, is_gray: bool) -> Pixels:
    if is_gray:
        return image[..., None]
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _size(image: Pixels) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _arrays(images: ImageSet) -> dict[str, npt.NDArray[np.generic]]:
    return {
        "classes": np.array(images.classes, np.str_),
        "train_pixels": images.train.pixels,
        "train_labels": images.train.labels,
        "test_pixels": images.test.pixels,
        "test_labels": images.test.labels,
    }


def _image_set(arrays: dict[str, npt.NDArray[np.generic]]) -> ImageSet:
    train, test = (
        LabelledImages(
            pixels=arrays[f"{split}_pixels"].astype(np.uint8, copy=False),
            labels=arrays[f"{split}_labels"].astype(np.int64, copy=False),
        )
        for split in SPLITS
    )
    return ImageSet(classes=tuple(map(str, arrays["classes"])), train=train, test=test)
