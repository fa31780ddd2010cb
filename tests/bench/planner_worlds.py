"""What planner.py plans: real models, the zoo, the paper's fleets, and chains of any length."""

import argparse
import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import cv2
import torch

from edgekit.builder.export import export_module
from edgekit.builder.load import load_model
from edgekit.builder.plan_inputs import variants_of
from edgekit.builder.zoo.registry import ARCHITECTURES, build
from edgekit.planner.scenario import Scenario, Variant
from edgekit.profiler.frame_cost import measure_frame, natural_frame
from edgekit.profiler.library import list_profiles, load_profile, shipped_folder
from edgekit.spec.base import load
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.planning import FrameCost
from edgekit.spec.profile import DeviceProfile
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import KernelShape, OpCost, Workload
from tests.world import DATA

FLEETS = Path(__file__).parent / "fleets"
PICTURE = "datasets/coco_val2017_subset/images/000000000139.jpg"
DATASETS: dict[str, tuple[tuple[int, int, int, int], int]] = {
    "MNIST": ((1, 1, 28, 28), 10),
    "CIFAR-100": ((1, 3, 32, 32), 100),
    "ImageNet": ((1, 3, 224, 224), 1000),
}
"""Input and classes. Networks for the two small ones keep the size in their stem."""
DETECTOR_SHAPE = (1, 3, 416, 640)
"""The paper's 640x400, with 8 rows of grey above and below: sizes are multiples of 32."""
OPEN_SHAPES = {"yunet_n_dynamic": {"input": (1, 3, 320, 320)}}
CAMERA_PX = {28: (28, 28), 32: (32, 32), 224: (224, 224), 416: (640, 400)}
"""Width and height of the frame that a camera would send, by the input's height."""


@dataclass(frozen=True)
class Zoo:
    """Networks with all their branches, exported once into ``folder``."""

    folder: Path

    def path(self, name: str, data: str = "ImageNet") -> Path:
        """The ONNX file of one network for images of one data set; written if it is not there."""
        path = self.folder / (f"{name}.onnx" if data == "ImageNet" else f"{name}-{data}.onnx")
        if path.exists():
            return path
        shape, classes = DATASETS[data]
        fields: dict[str, Any] = {"class_count": classes, "input_shape": shape}
        if ARCHITECTURES[name].task == "detector":
            shape, fields = DETECTOR_SHAPE, {}
        elif data != "ImageNet":
            fields["small_input"] = True
        torch.manual_seed(0)
        made = export_module(build(name, **fields).eval(), shape, fold=False)
        path.write_bytes(made)
        return path


@functools.cache
def variants_at(path: Path) -> tuple[Variant, ...]:
    """The model in a file, under each strategy."""
    return variants_of(load_model(path, input_shapes=OPEN_SHAPES.get(path.stem)))


def real_models() -> Iterator[tuple[str, tuple[Variant, ...]]]:
    """Every model of ../shared/data."""
    for path in sorted((DATA / "models").rglob("*.onnx")):
        yield path.stem, variants_at(path)


def zoo_models(zoo: Zoo) -> Iterator[tuple[str, tuple[Variant, ...]]]:
    """Every network of the zoo, for its own input."""
    for name in ARCHITECTURES:
        yield name, variants_at(zoo.path(name))


@functools.cache
def frames_of(height_px: int) -> tuple[FrameCost, ...]:
    """What a frame costs to send, by the height of the model's input: a photograph of that size."""
    width_px, rows_px = CAMERA_PX.get(height_px, (height_px, height_px))
    picture = cv2.imread(str(DATA / PICTURE))
    if picture is None:
        picture = natural_frame(width_px, rows_px)
    return measure_frame(cv2.resize(picture, (width_px, rows_px), interpolation=cv2.INTER_AREA))


def scenario_of(name: str, variants: tuple[Variant, ...], fleet: Fleet, **more: Any) -> Scenario:
    """That model on that fleet, with shipped profiles and the frame of the model's size."""
    workload = variants[0].workload
    shape = workload.tensor[workload.inputs[0]].shape
    return Scenario(
        model=name,
        model_sha256=workload.model_sha256,
        variants=variants,
        fleet=fleet,
        profiles={one.name: _profile(one.profile) for one in fleet.device},
        frames=frames_of(shape[-2]),
        **more,
    )


@functools.cache
def _profile(name: str) -> DeviceProfile:
    return load_profile(name, folders=[shipped_folder()])


def paper_fleet(name: str) -> Fleet:
    """One of the fleets/*.toml."""
    return load(FLEETS / f"{name}.toml", Fleet)


def wide_fleet(count: int) -> Fleet:
    """``count`` different boards, each linked with every other, no two links alike."""
    shipped = list_profiles(folders=[shipped_folder()]).found
    profiles = sorted((one.profile for one in shipped), key=_strength)[:count]
    if len(profiles) < count:
        raise SystemExit(f"there are only {len(profiles)} shipped profiles")
    devices = [Device(name=one.name, profile=one.name, provider=_provider(one)) for one in profiles]
    links = [
        Link(
            source=devices[i].name,
            target=devices[j].name,
            bandwidth=f"{60 + 7 * i + 11 * j} Mbit/s",
            rtt=f"{1 + 0.1 * (i + j):.1f} ms",
        )
        for i in range(count)
        for j in range(i + 1, count)
    ]
    return Fleet(name=f"wide-{count}", device=tuple(devices), link=tuple(links))


def _provider(profile: DeviceProfile) -> str:
    return "gpu" if profile.roof("fp32", "gpu") else "cpu"


def _strength(profile: DeviceProfile) -> float:
    roof = profile.roof("fp32", _provider(profile))
    return roof.flop_per_s if roof else 0.0


def chain(layers: int) -> tuple[Variant, ...]:
    """A chain of convolutions that halve their image twice on the way: ``layers`` - 1 cuts."""
    ops: list[OpCost] = []
    tensors = [TensorSpec(name="image", dtype="float32", shape=(1, 16, 224, 224))]
    for index in range(layers):
        halvings = 3 * index // layers
        stride = 2 if halvings > 3 * (index - 1) // layers and index else 1
        _add_layer(ops, tensors, f"c{index}", channels=16 << halvings, stride=stride)
    workload = Workload(
        model=f"chain-{layers}",
        model_sha256="0" * 64,
        ops=tuple(ops),
        tensors=tuple(tensors),
        inputs=("image",),
        outputs=(tensors[-1].name,),
    )
    return (Variant("S3", workload),)


def _add_layer(
    ops: list[OpCost], tensors: list[TensorSpec], name: str, *, channels: int, stride: int
) -> None:
    entering = tensors[-1]
    _, before, height, _ = entering.shape
    size = height // stride
    made = TensorSpec(name=name, dtype="float32", shape=(1, channels, size, size))
    weight_bytes = 4 * 9 * before * channels
    ops.append(
        OpCost(
            name=name,
            op_type="Conv",
            inputs=(entering.name,),
            outputs=(name,),
            work_flop=2 * 9 * before * channels * size * size,
            traffic_bytes=weight_bytes + entering.nbytes + made.nbytes,
            weight_bytes=weight_bytes,
            parameter_count=weight_bytes // 4,
            kernel=KernelShape(
                key=f"Conv 3x3 s{stride} d1 dense", sizes=(before, channels, size, size, 1)
            ),
        )
    )
    tensors.append(made)


def arguments_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Is the plan the best one, and how soon?")
    parser.add_argument("--quick", action="store_true", help="no zoo, shorter scaling")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plots", type=Path, metavar="FOLDER")
    parser.add_argument("--zoo", type=Path, metavar="FOLDER", help="keep exported networks here")
    return parser.parse_args(argv)
