"""The recipe by which a board builds an engine of its shard."""

import hashlib

import msgspec
import numpy as np
import pytest
from onnx import numpy_helper

from edgekit.builder.probe import to_bytes
from edgekit.builder.tensorrt_build.recipe import engine_recipe, wants_engine, workspace_bytes
from edgekit.errors import ConfigError
from edgekit.profiler.library import load_profile
from edgekit.spec.base import parse_json, to_json
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.fleet import Device
from edgekit.spec.plan import Placement
from edgekit.spec.profile import Precision
from tests.graphs import residual_model

SHARD = to_bytes(residual_model())
GPU = Device(name="orin", provider="tensorrt")
DLA = Device(name="orin", provider="tensorrt-dla")
ORIN = load_profile("jetson-agx-orin")


def placement(precision: Precision = "fp32") -> Placement:
    return Placement(
        device="orin", shard="shards/shard-1.onnx", inputs=(), outputs=(), work_flop=0,
        weight_bytes=0, precision=precision,
    )  # fmt: skip


def recipe(device: Device = GPU, precision: Precision = "fp32", **more: object) -> EngineRecipe:
    return engine_recipe(SHARD, placement(precision), device, golden="golden/shard-1.npz", **more)  # type: ignore[arg-type]


def test_it_says_all_that_a_board_must_know() -> None:
    """Which file, exactly; of which inputs; what it must compute; what it may use."""
    found = recipe(profile=ORIN)
    assert (found.shard, found.golden) == ("shards/shard-1.onnx", "golden/shard-1.npz")
    assert found.shard_sha256 == hashlib.sha256(SHARD).hexdigest()
    assert [(one.name, one.usual) for one in found.shapes] == [("image", (1, 2, 4, 4))]
    assert found.is_static and found.precision == "fp32" and not found.tf32
    assert found.dla_core == -1
    assert parse_json(to_json(found), EngineRecipe, origin="x") == found
    assert to_json(recipe(profile=ORIN)) == to_json(found)


@pytest.mark.parametrize(
    ("memory", "megabytes"), [("", 1024), ("8 GiB", 2048), ("512 MiB", 256), ("256 GiB", 4096)]
)
def test_scratch_memory_is_a_quarter_of_what_shards_may_take(memory: str, megabytes: int) -> None:
    """Not less than builds need, not more than they use."""
    device = msgspec.structs.replace(GPU, memory=memory)
    assert workspace_bytes(device, None) == megabytes << 20
    assert recipe(device).workspace_bytes == megabytes << 20


def test_a_profile_tells_the_memory_where_the_fleet_does_not() -> None:
    board = load_profile("jetson-orin-nano")
    assert workspace_bytes(GPU, board) == board.memory_bytes // 4
    assert workspace_bytes(msgspec.structs.replace(GPU, memory="2 GiB"), board) == 512 << 20


def test_a_large_shard_gets_what_building_it_takes() -> None:
    """A build holds weights several times, and fails with less."""
    small = msgspec.structs.replace(GPU, memory="64 MiB")
    proto = residual_model()
    proto.graph.initializer.append(
        numpy_helper.from_array(np.zeros(80 << 18, np.float32), "many_weights")
    )
    found = engine_recipe(to_bytes(proto), placement(), small, golden="")
    assert found.workspace_bytes >= 4 * (80 << 20)


def test_an_accelerator_is_used_where_the_fleet_asks_for_it() -> None:
    """It is slower than the GPU beside it, so nobody gets it unasked."""
    assert recipe(DLA, "fp16", profile=ORIN).dla_core == 0
    assert recipe(DLA, "fp16").dla_core == 0
    assert recipe(GPU, "fp16", profile=ORIN).dla_core == -1


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_accelerator_computes_in_fp16_alone(precision: Precision) -> None:
    with pytest.raises(ConfigError, match="fp16 only") as refusal:
        recipe(DLA, precision, profile=ORIN)
    assert "--precision orin=fp16" in refusal.value.hint


def test_a_board_without_an_accelerator_is_not_told_to_use_one() -> None:
    with pytest.raises(ConfigError, match="jetson-orin-nano has none") as refusal:
        recipe(DLA, "fp16", profile=load_profile("jetson-orin-nano"))
    assert 'provider = "tensorrt"' in refusal.value.hint


def test_only_tensorrt_itself_takes_engines() -> None:
    """ONNX Runtime's providers build their own, inside of a session."""
    known = ("cpu", "cuda", "tensorrt-ep", "tensorrt-rtx-ep", "tensorrt", "tensorrt-dla")
    asked = [name for name in known if wants_engine(Device(name="x", provider=name))]
    assert asked == ["tensorrt", "tensorrt-dla"]
