"""The whole way of an engine, all real but TensorRT and the GPU: build, cache, prove, swap."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engine_world import IMAGE, OUTPUT, bundle_at

from edgekit.agent.prepare import files_for, prepare
from edgekit.agent.shard_session import ShardSession
from edgekit.agent.store import Store
from edgekit.runtime.echo import EchoSession
from edgekit.runtime.tensorrt import EngineFile, EngineJob, EngineReport, TensorRtSession
from edgekit.runtime.tensorrt.child import obtain
from edgekit.runtime.tensorrt.cuda_fake import FakeCuda
from edgekit.spec.agent_config import RuntimeConfig
from edgekit.spec.messages import Announcement
from edgekit.spec.tensors import Array
from tests.runtime.fake_tensorrt import FakeTensorRt, write_model

FRAME = {"images": np.full(IMAGE.shape, 0.25, np.float32)}


def zeros(inputs: dict[str, Array]) -> dict[str, Array]:
    """What a shard with the factor 0 computes."""
    return {"output0": np.zeros(OUTPUT.shape, np.float32)}


class Board:
    """TensorRT 10.3 on a fake GPU; the child's work is done in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.store = Store(folder / "store")
        self.install("10.3.0")
        opened = TensorRtSession.open
        monkeypatch.setattr("edgekit.agent.engine.obtain_engine", self._obtain)
        monkeypatch.setattr(
            "edgekit.agent.engine.TensorRtSession.open",
            lambda file, **more: opened(file, make_cuda=lambda: self.cuda),
        )

    def install(self, version: str) -> None:
        self.cuda = FakeCuda()
        self.module = FakeTensorRt(version, self.cuda)
        self._monkeypatch.setitem(sys.modules, "tensorrt", self.module)

    def _obtain(
        self,
        job: EngineJob,
        *,
        on_report: Callable[[EngineReport], None],
        stopping: threading.Event,
    ) -> EngineFile:
        cuda = FakeCuda()  # that of the child
        self.module.cuda = cuda
        file = obtain(job, on_report, make_cuda=lambda: cuda)
        self.module.cuda = self.cuda
        return file

    def served(self, *, factor: float = 0.0) -> ShardSession:
        """A deployment whose engine came to its end, good or bad."""
        shard = write_model(
            self.folder / "shard.onnx", factor=factor,
            inputs=[["images", "float32", list(IMAGE.shape)]],
            outputs=[["output0", "float32", list(OUTPUT.shape)]],
        )  # fmt: skip
        made = bundle_at(self.folder / "bundle", shard.read_bytes(), answers=zeros)
        announcement = Announcement(manifest=made.manifest, plan=made.plan)
        for entry in files_for(announcement, "a"):
            self.store.blob_path(entry.sha256).write_bytes(made.read(entry.path))
        prepared = prepare(
            announcement, device="a", store=self.store, config=RuntimeConfig(),
            load_session=lambda path, config: EchoSession((IMAGE,), (OUTPUT,), function=zeros),
        )  # fmt: skip
        session = prepared.session
        assert session is not None and session.engine is not None
        prepared.start()
        assert session.engine.wait(20.0)
        return session

    def engines(self) -> list[Path]:
        return sorted(self.store.engines_folder.glob("*.engine"))


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    return Board(tmp_path, monkeypatch)


def test_an_engine_is_built_proved_and_serves_as_a_graph(board: Board) -> None:
    session = board.served()
    assert (session.runs_on, session.problems()) == ("TensorRT 10.3.0", ())
    for _ in range(3):
        assert session.ladder.run(FRAME)["output0"].tolist() == zeros(FRAME)["output0"].tolist()
    assert board.cuda.launched_count >= 3
    session.close()
    assert board.cuda.is_closed


def test_after_a_restart_it_comes_from_the_disk(board: Board) -> None:
    board.served().close()
    board.cuda = board.module.cuda = FakeCuda()
    session = board.served()
    said = session.telemetry()
    assert said is not None and said.was_cached
    assert board.module.built_count == 1
    session.close()


def test_an_update_of_tensorrt_replaces_the_engine_on_the_disk(board: Board) -> None:
    board.served().close()
    (old,) = board.engines()
    board.install("11.4.0")
    session = board.served()
    assert session.runs_on == "TensorRT 11.4.0"
    (new,) = board.engines()
    assert new.name != old.name
    session.close()


def test_an_engine_that_lost_bits_is_built_again(board: Board) -> None:
    board.served().close()
    (path,) = board.engines()
    path.write_bytes(path.read_bytes()[:-1])
    board.cuda = board.module.cuda = FakeCuda()
    session = board.served()
    assert (session.runs_on, board.module.built_count) == ("TensorRT 10.3.0", 2)
    session.close()


def test_an_engine_that_computes_something_else_is_refused_for_good(board: Board) -> None:
    """ONNX Runtime gives the golden outputs, this TensorRT does not."""
    for _ in range(2):
        session = board.served(factor=1.0)
        assert session.runs_on == "onnxruntime cpu"
        board.cuda = board.module.cuda = FakeCuda()
    assert "refused on this board" in session.problems()[0]
    assert (board.module.built_count, board.engines()) == (1, [])


def test_without_graphs_it_serves_all_the_same(board: Board) -> None:
    board.cuda.capture_problem = "operation not permitted when stream is capturing"
    session = board.served()
    assert session.runs_on == "TensorRT 10.3.0"
    assert board.cuda.launched_count == 0
    session.close()
