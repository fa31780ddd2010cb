"""What the paper's experiments run on: real pictures with labels, trained networks, fleets.

In:  ../shared/data and samples/classify.  Out: folders of pictures that agents film, the truth
about them, and the accuracy of answers.  Pictures are kept in a cache folder, as lossless PNG.
"""

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np

from edgekit.builder.load import load_model
from edgekit.builder.train.datasets import load_image_set
from edgekit.runtime.dilated import undisturbed_s
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import random_inputs
from edgekit.spec.base import Spec, load, save
from edgekit.spec.card import ModelCard
from edgekit.spec.fleet import Fleet
from edgekit.spec.messages import AnswerReport
from edgekit.trial.bench import Bench, ShardName
from tests.world import DATA

ROOT = Path(__file__).parents[2]
DATASETS = {"mnist": DATA / "datasets/mnist_png", "cifar10": DATA / "datasets/cifar10_jpeg"}
NETWORKS = ("repvgg", "rep-resnet", "rep-googlenet")
FLEETS = ("nano-nx", "tx1-nx", "tx2-nx", "tx2-rtx4090")
_STRONGEST_S, _WEAKEST_S = 20e-3, 100e-3
_WHOLE = ShardName("S3", (), ())
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


class WholeTime(Spec, frozen=True, kw_only=True):
    """What a network takes on this machine, folded whole."""

    model: str
    whole_s: float


def model_of(dataset: str, network: str) -> Path:
    """A trained network of samples/classify."""
    return ROOT / f"samples/classify/{dataset}-{network}.pt"


def card_of(dataset: str, network: str) -> ModelCard:
    """Its card."""
    return load(model_of(dataset, network).with_suffix(".toml"), ModelCard)


def fleet_of(name: str) -> Fleet:
    """One of the paper's fleets, as ratios of compute and as links."""
    return load(ROOT / f"tests/testbed/fleets/{name}.toml", Fleet)


def slowed(fleet: Fleet, whole_s: float) -> Fleet:
    """``fleet`` on a machine that runs the whole model in ``whole_s``: boards slow enough for it.

    The model takes 20 ms on the strongest device, as the paper's rates say, or less where the
    weakest would need more than 100 ms. Only compute is emulated: were it as fast as the small
    networks allow, the agents' own work for a frame, some ms that no emulation slows, would decide.
    """
    speeds = [device.relative_speed for device in fleet.device]
    weakest_s = min(_WEAKEST_S, _STRONGEST_S * max(speeds) / min(speeds))
    host_speed = max(*speeds, weakest_s / whole_s * min(speeds))
    return msgspec.structs.replace(fleet, host_speed=host_speed)


def fleet_for(name: str, model: Path, folder: Path) -> Fleet:
    """``slowed`` for a model; how long it takes here is timed once, and kept in ``folder``."""
    path = folder / f"whole-{model.stem}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="edgekit-") as home:
            whole = Bench(load_model(model), {}).write(_WHOLE, Path(home) / "whole.onnx")
            session = OrtSession(whole)
        whole_s = undisturbed_s(session, random_inputs(session.inputs))
        save(WholeTime(model=model.stem, whole_s=whole_s), path)
    return slowed(fleet_of(name), load(path, WholeTime).whole_s)


def as_file_name(key: Mapping[str, str]) -> str:
    """A readable file name for one experiment."""
    return re.sub(r"[^a-z0-9.+-]+", "-", "_".join(key.values()).lower()).strip("-")
