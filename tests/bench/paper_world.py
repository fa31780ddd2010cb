"""What the paper's experiments run on: real pictures with labels, trained networks, fleets.

In:  ../shared/data and samples/classify.  Out: folders of pictures that agents film, the truth
about them, and the accuracy of answers.  Pictures are kept in a cache folder, as lossless PNG.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgekit.builder.train.datasets import load_image_set
from edgekit.spec.base import load
from edgekit.spec.card import ModelCard
from edgekit.spec.fleet import Fleet
from edgekit.spec.messages import AnswerReport
from tests.world import DATA

ROOT = Path(__file__).parents[2]
DATASETS = {"mnist": DATA / "datasets/mnist_png", "cifar10": DATA / "datasets/cifar10_jpeg"}
NETWORKS = ("repvgg", "rep-resnet", "rep-googlenet")
FLEETS = ("nano-nx", "tx1-nx", "tx2-nx", "tx2-rtx4090")
_DONE = "complete"


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The test split of a data set."""

    name: str
    folder: Path
    truth: tuple[str, ...]
    """Label of each picture, in the order of the file names."""

    def source(self, count: int, options: str = "mode=every") -> str:
        """The URI of ``count`` of them, again from the first where there are fewer."""
        return f"images:{self.folder}?loop=1&frames={count}&{options}"

    def accuracy_percent(self, reports: Iterable[AnswerReport]) -> float:
        """Share of answers that name the class."""
        right = [
            bool(one.detections)
            and one.detections[0].label == self.truth[one.frame % len(self.truth)]
            for one in reports
        ]
        return 100 * sum(right) / max(1, len(right))


def pictures_of(name: str, cache: Path) -> Pictures:
    """The test pictures of ``mnist`` or ``cifar10`` under ``cache``, decoded once."""
    images = load_image_set(DATASETS[name], cache)
    folder = cache / f"{name}-test"
    if not (folder / _DONE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(images.test.pixels):
            # OpenCV writes blue, green, red; the set holds grey, or red, green, blue.
            cv2.imwrite(str(folder / f"{number:05}.png"), np.ascontiguousarray(pixels[..., ::-1]))
        (folder / _DONE).touch()
    truth = tuple(images.classes[label] for label in images.test.labels.tolist())
    return Pictures(name=name, folder=folder, truth=truth)


def model_of(dataset: str, network: str) -> Path:
    """A trained network of samples/classify."""
    return ROOT / f"samples/classify/{dataset}-{network}.pt"


def card_of(dataset: str, network: str) -> ModelCard:
    """Its card."""
    return load(model_of(dataset, network).with_suffix(".toml"), ModelCard)


def fleet_of(name: str) -> Fleet:
    """One of the paper's fleets, as ratios of compute and as links."""
    return load(ROOT / f"tests/testbed/fleets/{name}.toml", Fleet)


def as_file_name(key: Mapping[str, str]) -> str:
    """A readable file name for one experiment."""
    return re.sub(r"[^a-z0-9.+-]+", "-", "_".join(key.values()).lower()).strip("-")
