"""An engine on its way to a shard: it serves when it is right, else there is a reason in words."""

import hashlib
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from engine_world import (
    ENGINE,
    IMAGE,
    KEY,
    LIBRARY,
    OUTPUT,
    FakeBuilder,
    FakeEngine,
    bundle_at,
    compute,
    recipe_for,
)

from edgekit.agent.engine import EngineSupervisor
from edgekit.agent.prepare import Prepared, files_for, prepare
from edgekit.agent.shard_session import ShardSession, load_onnx_session
from edgekit.agent.store import Store
from edgekit.errors import ConfigError, DeviceError, TrustError
from edgekit.runtime.echo import EchoSession
from edgekit.runtime.tensorrt import EngineCache
from edgekit.spec.agent_config import RuntimeConfig
from edgekit.spec.base import to_json
from edgekit.spec.manifest import FileEntry
from edgekit.spec.messages import Announcement
from edgekit.spec.tensors import TensorSpec

FRAME = {"images": np.full(IMAGE.shape, 0.5, np.float32)}


def load(path: Path, config: RuntimeConfig) -> EchoSession:
    return EchoSession((IMAGE,), (OUTPUT,), function=compute)


class Board:
    """A store with a deployment in it, a builder and an engine that do what they are told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.builder, self.engine = folder, FakeBuilder(), FakeEngine()
        self.store = Store(folder / "store")
        monkeypatch.setattr("edgekit.agent.engine.obtain_engine", self._obtain)
        monkeypatch.setattr(
            "edgekit.agent.engine.TensorRtSession.open", lambda file: self.engine, raising=True
        )
        self.news: list[str] = []
        self.load = load

    def _obtain(self, *arguments: object, **more: object) -> object:
        return self.builder(*arguments, **more)  # type: ignore[arg-type]

    def prepare(self, *, config: RuntimeConfig | None = None, **bundle: object) -> Prepared:
        made = bundle_at(self.folder / "bundle", **bundle)  # type: ignore[arg-type]
        announcement = Announcement(manifest=made.manifest, plan=made.plan)
        for entry in files_for(announcement, "a"):
            self.store.blob_path(entry.sha256).write_bytes(made.read(entry.path))
        return prepare(
            announcement, device="a", store=self.store, config=config or RuntimeConfig(),
            load_session=self.load,
            on_change=lambda: self.news.append("changed"),
        )  # fmt: skip

    def started(self, **more: object) -> tuple[ShardSession, EngineSupervisor]:
        prepared = self.prepare(**more)  # type: ignore[arg-type]
        session = prepared.session
        assert session is not None and session.engine is not None
        prepared.start()
        assert self.builder.building.wait(10.0)
        return session, session.engine


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    return Board(tmp_path, monkeypatch)


def test_onnx_runtime_serves_while_the_engine_is_built_and_the_engine_afterwards(
    board: Board,
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


def test_the_time_it_takes_is_told_while_it_takes_it(board: Board) -> None:
    """Where TensorRT tells no share, minutes are all there is to say."""
    session, _ = board.started()
    first = session.telemetry()
    time.sleep(0.15)
    second = session.telemetry()
    assert first is not None and second is not None
    assert second.elapsed_s > first.elapsed_s
    session.close()


def test_an_engine_whose_outputs_are_wrong_never_serves_and_is_not_built_again(
    board: Board,
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
    board: Board, allowed: dict[str, bool], state: str
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
    board: Board, error: Exception
) -> None:
    board.builder.error = error
    session, engine = board.started()
    board.builder.ready.set()
    assert engine.wait(10.0)
    (problem,) = session.problems()
    assert problem.startswith("no TensorRT engine: ")
    assert str(getattr(error, "what", error)) in problem
    assert session.ladder.run(FRAME)["output0"].shape == OUTPUT.shape


def test_an_engine_that_gives_other_tensors_never_serves(board: Board) -> None:
    """int8 where the next device expects float32."""
    board.engine = FakeEngine(output=TensorSpec(name="other", dtype="float32", shape=OUTPUT.shape))
    session, engine = board.started()
    board.builder.ready.set()
    assert engine.wait(10.0)
    assert session.runs_on == "onnxruntime cpu"
    assert board.engine.is_closed and len(session.problems()) == 1


def test_an_engine_that_fails_while_serving_is_replaced_within_the_frame(board: Board) -> None:
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


def test_a_shard_that_is_not_wanted_any_more_stops_its_build(board: Board) -> None:
    """Another deployment came, or this one was aborted."""
    session, _ = board.started()
    began_s = time.monotonic()
    session.close()
    assert board.builder.was_stopped.wait(5.0)
    assert time.monotonic() - began_s < 5.0
    assert session.problems() == ()
    session.close()


@pytest.mark.parametrize(
    ("config", "bundle", "objection"),
    [
        ({"provider": "cpu"}, {}, None),
        ({"dilation": 2.0}, {}, "stands for a slower one"),
        ({}, {"has_golden": False}, "no golden vectors"),
        ({}, {"golden": ""}, "no golden vectors"),
        ({}, {"shard_sha256": "f" * 64}, "for another shard"),
    ],
)
def test_where_no_engine_may_be_built_the_shard_is_served_and_the_reason_told(
    board: Board, config: dict[str, object], bundle: dict[str, object], objection: str | None
) -> None:
    prepared = board.prepare(config=RuntimeConfig(**config), **bundle)  # type: ignore[arg-type]
    prepared.start()
    session = prepared.session
    assert session is not None and session.engine is None
    assert session.runs_on == "onnxruntime cpu"
    assert board.builder.jobs == []
    if objection is None:
        assert (session.telemetry(), session.problems()) == (None, ())
    else:
        assert objection in session.problems()[0]


def stored(board: Board, recipe: bytes | None = None) -> Announcement:
    """A deployment in the store, with another recipe than its builder wrote."""
    made = bundle_at(board.folder / "bundle")
    manifest = made.manifest
    if recipe is not None:
        sha256 = hashlib.sha256(recipe).hexdigest()
        entries = tuple(
            FileEntry(path=ENGINE, sha256=sha256, size_bytes=len(recipe))
            if entry.path == ENGINE else entry
            for entry in manifest.files
        )  # fmt: skip
        manifest = msgspec.structs.replace(manifest, files=entries)
    for entry in manifest.files:
        is_other = recipe is not None and entry.path == ENGINE
        content = recipe if is_other and recipe is not None else made.read(entry.path)
        board.store.blob_path(entry.sha256).write_bytes(content)
    return Announcement(manifest=manifest, plan=made.plan)


def prepared_from(board: Board, announcement: Announcement) -> Prepared:
    config = RuntimeConfig()
    return prepare(announcement, device="a", store=board.store, config=config, load_session=load)


def test_a_recipe_of_a_later_edgekit_is_told_and_the_shard_served_without(board: Board) -> None:
    """The operator updated before this board."""
    later = to_json(recipe_for(b"shard")).replace(b'"format": 1', b'"format": 2')
    session = prepared_from(board, stored(board, later)).session
    assert session is not None and session.engine is None
    assert "engine recipe format 2 is not 1" in session.problems()[0]


def test_a_recipe_that_lost_bits_is_pulled_again(board: Board) -> None:
    """As any file of the store."""
    announcement = stored(board)
    path = board.store.blob_path(announcement.manifest.entry(ENGINE).sha256)
    path.write_bytes(b"{}")
    with pytest.raises(TrustError, match="does not match its digest"):
        prepared_from(board, announcement)
    assert not path.exists()


def test_a_provider_that_this_onnxruntime_lacks_is_an_error_to_edit_away(board: Board) -> None:
    config = RuntimeConfig(provider="tensorrt-rtx-ep")
    with pytest.raises(ConfigError, match=r"runtime.provider is 'tensorrt-rtx-ep'.*agent\.toml"):
        board.prepare(config=config)


def test_where_cuda_does_not_start_the_cpu_serves_and_the_reason_is_told(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel without kernels for this GPU lists the provider all the same."""
    monkeypatch.setattr("edgekit.agent.shard_session.available_providers", lambda: ("cpu", "cuda"))

    def load_or_fail(path: Path, config: RuntimeConfig) -> EchoSession:
        if config.provider == "cuda":
            raise DeviceError("cuda does not work on this board: no kernel image", hint="x")
        return load(path, config)

    board.load = load_or_fail
    board.builder.error = DeviceError("no TensorRT", hint="x")
    session, engine = board.started()
    board.builder.ready.set()
    assert engine.wait(10.0)
    first, second = session.problems()
    assert "no TensorRT engine: no TensorRT" in first
    assert "onnxruntime cuda: cuda does not work on this board: no kernel image" in second
    assert session.runs_on == "onnxruntime cpu"


def test_a_named_provider_is_tried_in_a_process_of_its_own_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that crashes must not take the agent along."""

    class Check:
        starts, reason = False, "ended by SIGSEGV"

    monkeypatch.setattr("edgekit.agent.shard_session.check_provider", lambda name: Check)
    with pytest.raises(DeviceError, match="cuda does not work on this board: ended by SIGSEGV"):
        load_onnx_session(tmp_path / "m.onnx", RuntimeConfig(provider="cuda"))
