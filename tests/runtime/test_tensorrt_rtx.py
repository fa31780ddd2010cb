"""Real engines: TensorRT-RTX builds them without a GPU. To run them one needs one."""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest

from edgekit.errors import DeviceError, ModelError
from edgekit.runtime.tensorrt import (
    EngineJob,
    EngineReport,
    build_engine,
    find_library,
    obtain_engine,
    refusals_of,
)
from edgekit.runtime.tensorrt.probe import static_recipe
from edgekit.spec.engine import ShapeRange
from tests.world import data

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None,
        reason="needs tensorrt-rtx: pip install 'edgekit[tensorrt-rtx]'",
    ),
]
QUICK = "models/ultraface/version-slim-320.onnx"
SLOW = "models/onnx_light_structures/light_densenet121.onnx"
"""Its build takes ten seconds and more."""


def job_of(path: Path, folder: Path, *, timeout_s: float = 120.0) -> EngineJob:
    return EngineJob(
        onnx=str(path), recipe=static_recipe(path, timeout_s=timeout_s), folder=str(folder),
        target="8.9", rehearse=False, libraries=("tensorrt_rtx",),
    )  # fmt: skip


def files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir() if not path.name.startswith("timing"))


def when_building(act: Callable[[], None]) -> Callable[[EngineReport], None]:
    """Do it once, when the build has come some way."""
    done: list[bool] = []

    def hear(report: EngineReport) -> None:
        if report.step == "building" and (report.share or 0.0) > 0.1 and not done:
            done.append(True)
            act()

    return hear


def is_builder(process: psutil.Process) -> bool:
    """And not something that has ended."""
    try:
        return "edgekit.runtime.tensorrt.child" in process.cmdline()
    except psutil.Error:
        return False


def kill_builder() -> None:
    """kill -9, as the kernel does when memory is out."""
    (builder,) = filter(is_builder, psutil.Process().children())
    builder.kill()


def test_a_real_engine_is_built_with_progress_and_found_the_next_time(tmp_path: Path) -> None:
    reports: list[EngineReport] = []
    job = job_of(data(QUICK), tmp_path)
    file = obtain_engine(job, on_report=reports.append)
    assert not file.was_cached and file.build_s > 0
    content = Path(file.path).read_bytes()
    assert hashlib.sha256(content).hexdigest() == file.sha256
    assert len(content) > 1_000_000
    shares = [report.share for report in reports if report.share is not None]
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) > 10
    again = obtain_engine(job)
    assert again.was_cached and again.sha256 == file.sha256
    assert files(tmp_path) == [".engine", ".json"]


def test_a_build_that_is_killed_leaves_nothing_that_is_ever_loaded(tmp_path: Path) -> None:
    """Out of memory on a small board; the next try begins anew."""
    job = job_of(data(SLOW), tmp_path)
    with pytest.raises(DeviceError, match="ended by SIGKILL"):
        obtain_engine(job, on_report=when_building(kill_builder))
    assert files(tmp_path) == []
    quick = obtain_engine(job_of(data(QUICK), tmp_path))
    assert not quick.was_cached


def test_a_real_build_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    """In the middle of TensorRT's own code."""
    heard: list[EngineReport] = []
    with pytest.raises(DeviceError, match=r"not built within 3 s"):
        obtain_engine(job_of(data(SLOW), tmp_path, timeout_s=3.0), on_report=heard.append)
    assert heard[-1].step == "building"
    assert files(tmp_path) == []


def test_a_damaged_real_engine_is_built_again(tmp_path: Path) -> None:
    """A card that lost a bit."""
    job = job_of(data(QUICK), tmp_path)
    file = obtain_engine(job)
    damaged = bytearray(Path(file.path).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    Path(file.path).write_bytes(damaged)
    again = obtain_engine(job)
    assert not again.was_cached
    assert hashlib.sha256(Path(again.path).read_bytes()).hexdigest() == again.sha256


def test_each_target_has_an_engine_of_its_own(tmp_path: Path) -> None:
    path, library = data(QUICK), find_library(("tensorrt_rtx",))
    assert {"8.6", "8.9", "12.0"} <= set(library.targets())
    made = {build_engine(library, path, static_recipe(path), target=t).engine
            for t in ("8.6", "12.0")}  # fmt: skip
    assert len(made) == 2


def test_a_real_model_with_a_free_batch_is_built_for_the_shapes_of_its_recipe() -> None:
    path, library = (
        data("models/resnet_cifar10/resnet20_cifar10.onnx"),
        find_library(("tensorrt_rtx",)),
    )
    recipe, shape = static_recipe(path), (3, 32, 32)
    with pytest.raises(DeviceError, match=r"'input' has free dimensions, \(-1, 3, 32, 32\)"):
        build_engine(library, path, recipe, target="8.9")
    batches = ShapeRange(name="input", least=(1, *shape), usual=(4, *shape), most=(8, *shape))
    recipe = msgspec.structs.replace(recipe, shapes=(batches,))
    assert build_engine(library, path, recipe, target="8.9").engine


def test_a_real_refusal_names_the_operator_and_its_node(tmp_path: Path) -> None:
    """A public int8 model with asymmetric zero points, which TensorRT does not compute."""
    path, library = (
        data("models/mobilenet_v2_int8/mobilenet_v2_quant.onnx"),
        find_library(("tensorrt_rtx",)),
    )
    (refusal,) = refusals_of(library, path)
    assert (refusal.operator, refusal.node) == ("QuantizeLinear", "input_QuantizeLinear")
    with pytest.raises(ModelError, match=r"QuantizeLinear 'input_QuantizeLinear': .*zero point"):
        build_engine(library, path, static_recipe(path), target="8.9")
    with pytest.raises(DeviceError, match="QuantizeLinear 'input_QuantizeLinear'"):
        obtain_engine(job_of(path, tmp_path))


def test_a_file_that_is_no_onnx_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x07\x12\x05hello" * 50)
    with pytest.raises(DeviceError, match=r"refuses m\.onnx: the file: no model is in it"):
        obtain_engine(job_of(path, tmp_path / "engines"))


def test_without_a_gpu_a_build_for_this_board_says_so(tmp_path: Path) -> None:
    """No target given: the GPU that is here. Where there is one, this builds."""
    path = data(QUICK)
    job = EngineJob(onnx=str(path), recipe=static_recipe(path), folder=str(tmp_path))
    try:
        assert not obtain_engine(job).was_cached
    except DeviceError as error:
        assert "no GPU can be used here" in error.what
