"""Engines on disk: found again only by all that they depend on.

::

    engines/<key>.engine   the engine
    engines/<key>.json     its digest, and what it was built from and for
    engines/<key>.jit      kernels that TensorRT-RTX compiled at its first run
    engines/timing-*.bin   what TensorRT measured while building, for the next build

In: a key (see ``facts``).  Out: an EngineFile that may be loaded, or None.
An engine is written whole, beside its place, and moved; its .json comes last. So whatever a power
cut or a killed build leaves behind is never found, and a file that lost bits is removed.
"""

import hashlib
import os
import tempfile
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from edgekit.errors import ConfigError, DeviceError
from edgekit.runtime.tensorrt.facts import EngineFacts
from edgekit.spec.base import Spec, load, save, to_json

_PART = ".part"


class EngineEntry(Spec, frozen=True, kw_only=True):
    """The .json beside an engine."""

    key: str
    shard_sha256: str
    sha256: str
    """Of the engine."""
    size_bytes: int
    build_s: float
    facts: EngineFacts
    refused: str = ""
    """Why it must not serve although it is whole: its outputs were wrong."""


class EngineFile(Spec, frozen=True, kw_only=True):
    """An engine that may be loaded."""

    path: str
    key: str
    sha256: str
    facts: EngineFacts
    was_cached: bool = False
    build_s: float = 0.0

    @property
    def jit_path(self) -> Path:
        """Where kernels compiled at run time are kept."""
        return Path(self.path).with_suffix(".jit")


class EngineCache:
    """One folder of engines. Several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeviceError(
                f"cannot create the folder of engines {folder}: {error.strerror}",
                hint="set `store` in agent.toml to a folder this user may write",
            ) from None
        self._sweep()

    def entry(self, key: str) -> EngineEntry | None:
        """What is known of it; None if it is not here, or what is said of it is unreadable."""
        path = self._path(key, ".json")
        try:
            return load(path, EngineEntry) if path.is_file() else None
        except ConfigError:
            return None

    def find(self, key: str) -> EngineFile | None:
        """The engine, if it is here, whole and not refused.

        Raises: DeviceError with the reason if it was refused.
        """
        entry = self.entry(key)
        if entry is None:
            return None
        if entry.refused:
            raise DeviceError(
                f"an engine built like this was refused on this board: {entry.refused}",
                hint=f"delete {self._path(key, '.json')} to try once more",
            )
        path = self._path(key, ".engine")
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            digest = ""
        if digest != entry.sha256:
            self.remove(key)
            return None
        return EngineFile(
            path=str(path), key=key, sha256=digest, facts=entry.facts,
            was_cached=True, build_s=entry.build_s,
        )  # fmt: skip

    def add(
        self, key: str, engine: bytes, *, shard_sha256: str, facts: EngineFacts, build_s: float
    ) -> EngineFile:
        """Keep an engine. Raises: DeviceError if the disk does not take it."""
        digest, path = hashlib.sha256(engine).hexdigest(), self._path(key, ".engine")
        self.remove(key)
        self._write(path, engine)
        entry = EngineEntry(
            key=key, shard_sha256=shard_sha256, sha256=digest, size_bytes=len(engine),
            build_s=build_s, facts=facts,
        )  # fmt: skip
        save(entry, self._path(key, ".json"))
        return EngineFile(path=str(path), key=key, sha256=digest, facts=facts, build_s=build_s)

    def refuse(self, key: str, reason: str) -> None:
        """Never serve from it, nor build the like again; the engine itself is deleted."""
        entry = self.entry(key)
        if entry is not None:
            save(_with_reason(entry, reason), self._path(key, ".json"))
            self._path(key, ".engine").unlink(missing_ok=True)
            self._path(key, ".jit").unlink(missing_ok=True)

    def remove(self, key: str) -> None:
        """What is said of it first."""
        for suffix in (".json", ".engine", ".jit"):
            self._path(key, suffix).unlink(missing_ok=True)

    def prune(self, *, keep_shards: Set[str]) -> None:
        """Delete engines of all other shards."""
        for key in self._keys():
            entry = self.entry(key)
            if entry is None or entry.shard_sha256 not in keep_shards:
                self.remove(key)

    def remove_older(self, file: EngineFile) -> None:
        """Delete engines of its shard that another TensorRT, driver or recipe had built."""
        newest = self.entry(file.key)
        for key in self._keys() - {file.key}:
            entry = self.entry(key)
            if entry and newest and entry.shard_sha256 == newest.shard_sha256:
                self.remove(key)

    def _keys(self) -> set[str]:
        return {path.stem for path in self._folder.glob("*.json")} | {
            path.stem for path in self._folder.glob("*.engine")
        }

    def timing_cache(self, facts: EngineFacts) -> bytes:
        """From earlier builds with this TensorRT on this GPU; empty if there were none."""
        with suppress(OSError):
            return self._timing_path(facts).read_bytes()
        return b""

    def keep_timing_cache(self, facts: EngineFacts, data: bytes) -> None:
        """For the next build."""
        if data:
            self._write(self._timing_path(facts), data)

    def keep_jit(self, file: EngineFile, data: bytes) -> None:
        """Kernels compiled at run time, for the next start."""
        if data:
            self._write(file.jit_path, data)

    def _timing_path(self, facts: EngineFacts) -> Path:
        digest = hashlib.sha256(to_json(facts, indent=0)).hexdigest()
        return self._folder / f"timing-{digest[:16]}.bin"

    def _path(self, key: str, suffix: str) -> Path:
        return self._folder / f"{key}{suffix}"

    def _write(self, path: Path, data: bytes) -> None:
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=f".{os.getpid()}-", suffix=_PART)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except OSError as error:
            raise DeviceError(
                f"cannot write {path.name} ({len(data)} bytes): {error.strerror}",
                hint="make room on the disk of this board",
            ) from None
        finally:
            Path(name).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what writers that are no more left unfinished."""
        for path in self._folder.glob(f".*{_PART}"):
            number = path.name[1:].split("-")[0]
            if not number.isdigit() or not Path(f"/proc/{number}").exists():
                path.unlink(missing_ok=True)


def _with_reason(entry: EngineEntry, reason: str) -> EngineEntry:
    return EngineEntry(
        key=entry.key, shard_sha256=entry.shard_sha256, sha256=entry.sha256,
        size_bytes=entry.size_bytes, build_s=entry.build_s, facts=entry.facts, refused=reason,
    )  # fmt: skip
