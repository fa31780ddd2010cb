"""What profiler and doctor ask: a name, a reason, a session of one file; with a fake TensorRT."""

import sys
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import FakeTensorRt, write_model

from edgekit.errors import DeviceError
from edgekit.runtime.tensorrt import probe
from edgekit.runtime.tensorrt.cuda_fake import FakeCuda
from edgekit.runtime.tensorrt.probe import missing_reason, native_name, open_session, static_recipe

X = {"images": np.array([[1, 2, 3]], np.float32)}


@pytest.fixture
def cudas(monkeypatch: pytest.MonkeyPatch) -> list[FakeCuda]:
    """Every way to the GPU that was opened."""
    module, opened = FakeTensorRt("10.3.0"), list[FakeCuda]()
    monkeypatch.setitem(sys.modules, "tensorrt", module)

    def open_cuda() -> FakeCuda:
        opened.append(FakeCuda())
        module.cuda = opened[-1]
        return opened[-1]

    monkeypatch.setattr(probe, "open_cuda", open_cuda)
    return opened


def test_a_file_is_built_once_and_then_found(cudas: list[FakeCuda], tmp_path: Path) -> None:
    """Hundreds of kernels are measured; a second look costs no build."""
    path, cache = write_model(tmp_path / "m.onnx"), tmp_path / "engines"
    for _ in range(2):
        session = open_session(path, cache=cache)
        assert session.run(X)["out"].tolist() == [[2, 4, 6]]
        session.close()
    assert sys.modules["tensorrt"].built_count == 1  # type: ignore[attr-defined]
    assert [cuda.is_closed for cuda in cudas] == [True, True]
    open_session(path).close()
    assert sys.modules["tensorrt"].built_count == 2  # type: ignore[attr-defined]


def test_without_a_graph_means_without(cudas: list[FakeCuda], tmp_path: Path) -> None:
    session = open_session(write_model(tmp_path / "m.onnx"), use_graph=False)
    for _ in range(4):
        session.run(X)
    assert not session.uses_graph


def test_a_build_that_fails_gives_the_gpu_back(cudas: list[FakeCuda], tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", fails="no implementation for node x")
    with pytest.raises(DeviceError, match="no implementation"):
        open_session(path)
    assert cudas[0].is_closed


def test_the_name_and_the_reason_are_empty_or_words(
    cudas: list[FakeCuda], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (native_name(), missing_reason()) == ("TensorRT 10.3.0", "")
    assert cudas[0].is_closed

    def no_gpu() -> FakeCuda:
        raise DeviceError("no GPU can be used here (there is no libcuda.so.1)", hint="x")

    monkeypatch.setattr(probe, "open_cuda", no_gpu)
    assert "there is no libcuda" in missing_reason()
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    assert native_name() == ""
    assert "no TensorRT can be used here" in missing_reason()


def test_a_recipe_outside_of_bundles_has_no_golden_vectors(tmp_path: Path) -> None:
    """So that no agent would ever serve from it."""
    recipe = static_recipe(write_model(tmp_path / "m.onnx"), precision="fp16", tf32=True)
    assert (recipe.golden, recipe.precision, recipe.tf32) == ("", "fp16", True)
    assert recipe.is_static
