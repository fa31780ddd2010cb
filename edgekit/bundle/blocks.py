"""Cut files into blocks for the wire, and put them together again, resumable and verified.

In: bytes on the host; blocks in any order on a device.  Out: the whole file at its final path, or
nothing there at all.  Never touches the network.
A pull in progress is two files beside the final path: ``<name>.part`` holds the bytes,
``<name>.map`` which blocks are safely in it. The map is written only after the bytes are synced, so
a power cut costs a few blocks and never leaves a hole that counts as present.
"""

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from edgekit.errors import ConfigError, DeviceError, LinkError, TrustError
from edgekit.spec.base import Spec, load, save
from edgekit.spec.manifest import FileEntry
from edgekit.spec.topics import BLOCK_BYTES

_SYNC_EVERY = 16


def block_count(size_bytes: int) -> int:
    """Blocks of a file of ``size_bytes``; an empty file has none."""
    return -(-size_bytes // BLOCK_BYTES)


def split_blocks(data: bytes) -> Iterator[bytes]:
    """``data`` in order, in pieces of BLOCK_BYTES; the last may be shorter."""
    for start in range(0, len(data), BLOCK_BYTES):
        yield data[start : start + BLOCK_BYTES]


class BlockMap(Spec, frozen=True, kw_only=True):
    """Which blocks of one file are present."""

    sha256: str
    size_bytes: int
    block_bytes: int
    present: str
    """Base64 of a bit per block, lowest bit of the first byte first."""

    @classmethod
    def of(cls, entry: FileEntry, indices: set[int]) -> "BlockMap":
        """The map of a file of which the blocks ``indices`` have come."""
        bitmap = bytearray(-(-block_count(entry.size_bytes) // 8))
        for index in indices:
            bitmap[index // 8] |= 1 << index % 8
        return cls(
            sha256=entry.sha256,
            size_bytes=entry.size_bytes,
            block_bytes=BLOCK_BYTES,
            present=base64.b64encode(bytes(bitmap)).decode(),
        )

    def indices(self) -> set[int]:
        """The blocks that are present. Raises: ValueError if the bitmap is damaged."""
        bitmap = base64.b64decode(self.present, validate=True)
        count = block_count(self.size_bytes)
        if len(bitmap) != -(-count // 8):
            raise ValueError(f"a bitmap of {len(bitmap)} bytes for {count} blocks")
        return {index for index in range(count) if bitmap[index // 8] >> index % 8 & 1}

    def fits(self, entry: FileEntry) -> bool:
        """Whether this map is about ``entry``, cut into blocks of today's size."""
        about = (self.sha256, self.size_bytes, self.block_bytes)
        return about == (entry.sha256, entry.size_bytes, BLOCK_BYTES)


class PartialFile:
    """A file that arrives in blocks. A context manager: leaving it keeps what has come."""

    def __init__(self, entry: FileEntry, path: Path) -> None:
        self._entry, self._path = entry, path
        self._part = path.with_name(path.name + ".part")
        self._map = path.with_name(path.name + ".map")
        self._count = block_count(entry.size_bytes)
        self._present: set[int] = set()
        self._unsaved = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> "PartialFile":
        try:
            self._present = self._remembered()
            self._file = self._part.open("r+b" if self._part.exists() else "w+b")
            self._file.truncate(self._entry.size_bytes)
        except OSError as error:
            raise self._disk(error) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            try:
                if self._unsaved:
                    self._remember()
            finally:
                self._close()

    @property
    def present_bytes(self) -> int:
        """Bytes that have come, earlier pulls included."""
        return sum(self._size_of(index) for index in self._present)

    def missing(self) -> list[int]:
        """Blocks that have not come, in order."""
        return [index for index in range(self._count) if index not in self._present]

    def add(self, index: int, data: bytes) -> None:
        """Write block ``index`` where it belongs.

        Raises: TrustError if the file has no such block or the block has the wrong size;
        DeviceError if the disk does not take it.
        """
        if not 0 <= index < self._count:
            raise TrustError(
                f"{self._entry.path} has {self._count} blocks, so block {index} is not one of them",
                hint="publish the bundle again",
            )
        if len(data) != self._size_of(index):
            raise TrustError(
                f"block {index} of {self._entry.path} has {len(data)} bytes, "
                f"expected {self._size_of(index)}",
                hint="publish the bundle again",
            )
        try:
            file = self._opened()
            file.seek(index * BLOCK_BYTES)
            file.write(data)
        except OSError as error:
            raise self._disk(error) from None
        self._present.add(index)
        self._unsaved += 1
        if self._unsaved >= _SYNC_EVERY:
            self._remember()

    def finish(self) -> None:
        """Verify the whole file and move it to its final path.

        Raises: LinkError if blocks are missing; TrustError if the digest differs, and then
        everything that came is discarded, for no single block can be trusted.
        """
        if missing := self.missing():
            raise LinkError(
                f"{self._entry.path} lacks {len(missing)} of {self._count} blocks",
                hint="pull the missing blocks",
            )
        try:
            self._sync()
            digest = self._digest()
            self._close()
            if digest != self._entry.sha256:
                self._discard()
                raise TrustError(
                    f"{self._entry.path} does not match its digest, so what came was discarded",
                    hint="publish the bundle again",
                )
            self._part.replace(self._path)
            self._map.unlink(missing_ok=True)
            _sync_folder(self._path.parent)
        except OSError as error:
            raise self._disk(error) from None

    def _size_of(self, index: int) -> int:
        return min(BLOCK_BYTES, self._entry.size_bytes - index * BLOCK_BYTES)

    def _remembered(self) -> set[int]:
        """Blocks of an earlier pull; none if its traces do not fit this file."""
        if not self._map.is_file() or not self._part.is_file():
            self._discard()
            return set()
        try:
            known = load(self._map, BlockMap)
            present = known.indices() if known.fits(self._entry) else set()
        except (ConfigError, ValueError):  # cut off by a power cut, or not ours
            present = set()
        if not present or self._part.stat().st_size != self._entry.size_bytes:
            self._discard()
            return set()
        return present

    def _remember(self) -> None:
        try:
            self._sync()
            save(BlockMap.of(self._entry, self._present), self._map)
        except OSError as error:
            raise self._disk(error) from None
        self._unsaved = 0

    def _sync(self) -> None:
        file = self._opened()
        file.flush()
        os.fsync(file.fileno())

    def _digest(self) -> str:
        file, digest = self._opened(), hashlib.sha256()
        file.seek(0)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise RuntimeError("PartialFile is used outside its with block")
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        self._map.unlink(missing_ok=True)

    def _disk(self, error: OSError) -> DeviceError:
        return DeviceError(
            f"cannot store {self._entry.path} in {self._path.parent}: {error.strerror}",
            hint="free some space on this device, or fix the permissions of its store",
        )


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
