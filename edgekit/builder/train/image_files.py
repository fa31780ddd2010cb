"""Find and read the files of a class-folder image set: ``train/<class>/*.png``, ``test/...``.

In:  a folder, a tar archive of one, or a folder that holds just one such archive.  Out: the bytes
of every image with its split and class, in a fixed order; and a fingerprint that changes with them.
An archive is read in place: nothing is unpacked, so no name in it can escape to the disk.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.errors import ConfigError

SPLITS = ("train", "test")
SUFFIXES = (".png", ".jpg", ".jpeg")
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
_LAYOUT = "lay the images out as train/<class>/<name>.png and test/<class>/<name>.png (or .jpg)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One encoded image. ``place`` is where it was found, for messages."""

    split: str
    kind: str
    """The class: the name of its folder."""
    place: str
    data: bytes


def find_source(path: Path) -> Path:
    """The folder or archive that ``path`` stands for.

    Raises: ConfigError if there is nothing there, or it is neither of the two.
    """
    if path.is_file():
        if not path.name.endswith(_ARCHIVES):
            raise ConfigError(f"{path} is no archive of images", hint=f"give a folder; {_LAYOUT}")
        return path
    if not path.is_dir():
        raise ConfigError(f"there is no image folder {path}", hint="check the path")
    if any((path / split).is_dir() for split in SPLITS):
        return path
    archives = sorted(p for p in path.iterdir() if p.is_file() and p.name.endswith(_ARCHIVES))
    if len(archives) != 1:
        raise ConfigError(
            f"{path} has neither {' and '.join(SPLITS)} folders nor just one archive "
            f"({len(archives)} archives)",
            hint=_LAYOUT,
        )
    return archives[0]


def fingerprint(source: Path) -> str:
    """sha256 that changes when an image is added, removed or replaced.

    Of an archive, its bytes; of a folder, the names, sizes and times of its images.
    """
    digest = hashlib.sha256()
    if source.is_file():
        with source.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    for path in _paths(source):
        status = path.stat()
        place = path.relative_to(source).as_posix()
        digest.update(f"{place} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def read_images(source: Path) -> list[ImageFile]:
    """All images of ``source``, by split, class and name.

    Raises: ConfigError if a split or a class of it is empty, test and training classes differ, or
    an archive is damaged.
    """
    found = _from_archive(source) if source.is_file() else _from_folder(source)
    files = sorted(found, key=lambda file: (file.split, file.kind, file.place))
    kinds = {split: sorted({f.kind for f in files if f.split == split}) for split in SPLITS}
    for split in SPLITS:
        if not kinds[split]:
            raise ConfigError(f"{source}: there are no images in {split}/<class>/", hint=_LAYOUT)
    if kinds["train"] != kinds["test"]:
        odd = sorted(set(kinds["train"]) ^ set(kinds["test"]))
        raise ConfigError(
            f"{source}: class {odd[0]!r} has images in only one of train and test",
            hint="give every class at least one image in both",
        )
    return files


def _paths(folder: Path) -> Iterator[Path]:
    for split in SPLITS:
        for kind in sorted(p for p in (folder / split).glob("*") if p.is_dir()):
            yield from sorted(p for p in kind.iterdir() if p.suffix.lower() in SUFFIXES)


def _from_folder(folder: Path) -> Iterator[ImageFile]:
    for path in _paths(folder):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"cannot read {path}: {error.strerror}", hint="check the file and its rights"
            ) from None
        split, kind, _ = path.relative_to(folder).parts
        yield ImageFile(split=split, kind=kind, place=str(path), data=data)


def _from_archive(path: Path) -> Iterator[ImageFile]:
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                parts = PurePosixPath(member.name).parts
                if len(parts) != 3 or parts[0] not in SPLITS or not member.isfile():
                    continue
                if not parts[2].lower().endswith(SUFFIXES):
                    continue
                opened = archive.extractfile(member)
                assert opened is not None, "a regular file has content"
                place = f"{path}: {member.name}"
                yield ImageFile(split=parts[0], kind=parts[1], place=place, data=opened.read())
            # To the very end: the compressed stream says there whether it is whole.
            while archive.fileobj is not None and archive.fileobj.read(1 << 20):
                pass
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ConfigError(
            f"{path} is not a whole archive: {error}", hint="copy the archive again"
        ) from None
