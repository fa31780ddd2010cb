"""One code path over TensorRT 8.5 to 11 and RTX: by what the interface has, and never a crash."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_tensorrt import GENERATIONS, FakeTensorRt, recipe_of, write_model

from edgekit.errors import DeviceError, ModelError
from edgekit.runtime.tensorrt import Library, build_engine, find_library, refusals_of
from edgekit.runtime.tensorrt.progress import PhaseTree
from edgekit.spec.engine import ShapeRange


def library(version: str, **more: Any) -> Library:
    module = FakeTensorRt(version)
    for name, value in more.items():
        setattr(module, name, value)
    return Library(module, "tensorrt_rtx" if version == "rtx" else "tensorrt")


def strongly_typed(found: Library) -> int:
    return 1 << int(found.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt"), "not installed"),
        (ImportError("libnvdla_compiler.so: cannot open shared object file"), "libnvdla_compiler"),
        (OSError("libcudart.so.12: cannot open shared object file"), "broken, OSError: libcudart"),
        (ModuleNotFoundError("No module named 'tensorrt_libs'", name="tensorrt_libs"), "broken"),
        (AttributeError("module has no attribute 'int'"), "broken, AttributeError"),
        (RuntimeError(""), "without a word"),
    ],
)
def test_a_missing_or_broken_tensorrt_is_a_reason_in_words(error: Exception, words: str) -> None:
    """Whatever a loader raises, the agent goes on."""

    def load(name: str) -> Any:
        raise error

    with pytest.raises(DeviceError, match=words):
        find_library(("tensorrt",), load=load)


def test_the_next_one_is_taken_where_the_first_is_broken() -> None:
    """A desktop may have both."""

    def load(name: str) -> Any:
        if name == "tensorrt":
            raise OSError("libnvinfer.so.10: undefined symbol")
        return FakeTensorRt("rtx")

    assert find_library(load=load).label == "TensorRT-RTX 1.7.1"


@pytest.mark.parametrize("lacks", ["a part", "execute_async_v3"])
def test_a_module_that_is_not_whole_or_too_old_is_not_taken(lacks: str) -> None:
    """An empty stub package; JetPack 4's TensorRT 8.2."""
    module = FakeTensorRt("8.5.2")
    module.IExecutionContext = SimpleNamespace()
    found = SimpleNamespace() if lacks == "a part" else module
    words = "not whole" if lacks == "a part" else "8.5.2 is older than 8.5"
    with pytest.raises(DeviceError, match=words):
        find_library(("tensorrt",), load=lambda name: found)


def test_importing_edgekit_s_runner_imports_no_tensorrt_and_no_cuda() -> None:
    """A board without them runs the same agent."""
    code = (
        "import sys, edgekit.runtime.tensorrt, edgekit.agent.agent\n"
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('tensorrt', 'tensorrt_rtx', 'cuda', 'pycuda', 'torch')])"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.strip() == "[]"


@pytest.mark.parametrize("version", GENERATIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_version_builds_with_the_flags_it_has(
    tmp_path: Path, version: str, precision: str
) -> None:
    """Strong types where there are some, else the flags of the precision; neither is both."""
    found, path = library(version), write_model(tmp_path / "m.onnx")
    shares: list[float] = []
    built = build_engine(
        found, path, recipe_of(path, precision=precision), timing_cache=b"old",
        on_progress=lambda text, share: shares.append(share),
    )  # fmt: skip
    config, flags = found.module.last_config, set[str]()
    if version.startswith("8"):
        flags = {"fp32": set[str](), "fp16": {"FP16"}, "int8": {"INT8"}}[precision]
    assert config.flags == flags  # and no TF32, which the recipe does not allow
    assert config.pools == {"WORKSPACE": 1 << 20}
    assert (built.timing_cache, config.timing) == (b"old+", b"old")
    assert bool(shares) == found.has_progress
    assert shares == sorted(shares) and (not shares or shares[-1] == 1.0)
    if found.has_strong_types:
        assert f'"flags": {found.network_flags(strong=True)}'.encode() in built.engine
        assert found.network_flags(strong=True) & strongly_typed(found)


def test_a_timing_cache_that_does_not_fit_is_begun_anew(tmp_path: Path) -> None:
    """Damaged, or of another GPU."""
    path = write_model(tmp_path / "m.onnx")
    built = build_engine(library("10.3.0"), path, recipe_of(path), timing_cache=b"bad")
    assert built.timing_cache == b"+"


@pytest.mark.parametrize(("cores", "flags"), [(2, {"FP16", "GPU_FALLBACK"}), (0, {"FP16"})])
def test_a_dla_is_used_where_the_board_has_it_and_the_gpu_elsewhere(
    tmp_path: Path, cores: int, flags: set[str]
) -> None:
    found, path = library("10.3.0", dla_count=cores), write_model(tmp_path / "m.onnx")
    build_engine(found, path, recipe_of(path, precision="fp16", dla_core=1))
    config = found.module.last_config
    assert config.flags == flags
    assert getattr(config, "DLA_core", -1) == (1 if cores else -1)


def test_free_dimensions_get_the_shapes_of_the_recipe(tmp_path: Path) -> None:
    found = library("11.4.0")
    path = write_model(tmp_path / "m.onnx", inputs=[["images", "float32", [-1, 3]]])
    shapes = (ShapeRange(name="images", least=(1, 3), usual=(4, 3), most=(8, 3)),)
    build_engine(found, path, recipe_of(path, shapes=shapes))
    assert found.module.last_config.profiles[0].shapes == {"images": ((1, 3), (4, 3), (8, 3))}
    with pytest.raises(DeviceError, match="'images' has free dimensions"):
        build_engine(found, path, recipe_of(path, shapes=()))


def test_a_refused_operator_is_named_with_its_node(tmp_path: Path) -> None:
    refused = [["NonZero", "/head/NonZero", "unsupported"], ["", "", "file"]]
    found, path = library("8.6.1"), write_model(tmp_path / "m.onnx", refused=refused)
    assert [one.operator for one in refusals_of(found, path)] == ["NonZero", ""]
    with pytest.raises(ModelError, match=r"8\.6\.1 refuses m\.onnx: NonZero '/head/NonZero'"):
        build_engine(found, path, recipe_of(path))


def test_a_build_that_fails_gives_the_words_of_tensorrt(tmp_path: Path) -> None:
    """Its return value is None and nothing else."""
    found, path = library("11.4.0"), write_model(tmp_path / "m.onnx", fails="Out of memory")
    with pytest.raises(DeviceError, match="built no engine: Out of memory"):
        build_engine(found, path, recipe_of(path))


def test_only_rtx_builds_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    found, path = library("10.3.0"), write_model(tmp_path / "m.onnx")
    with pytest.raises(DeviceError, match=r"cannot build for compute capability 8\.7"):
        build_engine(found, path, recipe_of(path), target="8.7")


def test_the_share_of_phases_within_phases_never_falls() -> None:
    """TensorRT tells no total; the same phase may come back."""
    told: list[float] = []
    tree = PhaseTree(lambda text, share: told.append(share))
    tree.start("all", None, 4)
    for outer in range(4):
        tree.start("part", "all", 10)
        tree.start("part", "part", 2)  # a phase that names itself as its parent
        tree.finish("part")
        tree.start("part", "all", 10)
        for inner in range(10):
            tree.step("part", inner)
        tree.finish("part")
        tree.step("all", outer)
    tree.step("unknown", 3)
    tree.finish("all")
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)
