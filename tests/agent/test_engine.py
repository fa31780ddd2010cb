"""An engine on its way to a shard: it serves when it is right, else there is a reason in words."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from engine_world import (
    FRAME,
    KEY,
    LIBRARY,
    OUTPUT,
    FakeBoard,
    FakeEngine,
    compute,
)

from edgekit.errors import DeviceError
from edgekit.runtime.tensorrt import EngineCache
from edgekit.spec.tensors import Array, TensorSpec


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBoard:
    return FakeBoard(tmp_path, monkeypatch)


def test_onnx_runtime_serves_while_the_engine_is_built_and_the_engine_afterwards(
    board: FakeBoard,
) -> None:
    """Nobody waits for minutes."""
    session, engine = board.started()
    said = session.telemetry()
    assert said is not None
    assert (said.state, said.share, said.text) == ("building", 0.4, "Timing tactics")
    assert session.runs_on == "onnxruntime cpu"
    assert session.ladder.run(FRAME)["output0"].shape == OUTPUT.shape
    assert session.problems() == ()
    board.builder.ready.set()
    assert engine.wait(10.0)
    said = session.telemetry()
    assert said is not None and (said.state, said.text) == ("serving", LIBRARY)
    assert (session.runs_on, session.problems()) == (LIBRARY, ())
    assert len(board.news) >= 3
    (job,) = board.builder.jobs
    assert Path(job.onnx).read_bytes() == b"shard"
    assert Path(job.folder) == board.store.engines_folder
    session.close()
    assert board.engine.is_closed
    assert session.ladder.run(FRAME)["output0"].shape == OUTPUT.shape


def test_the_time_it_takes_is_told_while_it_takes_it(board: FakeBoard) -> None:
    """Where TensorRT tells no share, minutes are all there is to say."""
    session, _ = board.started()
    first = session.telemetry()
    time.sleep(0.15)
    second = session.telemetry()
    assert first is not None and second is not None
    assert second.elapsed_s > first.elapsed_s
    session.close()


def test_an_engine_whose_outputs_are_wrong_never_serves_and_is_not_built_again(
    board: FakeBoard,
) -> None:
    """One percent off is wrong in fp32."""
    board.engine = FakeEngine(factor=1.01)
    session, engine = board.started()
    board.builder.ready.set()
    assert engine.wait(10.0)
    said = session.telemetry()
    assert said is not None and said.state == "failed"
    assert "output 'output0' is off by" in said.problem
    (problem,) = session.problems()
    assert problem.endswith("; onnxruntime cpu runs the shard")
    assert (session.runs_on, board.engine.is_closed) == ("onnxruntime cpu", True)
    with pytest.raises(DeviceError, match="refused on this board"):
        EngineCache(board.store.engines_folder).find(KEY)


@pytest.mark.parametrize(
    ("allowed", "state"), [({"tf32": True}, "serving"), ({"tf32": False}, "failed")]
)
def test_rounding_to_tf32_passes_where_the_recipe_allows_it(
    board: FakeBoard, allowed: dict[str, bool], state: str
) -> None:
    """11 bits: some thousandths off, as in half precision."""
    board.engine = FakeEngine(factor=1.004)
    session, engine = board.started(**allowed)
    board.builder.ready.set()
    assert engine.wait(10.0)
    said = session.telemetry()
    assert said is not None and said.state == state
    session.close()


@pytest.mark.parametrize(
    "error",
    [
        DeviceError("no TensorRT can be used here (tensorrt: not installed)", hint="x"),
        DeviceError("the engine was not built within 900 s", hint="x"),
        RuntimeError("something that nobody thought of"),
        OSError(28, "No space left on device"),
    ],
)
def test_whatever_goes_wrong_is_told_and_onnx_runtime_serves_on(
    board: FakeBoard, error: Exception
) -> None:
    board.builder.error = error
    session, engine = board.started()
    board.builder.ready.set()
    assert engine.wait(10.0)
    (problem,) = session.problems()
    assert problem.startswith("no TensorRT engine: ")
    assert str(getattr(error, "what", error)) in problem
    assert session.ladder.run(FRAME)["output0"].shape == OUTPUT.shape


def test_an_engine_that_gives_other_tensors_never_serves(board: FakeBoard) -> None:
    """int8 where the next device expects float32."""
    board.engine = FakeEngine(output=TensorSpec(name="other", dtype="float32", shape=OUTPUT.shape))
    session, engine = board.started()
    board.builder.ready.set()
    assert engine.wait(10.0)
    assert session.runs_on == "onnxruntime cpu"
    assert board.engine.is_closed and len(session.problems()) == 1


def test_an_engine_that_fails_while_serving_is_replaced_within_the_frame(board: FakeBoard) -> None:
    """A GPU that fell off the bus."""
    session, engine = board.started()
    board.builder.ready.set()
    assert engine.wait(10.0)
    board.engine.problem = "an illegal memory access was encountered"
    want = compute(FRAME)["output0"]
    assert np.array_equal(session.ladder.run(FRAME)["output0"], want)
    assert board.engine.is_closed
    (problem,) = session.problems()
    assert "illegal memory access" in problem and problem.count("illegal") == 1
    assert session.runs_on == "onnxruntime cpu"


def test_an_engine_that_comes_when_its_shard_was_just_stopped_is_taken_down(
    board: FakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory would stay taken as long as the agent lives."""
    session, engine = board.started()
    monkeypatch.setattr("edgekit.agent.engine._CLOSE_LIMIT_S", 0.0)
    proving, go_on = threading.Event(), threading.Event()
    run = board.engine.run

    def slow(inputs: dict[str, Array]) -> dict[str, Array]:
        proving.set()
        go_on.wait(10.0)
        return run(inputs)

    monkeypatch.setattr(board.engine, "run", slow)
    board.builder.ready.set()
    assert proving.wait(10.0)
    session.close()
    go_on.set()
    assert engine.wait(10.0)
    assert (board.engine.is_closed, session.runs_on) == (True, "onnxruntime cpu")
    assert engine.telemetry().state != "serving"


def test_a_shard_that_is_not_wanted_any_more_stops_its_build(board: FakeBoard) -> None:
    """Another deployment came, or this one was aborted."""
    session, _ = board.started()
    began_s = time.monotonic()
    session.close()
    assert board.builder.was_stopped.wait(5.0)
    assert time.monotonic() - began_s < 5.0
    assert session.problems() == ()
    session.close()
