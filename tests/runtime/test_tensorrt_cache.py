"""Engines on disk: found only by all that they depend on, and only whole."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_tensorrt import recipe_of, write_model
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import DeviceError
from edgekit.runtime.tensorrt.cache import EngineCache, EngineFile
from edgekit.runtime.tensorrt.facts import EngineFacts, board_release, engine_key
from edgekit.spec.engine import EngineRecipe, ShapeRange

FACTS = EngineFacts(
    module="tensorrt", library="TensorRT 10.3.0", capability="8.7", driver="12.6",
    release="# R36 (release), REVISION: 4.0", machine="aarch64",
)  # fmt: skip
RECIPE = EngineRecipe(
    shard="shards/shard-0.onnx", shard_sha256="a" * 64, precision="fp16", workspace_bytes=1 << 20,
    shapes=(ShapeRange(name="x", least=(1, 3), usual=(1, 3), most=(1, 3)),), golden="golden/0.npz",
)  # fmt: skip
KEY = engine_key(RECIPE, FACTS)


def add(
    cache: EngineCache, key: str = KEY, shard: str = "a" * 64, data: bytes = b"e"
) -> EngineFile:
    return cache.add(key, data, shard_sha256=shard, facts=FACTS, build_s=1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"library": "TensorRT 10.7.0"}, {"module": "tensorrt_rtx"}, {"capability": "8.6"},
        {"driver": "12.8"}, {"release": "# R36 (release), REVISION: 5.0"}, {"machine": "x86_64"},
    ],
)  # fmt: skip
def test_another_tensorrt_gpu_driver_or_l4t_is_another_engine(change: dict[str, str]) -> None:
    """A stale engine crashes or, worse, does not."""
    assert engine_key(RECIPE, msgspec.structs.replace(FACTS, **change)) != KEY


@pytest.mark.parametrize(
    ("change", "is_other"),
    [
        ({"shard_sha256": "b" * 64}, True), ({"precision": "int8"}, True), ({"tf32": True}, True),
        ({"workspace_bytes": 1 << 21}, True), ({"optimization_level": 5}, True),
        ({"dla_core": 0}, True), ({"shapes": ()}, True),
        ({"timeout_s": 5.0}, False), ({"golden": "other.npz"}, False), ({"shard": "x"}, False),
    ],
)  # fmt: skip
def test_the_key_depends_on_what_decides_the_engine_and_on_nothing_else(
    change: dict[str, Any], is_other: bool
) -> None:
    """A longer time limit must not cost a build."""
    assert (engine_key(msgspec.structs.replace(RECIPE, **change), FACTS) != KEY) == is_other


def test_what_was_added_is_found_by_the_next_process(tmp_path: Path) -> None:
    made = add(EngineCache(tmp_path), data=b"engine")
    found = EngineCache(tmp_path).find(KEY)
    assert found is not None and found.was_cached and not made.was_cached
    assert (found.sha256, found.facts) == (made.sha256, FACTS)
    assert Path(found.path).read_bytes() == b"engine"
    assert EngineCache(tmp_path).find("0" * 64) is None


@given(at=st.integers(0, 999), bit=st.integers(0, 7))
def test_an_engine_that_lost_a_bit_is_removed_and_not_found(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("engines")
    cache, data = EngineCache(folder), bytearray(range(250)) * 4
    path = Path(add(cache, data=bytes(data)).path)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    assert cache.find(KEY) is None
    assert not path.exists()
    assert cache.find(add(cache).key) is not None


@pytest.mark.parametrize("lost", [".json", ".engine"])
def test_half_an_entry_is_no_engine(tmp_path: Path, lost: str) -> None:
    """The power went between the two, or somebody cleaned up."""
    cache = EngineCache(tmp_path)
    add(cache)
    (tmp_path / f"{KEY}{lost}").unlink()
    assert EngineCache(tmp_path).find(KEY) is None


@pytest.mark.parametrize("text", ["", "{", "null", '{"key": 1}'])
def test_an_entry_that_cannot_be_read_is_no_engine(tmp_path: Path, text: str) -> None:
    cache = EngineCache(tmp_path)
    add(cache)
    (tmp_path / f"{KEY}.json").write_text(text)
    assert cache.find(KEY) is None
    cache.prune(keep_shards={"a" * 64})
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_swept_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    """Process 1 lives as long as the machine."""
    (tmp_path / ".4194304999-x.part").write_bytes(b"half")
    (tmp_path / ".1-x.part").write_bytes(b"half")
    EngineCache(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".1-x.part"]


def test_a_refused_engine_is_not_built_again_and_says_why(tmp_path: Path) -> None:
    """Each restart would cost minutes and end the same."""
    cache = EngineCache(tmp_path)
    add(cache)
    cache.refuse(KEY, "output 'y' is off by 0.3")
    assert not (tmp_path / f"{KEY}.engine").exists()
    with pytest.raises(DeviceError, match=r"refused on this board: output 'y' is off by 0\.3"):
        EngineCache(tmp_path).find(KEY)
    cache.refuse("0" * 64, "never was")


def test_only_engines_of_the_shards_in_use_are_kept(tmp_path: Path) -> None:
    """Cards are small, engines are not."""
    cache = EngineCache(tmp_path)
    for key, shard in (("1" * 64, "a" * 64), ("2" * 64, "a" * 64), ("3" * 64, "b" * 64)):
        add(cache, key, shard)
    cache.keep_timing_cache(FACTS, b"times")
    cache.prune(keep_shards={"a" * 64})
    assert cache.entry("3" * 64) is None
    newest = cache.find("2" * 64)
    assert newest is not None
    cache.remove_older(newest)
    assert cache.entry("1" * 64) is None and cache.find("2" * 64) is not None
    assert cache.timing_cache(FACTS) == b"times"
    assert cache.timing_cache(msgspec.structs.replace(FACTS, capability="8.6")) == b""


def test_a_folder_that_cannot_be_is_an_error_of_the_device(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cannot create the folder of engines"):
        EngineCache(tmp_path / "file" / "engines")


def test_the_board_s_release_is_what_its_files_say(tmp_path: Path) -> None:
    """L4T and the kernel module, where there are some."""
    assert board_release(tmp_path) == ""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.0\nmore\n")
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA  560.35\nGCC\n")
    release = "NVRM version: NVIDIA 560.35; # R36 (release), REVISION: 4.0"
    assert board_release(tmp_path) == release


def test_a_recipe_of_the_fakes_is_one(tmp_path: Path) -> None:
    """So that tests with fakes test what bundles carry."""
    recipe = recipe_of(write_model(tmp_path / "m.onnx"))
    assert recipe.is_static and len(engine_key(recipe, FACTS)) == 64
