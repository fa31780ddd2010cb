"""The agent's disk: verified files by digest, announcements, and the last good deployment.

::

    store/blobs/<sha256>          whole, verified files (and .part files of pulls in progress)
    store/deployments/<id>.json   announcements
    store/current.json            what to serve after a restart, with no network at all
    store/engines/                TensorRT engines of the shards, built on this board
    store/profile/                the profile of this board, and the journal of one being measured

Nothing reaches its final name before its digest was checked, and every file is checked again before
it is loaded: a card that lost bits must not serve.
"""

import hashlib
from pathlib import Path

from edgekit.errors import DeviceError, TrustError
from edgekit.runtime.tensorrt import EngineCache
from edgekit.spec.base import Spec, load, save
from edgekit.spec.manifest import FileEntry
from edgekit.spec.messages import Announcement


class Current(Spec, frozen=True, kw_only=True):
    """The committed deployment."""

    deployment: str
    epoch: int
    peer_address: str = ""
    """Where the next device listened last, so that a restart without a broker finds it."""


class Store:
    """One folder, owned by one agent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            for name in ("blobs", "deployments", "profile"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeviceError(
                f"cannot create the store {folder}: {error.strerror}",
                hint="set `store` in agent.toml to a folder this user may write",
            ) from None

    def blob_path(self, sha256: str) -> Path:
        """Where the file with this digest is, or will be."""
        return self._folder / "blobs" / sha256

    def has(self, entry: FileEntry) -> bool:
        """Whether the file is here, at its right size; ``verified_path`` checks its bytes."""
        path = self.blob_path(entry.sha256)
        return path.is_file() and path.stat().st_size == entry.size_bytes

    def verified_path(self, entry: FileEntry) -> Path:
        """Path of the file after checking its bytes once more.

        Raises: TrustError (and the file is removed, so that it is pulled again).
        """
        path = self.blob_path(entry.sha256)
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        except OSError as error:
            raise DeviceError(
                f"cannot read {entry.path} from the store: {error.strerror}",
                hint="deploy the bundle again",
            ) from None
        if digest.hexdigest() != entry.sha256:
            path.unlink(missing_ok=True)
            raise TrustError(
                f"{entry.path} in the store does not match its digest, so it was removed",
                hint="deploy the bundle again; if it happens twice, replace the memory card",
            )
        return path

    @property
    def profile_folder(self) -> Path:
        """Where the profile of this board is kept."""
        return self._folder / "profile"

    @property
    def engines_folder(self) -> Path:
        """Where engines are kept; it is created when the first one is built."""
        return self._folder / "engines"

    def save_announcement(self, announcement: Announcement) -> None:
        """Remember a deployment."""
        save(announcement, self._announcement_path(announcement.manifest.deployment_id))

    def announcement(self, deployment: str) -> Announcement:
        """A remembered deployment. Raises: ConfigError if it is not here or unreadable."""
        return load(self._announcement_path(deployment), Announcement)

    def _announcement_path(self, deployment: str) -> Path:
        return self._folder / "deployments" / f"{deployment}.json"

    def current(self) -> Current | None:
        """The committed deployment, or None on a fresh board."""
        path = self._folder / "current.json"
        return load(path, Current) if path.is_file() else None

    def set_current(self, current: Current | None) -> None:
        """Commit: from now on a restart serves this (None: nothing)."""
        path = self._folder / "current.json"
        if current is None:
            path.unlink(missing_ok=True)
        else:
            save(current, path)

    def prune(self, keep: set[str]) -> None:
        """Delete blobs whose digest is not in ``keep`` (older deployments), and their engines."""
        if self.engines_folder.is_dir():
            EngineCache(self.engines_folder).prune(keep_shards=keep)
        for path in (self._folder / "blobs").iterdir():
            if path.name.split(".")[0] not in keep:
                path.unlink(missing_ok=True)
