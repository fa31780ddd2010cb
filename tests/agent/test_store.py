"""What the agent keeps on disk is verified, and survives a restart."""

import hashlib
from pathlib import Path

import pytest

from edgekit.agent.store import Current, Store
from edgekit.errors import ConfigError, DeviceError, TrustError
from edgekit.spec.manifest import FileEntry


def entry_of(data: bytes) -> FileEntry:
    return FileEntry(
        path="shards/shard-0.onnx", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data)
    )


def test_a_blob_whose_card_lost_a_bit_is_refused_and_removed(tmp_path: Path) -> None:
    """It must be pulled again, never loaded."""
    store, entry = Store(tmp_path), entry_of(b"good")
    store.blob_path(entry.sha256).write_bytes(b"gooe")
    with pytest.raises(TrustError, match="does not match its digest"):
        store.verified_path(entry)
    assert not store.blob_path(entry.sha256).exists()


def test_a_whole_blob_is_given_out(tmp_path: Path) -> None:
    """The other half of the promise above."""
    store, entry = Store(tmp_path), entry_of(b"good")
    store.blob_path(entry.sha256).write_bytes(b"good")
    assert store.has(entry)
    assert store.verified_path(entry).read_bytes() == b"good"


def test_the_committed_deployment_survives_a_restart(tmp_path: Path) -> None:
    """A board must come back without anybody's help."""
    Store(tmp_path).set_current(Current(deployment="d", epoch=3, peer_address="10.0.0.2:7"))
    assert Store(tmp_path).current() == Current(deployment="d", epoch=3, peer_address="10.0.0.2:7")
    Store(tmp_path).set_current(None)
    assert Store(tmp_path).current() is None


def test_a_damaged_current_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    """Half a JSON file must not look like a fresh board."""
    store = Store(tmp_path)
    (tmp_path / "current.json").write_text('{"deployment": "d", "epo')
    with pytest.raises(ConfigError, match=r"current\.json"):
        store.current()


def test_pruning_keeps_what_is_served_and_parts_of_it(tmp_path: Path) -> None:
    """Old shards must not fill the card."""
    store = Store(tmp_path)
    for name in ("a" * 64, "b" * 64, "b" * 64 + ".part"):
        (tmp_path / "blobs" / name).write_bytes(b"x")
    store.prune({"a" * 64})
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == ["a" * 64]


def test_a_store_that_cannot_be_created_says_what_to_change(tmp_path: Path) -> None:
    """A file in the way, a read-only card."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match=r"set `store` in agent\.toml"):
        Store(tmp_path / "file" / "store")
