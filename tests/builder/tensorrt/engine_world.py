"""What tests and bench of engines share: models in all precisions, and engines built of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import onnx
import pytest

from edgekit.builder.export import export_module
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import seeded_inputs, to_bytes
from edgekit.builder.quantize import pieces
from edgekit.builder.quantize.candidates import Candidate, Frames, plain_candidate
from edgekit.builder.quantize.float_model import without_batch_norms
from edgekit.builder.quantize.operators import Selection, refuse_quantized, select_operators
from edgekit.builder.quantize.pieces import Model, ShardMaker, Ways
from edgekit.builder.quantize.recipes import Recipe, recipe_for
from edgekit.builder.tensorrt_build.obstacles import obstacles_of
from edgekit.builder.tensorrt_build.recipe import engine_recipe
from edgekit.builder.workload import workload_of
from edgekit.builder.zoo.registry import ARCHITECTURES, Architecture, build
from edgekit.errors import DeviceError, ModelError
from edgekit.runtime.tensorrt import Library, build_engine, find_library, refusals_of
from edgekit.spec.fleet import Device
from edgekit.spec.plan import Placement
from edgekit.spec.profile import Precision
from tests.builder.zoo_world import lived_in
from tests.world import DATA

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
REAL = MappingProxyType(
    {
        "fastestdet": "fastestdet/FastestDet.onnx",
        "yolox-nano": "yolox_nano/yolox_nano_416x416.onnx",
        "nanodet-m": "nanodet_m/nanodet_m_320.onnx",
        "yunet-n": "yunet/yunet_n_320_320.onnx",
        "yunet-s": "yunet/yunet_s_320_320.onnx",
        "yunet-n-open": "yunet/yunet_n_dynamic.onnx",
        "ultraface-rfb": "ultraface/version-RFB-320.onnx",
        "ultraface-slim": "ultraface/version-slim-320.onnx",
        "light-person": "light_person_detector/light_person_detector.onnx",
        "resnet20-cifar": "resnet_cifar10/resnet20_cifar10.onnx",
        "resnet56-cifar": "resnet_cifar10/resnet56_cifar10.onnx",
        "mobilenet-v2-int8": "mobilenet_v2_int8/mobilenet_v2_quant.onnx",
    }
)
"""Real files by name, below ../shared/data/models."""
DETECTORS = tuple(REAL)[:9]
_OPEN_SHAPES = {"yunet-n-open": {"input": (1, 3, 320, 320)}}
_SHAPES = {"classifier": (1, 3, 96, 96), "detector": (1, 3, 96, 160)}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine, or why there is none."""

    model: str
    precision: Precision
    target: str
    """Compute capability, such as "8.9"."""
    build_s: float = 0.0
    engine_bytes: int = 0
    refusal: str = ""
    is_explained: bool = True
    """Whether a refusal names the operator, or says in words why the builder made no such shard."""

    @property
    def said(self) -> str:
        """The result in a few words."""
        return self.refusal or f"{self.build_s:.2f} s, {self.engine_bytes / 1e6:.1f} MB"


def library_here() -> Library:
    """TensorRT-RTX, or a skip with the reason."""
    try:
        return find_library(("tensorrt_rtx",))
    except DeviceError as error:
        pytest.skip(str(error))


def real_model(name: str) -> LoadedModel:
    """One of REAL. Raises: FileNotFoundError if the data is not there."""
    path = DATA / "models" / REAL[name]
    if not path.exists():
        raise FileNotFoundError(path)
    return load_model(path, input_shapes=_OPEN_SHAPES.get(name))


def zoo_model(entry: Architecture, folder: Path) -> LoadedModel:
    """A network of the zoo, folded whole, with statistics as after training."""
    network = lived_in(build(entry.name))
    path = folder / f"{entry.name}.onnx"
    path.write_bytes(export_module(network, _SHAPES[entry.task], fold=True))
    return load_model(path)


def shard_in(loaded: LoadedModel, precision: Precision) -> onnx.ModelProto:
    """The model as the one shard of a device that runs TensorRT; int8 in the plainest way.

    Raises: ModelError if the builder makes no such shard of it.
    """
    selection = None
    if precision != "fp32":
        refuse_quantized(loaded.proto, loaded.name)
    if precision == "int8":
        loaded = without_batch_norms(loaded)
        selection = select_operators(loaded)
    whole = Model(loaded=loaded, workload=workload_of(loaded), cuts=())
    ways = Ways(recipes=(recipe_for("tensorrt"),), selection=selection, calibrators=("minmax",))
    frames = [seeded_inputs(loaded.inputs, seed) for seed in range(2)]
    with patch.object(pieces, "best_candidate", _plainly):
        return ShardMaker(whole, ways, frames).chain((precision,)).shipped.shards[0]


def _plainly(
    model: LoadedModel, selection: Selection, frames: Frames, recipe: Recipe, *_: Any, **__: Any
) -> tuple[Candidate, tuple[Candidate, ...]]:
    """Nothing corrected and nothing compared, which takes minutes and changes no operator."""
    return plain_candidate(model, selection, frames, recipe), ()


def engines_of(
    name: str,
    load: Callable[[], LoadedModel],
    precision: Precision,
    library: Library,
    targets: tuple[str, ...],
    folder: Path,
) -> Iterator[Row]:
    """An engine of one model in one precision for each of ``targets``, or a Row that says why not.

    Asked are the builder first, then the table of known obstacles, then TensorRT's parser.
    """
    try:
        shard = shard_in(load(), precision)
    except ModelError as error:
        refusal = f"builder: {error.what}"
        yield from (
            Row(model=name, precision=precision, target=one, refusal=refusal) for one in targets
        )
        return
    path = folder / "shard.onnx"
    data = to_bytes(shard)
    path.write_bytes(data)
    known = obstacles_of(shard)
    asked = refusals_of(library, path)
    if known or asked:
        refusal = str(known[0] if known else asked[0])
        named = bool(known) or bool(asked[0].operator)
        # What the parser refuses and the table does not know is a hole in the table.
        yield from (
            Row(model=name, precision=precision, target=one, refusal=refusal, is_explained=named)
            for one in targets
        )
        return
    for target in targets:
        yield _built(name, precision, target, data, path, library)


def _built(
    name: str, precision: Precision, target: str, data: bytes, path: Path, library: Library
) -> Row:
    placement = Placement(
        device="x", shard="shard.onnx", inputs=(), outputs=(), work_flop=0, weight_bytes=0,
        precision=precision,
    )  # fmt: skip
    recipe = engine_recipe(data, placement, Device(name="x", provider="tensorrt"), golden="")
    row = {"model": name, "precision": precision, "target": target}
    try:
        built = build_engine(library, path, recipe, target=target)
    except (DeviceError, ModelError) as error:
        return Row(**row, refusal=error.what, is_explained=False)  # type: ignore[arg-type]
    return Row(**row, build_s=built.build_s, engine_bytes=len(built.engine))  # type: ignore[arg-type]


def zoo() -> tuple[Architecture, ...]:
    """Every network of the zoo."""
    return tuple(ARCHITECTURES.values())
