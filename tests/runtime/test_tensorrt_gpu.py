"""Engines that run: on a machine with a GPU and a TensorRT, skipped elsewhere with the reason."""

from pathlib import Path

import numpy as np
import pytest

from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import random_inputs
from edgekit.runtime.tensorrt import (
    EngineJob,
    TensorRtSession,
    find_library,
    obtain_engine,
    open_cuda,
)
from edgekit.runtime.tensorrt.probe import missing_reason, open_session, static_recipe
from tests.world import data

pytestmark = pytest.mark.integration
MODELS = (
    "models/yolox_nano/yolox_nano_416x416.onnx",
    "models/nanodet_m/nanodet_m_320.onnx",
    "models/fastestdet/FastestDet.onnx",
    "models/ultraface/version-RFB-320.onnx",
    "models/yunet/yunet_n_320_320.onnx",
)


@pytest.fixture(autouse=True, scope="module")
def gpu() -> None:
    """Here, or a skip. Not at import: that would load TensorRT whenever tests are collected."""
    if reason := missing_reason():
        pytest.skip(f"needs a GPU and TensorRT: {reason}")


@pytest.mark.parametrize("name", MODELS)
def test_an_engine_gives_what_onnx_runtime_gives(name: str, tmp_path: Path) -> None:
    """Through the child, the cache, pinned memory and the CUDA graph."""
    path = data(name)
    job = EngineJob(onnx=str(path), recipe=static_recipe(path), folder=str(tmp_path))
    session, reference = TensorRtSession.open(obtain_engine(job)), OrtSession(path)
    assert {spec.name for spec in session.inputs} == {spec.name for spec in reference.inputs}
    for seed in range(4):
        inputs = random_inputs(reference.inputs, seed=seed)
        got, want = session.run(inputs), reference.run(inputs)
        for output, expected in want.items():
            worst = float(np.abs(got[output] - expected).max())
            assert worst <= 1e-3 * float(np.abs(expected).max()), (output, seed, worst)
    assert session.uses_graph
    session.close()
    assert obtain_engine(job).was_cached


def test_without_a_graph_the_numbers_are_the_same(tmp_path: Path) -> None:
    path = data(MODELS[3])
    with_graph, cuda = open_session(path, cache=tmp_path), open_cuda()
    (engine,) = tmp_path.glob("*.engine")
    content = engine.read_bytes()
    plain = TensorRtSession(find_library(), content, cuda=cuda, use_graph=False)
    for seed in range(4):
        inputs = random_inputs(plain.inputs, seed=seed)
        one, other = with_graph.run(inputs), plain.run(inputs)
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert with_graph.uses_graph and not plain.uses_graph
    plain.close()
    with_graph.close()
