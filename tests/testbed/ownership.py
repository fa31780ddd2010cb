"""Who owns a testbed: so that one whose owner was killed is cleared away by the next.

In:  a tag.  Out: a small file per testbed in /run; ``orphans`` are those whose owner is gone.
A process id alone may have been given away again, so its start time is kept beside it.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

_FOLDER = Path("/run/edgekit-testbed")
_START_TIME_FIELD = 19
"""Of /proc/PID/stat behind the name, counted from 0."""


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One testbed at a time may look for free addresses and take them."""
    _FOLDER.mkdir(exist_ok=True)
    with (_FOLDER / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def claim(tag: str) -> Path:
    """Say that this process owns ``tag``, before anything is made."""
    _FOLDER.mkdir(exist_ok=True)
    path = _FOLDER / f"{tag}.json"
    owner = os.getpid()
    path.write_text(json.dumps({"tag": tag, "pid": owner, "started": _started(owner)}))
    return path


def orphans() -> list[str]:
    """Tags whose owner has ended."""
    found = []
    for path in sorted(_FOLDER.glob("*.json")):
        try:
            owner = json.loads(path.read_text())
            alive = _started(int(owner["pid"])) == owner["started"]
        except (ValueError, KeyError, TypeError):
            alive = False  # half written by a process that was killed
        if not alive:
            found.append(path.stem)
    return found


def release(tag: str) -> None:
    """Forget ``tag``, after all of it is gone."""
    (_FOLDER / f"{tag}.json").unlink(missing_ok=True)


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[_START_TIME_FIELD]
