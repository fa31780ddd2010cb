"""Blocks: any order, any interruption, and nothing unverified ever at the final path."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.bundle.blocks import BlockMap, PartialFile, block_count, split_blocks
from edgekit.errors import DeviceError, LinkError, TrustError
from edgekit.spec.manifest import FileEntry
from edgekit.spec.topics import BLOCK_BYTES

DATA = bytes(range(256)) * (5 * BLOCK_BYTES // 256) + b"the last, short block"
BLOCKS = list(split_blocks(DATA))


def entry_of(data: bytes) -> FileEntry:
    digest = hashlib.sha256(data).hexdigest()
    return FileEntry(path="shards/shard-0.onnx", sha256=digest, size_bytes=len(data))


ENTRY = entry_of(DATA)


@given(st.integers(0, 4 * BLOCK_BYTES))
def test_blocks_are_the_file_and_none_is_too_large(size_bytes: int) -> None:
    """Brokers refuse larger messages."""
    data = bytes(size_bytes)
    blocks = list(split_blocks(data))
    assert b"".join(blocks) == data
    assert len(blocks) == block_count(size_bytes)
    assert all(0 < len(block) <= BLOCK_BYTES for block in blocks)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(len(BLOCKS))), st.sets(st.integers(0, len(BLOCKS) - 1)))
def test_blocks_in_any_order_over_two_pulls_give_the_file(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], first_pull: set[int]
) -> None:
    """A pull that was interrupted goes on where it was."""
    path = tmp_path_factory.mktemp("store") / ENTRY.sha256
    with PartialFile(ENTRY, path) as part:
        for index in order:
            if index in first_pull:
                part.add(index, BLOCKS[index])
                part.add(index, BLOCKS[index])
    assert not path.exists()
    with PartialFile(ENTRY, path) as part:
        assert part.missing() == sorted(set(range(len(BLOCKS))) - first_pull)
        assert part.present_bytes == sum(len(BLOCKS[index]) for index in first_pull)
        for index in part.missing():
            part.add(index, BLOCKS[index])
        part.finish()
    assert path.read_bytes() == DATA
    assert list(path.parent.iterdir()) == [path]


def test_a_flipped_bit_is_refused_and_everything_that_came_is_discarded(tmp_path: Path) -> None:
    """Which block is bad cannot be known, so none is kept."""
    path = tmp_path / "shard"
    with PartialFile(ENTRY, path) as part:
        for index, block in enumerate(BLOCKS):
            part.add(index, block if index != 3 else bytes([block[0] ^ 1]) + block[1:])
        with pytest.raises(TrustError, match="does not match its digest"):
            part.finish()
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_survives_a_bad_pull(tmp_path: Path) -> None:
    """What serves must not be touched by what is refused."""
    path = tmp_path / "shard"
    path.write_bytes(b"good")
    with PartialFile(entry_of(b"newer"), path) as part:
        part.add(0, b"evil!")
        with pytest.raises(TrustError):
            part.finish()
    assert path.read_bytes() == b"good"


def test_an_unfinished_file_is_not_installed(tmp_path: Path) -> None:
    """LinkError, for the rest may still come."""
    with PartialFile(ENTRY, tmp_path / "shard") as part:
        part.add(0, BLOCKS[0])
        with pytest.raises(LinkError, match="lacks 5 of 6 blocks"):
            part.finish()
    with PartialFile(ENTRY, tmp_path / "shard") as part:
        assert len(part.missing()) == 5


@pytest.mark.parametrize(
    ("index", "data"),
    [(6, b"x"), (-1, b"x"), (0, b"short"), (5, BLOCKS[0]), (0, BLOCKS[0] + b"x"), (2, b"")],
)
def test_a_block_that_cannot_be_of_this_file_is_refused(
    tmp_path: Path, index: int, data: bytes
) -> None:
    """Before a single byte is written."""
    with PartialFile(ENTRY, tmp_path / "shard") as part:
        with pytest.raises(TrustError):
            part.add(index, data)
        assert part.present_bytes == 0


def test_an_empty_file_needs_no_block(tmp_path: Path) -> None:
    """A bundle may hold one."""
    with PartialFile(entry_of(b""), tmp_path / "shard") as part:
        assert part.missing() == []
        part.finish()
    assert (tmp_path / "shard").read_bytes() == b""


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "shard.map").write_bytes(b""),
        lambda folder: (folder / "shard.map").write_bytes(b'{"sha256": "x'),
        lambda folder: (folder / "shard.map").unlink(),
        lambda folder: (folder / "shard.part").unlink(),
        lambda folder: (folder / "shard.part").write_bytes(b"short"),
        lambda folder: (folder / "shard.map").write_bytes(
            (folder / "shard.map").read_bytes().replace(b'"present": "', b'"present": "?')
        ),
    ],
    ids=["empty map", "cut-off map", "no map", "no part", "short part", "bad base64"],
)
def test_traces_that_a_power_cut_spoilt_are_forgotten(tmp_path: Path, spoil: object) -> None:
    """Starting over is right, trusting them is not."""
    with PartialFile(ENTRY, tmp_path / "shard") as part:
        part.add(0, BLOCKS[0])
    spoil(tmp_path)  # type: ignore[operator]
    with PartialFile(ENTRY, tmp_path / "shard") as part:
        assert part.missing() == list(range(6))


def test_traces_of_another_file_are_forgotten(tmp_path: Path) -> None:
    """The same final name may stand for another version."""
    with PartialFile(ENTRY, tmp_path / "shard") as part:
        part.add(0, BLOCKS[0])
    other = entry_of(DATA[::-1])
    with PartialFile(other, tmp_path / "shard") as part:
        assert part.missing() == list(range(6))


@given(st.sets(st.integers(0, 5)))
def test_a_block_map_remembers_exactly_its_blocks(indices: set[int]) -> None:
    """One bit each."""
    assert BlockMap.of(ENTRY, indices).indices() == indices


def test_a_store_that_cannot_be_written_is_a_device_error(tmp_path: Path) -> None:
    """A full or read-only card is for the operator to mend."""
    with (
        pytest.raises(DeviceError, match="cannot store"),
        PartialFile(ENTRY, tmp_path / "absent" / "shard"),
    ):
        pass


def test_a_killed_pull_keeps_what_was_synced(tmp_path: Path) -> None:
    """kill -9 in the middle: whatever the map names is really in the file."""
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from edgekit.bundle.blocks import PartialFile, split_blocks
        from edgekit.spec.manifest import FileEntry
        folder = Path(sys.argv[1])
        blocks = list(split_blocks((folder / "source").read_bytes()))
        size = sum(map(len, blocks))
        part = PartialFile(FileEntry(path="f", sha256=sys.argv[2], size_bytes=size), folder / "f")
        part.__enter__()
        for index in reversed(range(len(blocks) - 5)):
            part.add(index, blocks[index])
        print("half-way", flush=True)
        time.sleep(60)
        """
    )
    data = os.urandom(40 * BLOCK_BYTES)
    (tmp_path / "source").write_bytes(data)
    entry = FileEntry(path="f", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    command = [sys.executable, "-c", script, str(tmp_path), entry.sha256]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half-way\n"
        process.send_signal(signal.SIGKILL)
    blocks = list(split_blocks(data))
    with PartialFile(entry, tmp_path / "f") as part:
        missing = part.missing()
        assert 5 <= len(missing) <= 5 + 16
        for index in missing:
            part.add(index, blocks[index])
        part.finish()
    assert (tmp_path / "f").read_bytes() == data
