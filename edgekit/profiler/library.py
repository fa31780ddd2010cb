"""Find device profiles by name: one TOML file per board, named after it.

In: a name, or the path of a file.  Out: a checked DeviceProfile, or a ConfigError with near names.
Profiles of one's own (measured here) hide shipped ones of the same name, and those of the folder
that one works in hide both. Reads files only.
"""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import ConfigError
from edgekit.spec.base import load
from edgekit.spec.profile import DeviceProfile

_PACKAGE = Path(__file__).parents[1]
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundProfile:
    """A profile and the file that it came from."""

    profile: DeviceProfile
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Every profile that can be named, by name, and what kept other files from being read."""

    found: tuple[FoundProfile, ...]
    problems: tuple[ConfigError, ...]


def user_folder() -> Path:
    """Where one's own profiles are: ``~/.config/edgekit/device_profiles``, or as XDG says."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(configured) if Path(configured).is_absolute() else Path.home() / ".config"
    return base / "edgekit" / "device_profiles"


def shipped_folder() -> Path:
    """Where the shipped profiles are: inside the installed package, or in the repository."""
    installed = _PACKAGE / "_device_profiles"
    return installed if installed.is_dir() else _PACKAGE.parent / "device_profiles"


def working_folder() -> Path:
    """``device_profiles`` where one works: what a fleet's files lie beside."""
    return Path("device_profiles")


def profile_folders() -> tuple[Path, ...]:
    """Folders to look in; the first that has a name wins."""
    return working_folder(), user_folder(), shipped_folder()


def find_profile(name: str, *, folders: Sequence[Path] | None = None) -> FoundProfile:
    """The profile called ``name``, or the one in the file ``name`` (a path, or ending in .toml).

    Raises: ConfigError if there is none (naming those that are near), or it is not valid.
    """
    if name.endswith(".toml") or "/" in name or os.sep in name:
        path = Path(name).expanduser()
        return FoundProfile(profile=load(path, DeviceProfile), path=path)
    paths = _paths(profile_folders() if folders is None else folders)
    if name not in paths:
        raise _no_such(name, list(paths))
    return _loaded(paths[name])


def load_profile(name: str, *, folders: Sequence[Path] | None = None) -> DeviceProfile:
    """As find_profile, without the path."""
    return find_profile(name, folders=folders).profile


def list_profiles(*, folders: Sequence[Path] | None = None) -> Library:
    """Every profile in ``folders``, by name. One broken file does not hide the others."""
    found, problems = [], []
    for _, path in sorted(_paths(profile_folders() if folders is None else folders).items()):
        try:
            found.append(_loaded(path))
        except ConfigError as error:
            problems.append(error)
    return Library(found=tuple(found), problems=tuple(problems))


def stale_reason(profile: DeviceProfile, runtime: str) -> str:
    """Why a profile should not be trusted under ``runtime``; empty if it may be."""
    if not profile.is_stale(runtime):
        return ""
    return f"measured with {profile.runtime}, but {runtime} runs here: profile it again"


def _paths(folders: Sequence[Path]) -> dict[str, Path]:
    """Files by profile name; earlier folders win."""
    paths: dict[str, Path] = {}
    for folder in folders:
        for path in _files(folder):
            paths.setdefault(path.stem, path)
    return paths


def _files(folder: Path) -> Iterator[Path]:
    """Profiles in one folder; a hidden file is one that is being written."""
    if folder.is_dir():
        yield from sorted(
            path for path in folder.glob("*.toml") if path.name[0] != "." and path.is_file()
        )


def _loaded(path: Path) -> FoundProfile:
    profile = load(path, DeviceProfile)
    if profile.name != path.stem:
        raise ConfigError(
            f"{path} holds the profile of {profile.name!r}",
            hint=f"rename the file to {profile.name}.toml, or change its name field",
        )
    return FoundProfile(profile=profile, path=path)


def _no_such(name: str, known: Sequence[str]) -> ConfigError:
    near = _near(name, known)
    listing = "edgekit profile list shows all that are known"
    return ConfigError(
        f"there is no device profile {name!r}",
        hint=f"use {' or '.join(near)}; {listing}" if near else f"give a path; {listing}",
    )


def _near(name: str, known: Sequence[str]) -> list[str]:
    """Known names that may be meant: the letters of one inside the other first, then alike."""
    asked = _letters(name)
    inside = [one for one in known if asked and (asked in _letters(one) or _letters(one) in asked)]
    alike = difflib.get_close_matches(name.lower(), known, n=_MOST_NAMED, cutoff=0.6)
    return list(dict.fromkeys((*inside, *alike)))[:_MOST_NAMED]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
