"""What runs a shard on this board: as agent.toml, the bundle and the board say, with reasons."""

import hashlib
from pathlib import Path

import msgspec
import pytest
from engine_world import ENGINE, FakeBoard, bundle_at, load, recipe_for

from edgekit.agent.prepare import Prepared, prepare
from edgekit.agent.shard_session import load_onnx_session
from edgekit.errors import ConfigError, DeviceError, TrustError
from edgekit.runtime.echo import EchoSession
from edgekit.spec.agent_config import RuntimeConfig
from edgekit.spec.base import to_json
from edgekit.spec.manifest import FileEntry
from edgekit.spec.messages import Announcement


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBoard:
    return FakeBoard(tmp_path, monkeypatch)


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
    board: FakeBoard, config: dict[str, object], bundle: dict[str, object], objection: str | None
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


def stored(board: FakeBoard, recipe: bytes | None = None) -> Announcement:
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


def prepared_from(board: FakeBoard, announcement: Announcement) -> Prepared:
    config = RuntimeConfig()
    return prepare(announcement, device="a", store=board.store, config=config, load_session=load)


def test_a_recipe_of_a_later_edgekit_is_told_and_the_shard_served_without(board: FakeBoard) -> None:
    """The operator updated before this board."""
    later = to_json(recipe_for(b"shard")).replace(b'"format": 1', b'"format": 2')
    session = prepared_from(board, stored(board, later)).session
    assert session is not None and session.engine is None
    assert "engine recipe format 2 is not 1" in session.problems()[0]


def test_a_recipe_that_lost_bits_is_pulled_again(board: FakeBoard) -> None:
    """As any file of the store."""
    announcement = stored(board)
    path = board.store.blob_path(announcement.manifest.entry(ENGINE).sha256)
    path.write_bytes(b"{}")
    with pytest.raises(TrustError, match="does not match its digest"):
        prepared_from(board, announcement)
    assert not path.exists()


def test_a_provider_that_this_onnxruntime_lacks_is_an_error_to_edit_away(board: FakeBoard) -> None:
    config = RuntimeConfig(provider="tensorrt-rtx-ep")
    with pytest.raises(ConfigError, match=r"runtime.provider is 'tensorrt-rtx-ep'.*agent\.toml"):
        board.prepare(config=config)


def without_cuda(path: Path, config: RuntimeConfig) -> EchoSession:
    """ONNX Runtime lists CUDA, and it does not work."""
    if config.provider == "cuda":
        raise DeviceError("cuda does not work on this board: no kernel image", hint="x")
    return load(path, config)


@pytest.mark.parametrize("error", [DeviceError("no TensorRT", hint="x"), None])
def test_where_cuda_does_not_start_the_cpu_serves_and_the_reason_is_told(
    board: FakeBoard, monkeypatch: pytest.MonkeyPatch, error: DeviceError | None
) -> None:
    """A wheel without kernels for this GPU lists the provider all the same. Under an engine that
    serves, nobody needs to know."""
    monkeypatch.setattr("edgekit.agent.shard_session.available_providers", lambda: ("cpu", "cuda"))
    board.load, board.builder.error = without_cuda, error
    session, engine = board.started()
    assert session.runs_on == "onnxruntime cpu"
    board.builder.ready.set()
    assert engine.wait(10.0)
    if error is None:
        assert (session.problems(), session.runs_on) == ((), "TensorRT 10.3.0")
        session.close()
        return
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
