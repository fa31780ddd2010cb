"""An engine as a session: tensors by name and type, pinned copies, a graph, errors in words."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import FakeTensorRt, recipe_of, write_model

from edgekit.errors import DeviceError
from edgekit.runtime.tensorrt import Library, TensorRtSession, build_engine
from edgekit.runtime.tensorrt.cuda_fake import FakeCuda
from edgekit.spec.engine import EngineRecipe, ShapeRange

X = np.array([[1, 2, 3]], np.float32)


def session_of(
    folder: Path, cuda: FakeCuda, version: str = "10.3.0", recipe: Any = recipe_of, **model: Any
) -> TensorRtSession:
    path = write_model(folder / "m.onnx", **model)
    library = Library(FakeTensorRt(version, cuda), "tensorrt")
    made: EngineRecipe = recipe(path)
    return TensorRtSession(library, build_engine(library, path, made).engine, cuda=cuda)


@pytest.mark.parametrize("version", ["8.5.2", "10.3.0", "11.4.0", "rtx"])
def test_plain_runs_then_one_graph_give_the_same(tmp_path: Path, version: str) -> None:
    """Two runs to warm up, then one launch a frame; the inputs are those of each frame."""
    cuda = FakeCuda()
    session = session_of(tmp_path, cuda, version)
    for times in range(5):
        assert session.uses_graph == (times >= 2)
        got = session.run({"images": X * times})
        assert got["out"].tolist() == (X * times * 2).tolist()
    assert cuda.launched_count == 3
    assert session.jit() == (b"jit" if version == "rtx" else b"")
    session.close()
    session.close()
    assert cuda.is_closed
    with pytest.raises(DeviceError, match="was closed"):
        session.run({"images": X})


def test_answers_are_not_the_pinned_memory_of_the_next_frame(tmp_path: Path) -> None:
    session = session_of(tmp_path, FakeCuda())
    first = session.run({"images": X})["out"]
    session.run({"images": X * 9})
    assert first.tolist() == [[2, 4, 6]]


def test_where_a_graph_cannot_be_recorded_the_engine_runs_without(tmp_path: Path) -> None:
    cuda = FakeCuda()
    cuda.capture_problem = "operation not permitted when stream is capturing"
    session = session_of(tmp_path, cuda)
    for _ in range(4):
        assert session.run({"images": X})["out"].tolist() == [[2, 4, 6]]
    assert (session.uses_graph, cuda.launched_count) == (False, 0)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16"])
def test_tensors_have_the_types_that_the_engine_says(tmp_path: Path, dtype: str) -> None:
    """Frames as uint8, activations as int8 or half."""
    tensors = {"inputs": [["images", dtype, [1, 3]]], "outputs": [["out", dtype, [1, 3]]]}
    session = session_of(tmp_path, FakeCuda(), **tensors)
    assert [spec.dtype for spec in session.inputs + session.outputs] == [dtype, dtype]
    got = session.run({"images": X.astype(dtype)})["out"]
    assert (got.dtype.name, got.tolist()) == (dtype, [[2, 4, 6]])


@pytest.mark.parametrize(
    "inputs",
    [{}, {"images": X.astype(np.float64)}, {"images": X[:, :2]}, {"images": X[0]}],
)
def test_inputs_that_do_not_fit_are_named(tmp_path: Path, inputs: dict[str, Any]) -> None:
    """They would be copied over whatever lies behind."""
    session = session_of(tmp_path, FakeCuda())
    with pytest.raises(DeviceError, match=r"was given .* for images float32\[1x3\]"):
        session.run(inputs)
    assert session.run({"images": X})["out"].tolist() == [[2, 4, 6]]


def free_batch(path: Path) -> EngineRecipe:
    shapes = (ShapeRange(name="images", least=(1, 3), usual=(2, 3), most=(4, 3)),)
    return recipe_of(path, shapes=shapes)


def test_a_free_dimension_takes_every_size_up_to_the_largest(tmp_path: Path) -> None:
    """Without a graph, which would keep the first size."""
    tensors = {"inputs": [["images", "float32", [-1, 3]]], "outputs": [["out", "float32", [-1, 3]]]}
    session = session_of(tmp_path, FakeCuda(), recipe=free_batch, **tensors)
    assert session.inputs[0].shape == (0, 3)
    for count in (1, 4, 2, 3):
        batch = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
        assert session.run({"images": batch})["out"].tolist() == (batch * 2).tolist()
    assert not session.uses_graph
    with pytest.raises(DeviceError, match="was given"):
        session.run({"images": np.zeros((5, 3), np.float32)})


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"outputs": [["out", "bf16", [1, 3]]]}, "BF16, which numpy lacks"),
        ({"outputs": [["out", "float32", [-1]]]}, "depends on the data"),
    ],
)
def test_an_engine_that_no_plan_can_serve_is_refused(
    tmp_path: Path, model: dict[str, Any], words: str
) -> None:
    with pytest.raises(DeviceError, match=words):
        session_of(tmp_path, FakeCuda(), **model)


def test_an_engine_of_another_version_gives_tensorrt_s_words(tmp_path: Path) -> None:
    library = Library(FakeTensorRt("10.3.0"), "tensorrt")
    with pytest.raises(DeviceError, match=r"10\.3\.0: the engine cannot be loaded: magic tag"):
        TensorRtSession(library, b"\x00old", cuda=FakeCuda())


def test_failures_while_running_are_errors_of_the_device(tmp_path: Path) -> None:
    """Of TensorRT, and of the GPU."""
    broken = session_of(tmp_path, FakeCuda(), breaks="cuTensor internal error")
    with pytest.raises(DeviceError, match="the engine fails: cuTensor internal error"):
        broken.run({"images": X})
    cuda = FakeCuda()
    session = session_of(tmp_path, cuda)
    cuda.problem = "an illegal memory access was encountered"
    with pytest.raises(DeviceError, match="illegal memory access"):
        session.run({"images": X})


def test_frames_from_many_threads_do_not_mix(tmp_path: Path) -> None:
    """One pinned buffer for all."""
    session, wrong = session_of(tmp_path, FakeCuda()), []

    def work(value: int) -> None:
        for _ in range(50):
            got = session.run({"images": np.full((1, 3), value, np.float32)})["out"]
            if got.tolist() != [[2 * value] * 3]:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
