"""Memory limits of emulated devices: one control group each.

In:  a name and bytes.  Out: a MemoryLimit that processes are started under; the kernel ends one
that takes more, as on a board.  Knows both versions of cgroups.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import DeviceError

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """A group whose members may take ``nbytes`` together."""

    folder: Path

    def under(self, words: list[str]) -> list[str]:
        """A command line that runs ``words`` as a member."""
        joining = f'echo $$ > {self.folder}/cgroup.procs && exec "$@"'
        return ["sh", "-c", joining, "sh", *words]

    def remove(self) -> None:
        """Forget it; its members must have ended."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def limit_memory(name: str, nbytes: int) -> MemoryLimit:
    """A new group. Raises: DeviceError if this kernel gives none."""
    try:
        folder, file = _place(name)
        folder.mkdir(exist_ok=True)
        (folder / file).write_text(str(nbytes))
    except OSError as error:
        raise DeviceError(
            f"cannot limit memory with control groups: {error}",
            hint="run as root, or leave `memory` out of the fleet file",
        ) from None
    return MemoryLimit(folder)


def leftovers(tag: str) -> list[Path]:
    """Groups whose names begin with ``tag``."""
    return [path for root in (_ROOT / "memory", _ROOT) for path in root.glob(f"{tag}-*")]


def _place(name: str) -> tuple[Path, str]:
    if (_ROOT / "memory" / "memory.limit_in_bytes").exists():
        return _ROOT / "memory" / name, "memory.limit_in_bytes"
    if "memory" in (_ROOT / "cgroup.controllers").read_text().split():
        (_ROOT / "cgroup.subtree_control").write_text("+memory")
        return _ROOT / name, "memory.max"
    raise OSError("no memory controller")
