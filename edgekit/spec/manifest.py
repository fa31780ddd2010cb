"""What is in a bundle: every file with its digest and size; its own digest names the deployment."""

import hashlib

from edgekit.errors import TrustError
from edgekit.spec.base import Spec, to_json


class FileEntry(Spec, frozen=True, kw_only=True):
    """One file of the bundle."""

    path: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if (
            not self.path
            or self.path.startswith("/")
            or ".." in parts
            or "" in parts
            or "\\" in self.path
        ):
            raise TrustError(
                f"manifest path {self.path!r} leaves the bundle", hint="do not use this bundle"
            )
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise TrustError(
                f"manifest digest of {self.path!r} is not a sha256", hint="do not use this bundle"
            )
        if self.size_bytes < 0:
            raise TrustError(
                f"manifest size of {self.path!r} is negative", hint="do not use this bundle"
            )


class Manifest(Spec, frozen=True, kw_only=True):
    """All files of a bundle except the manifest itself, sorted by path."""

    format: int = 1
    model: str
    model_sha256: str
    files: tuple[FileEntry, ...]

    def __post_init__(self) -> None:
        if self.format != 1:
            raise TrustError(
                f"bundle format {self.format} is not 1", hint="update edgekit on this device"
            )
        paths = [entry.path for entry in self.files]
        if len(set(paths)) != len(paths):
            raise TrustError("the manifest names a file twice", hint="do not use this bundle")

    @property
    def deployment_id(self) -> str:
        """Name of this exact bundle: the first 16 hex digits of the manifest's sha256."""
        return hashlib.sha256(to_json(self)).hexdigest()[:16]

    def entry(self, path: str) -> FileEntry:
        """The entry of ``path``. Raises: TrustError if the manifest has none."""
        for candidate in self.files:
            if candidate.path == path:
                return candidate
        raise TrustError(f"{path!r} is not in the manifest", hint="build the bundle again")
