"""A verb of the command line, run by an agent in a process of its own.

In: arguments.  Out: the lines it prints as they come, and how it ended.
The process ends with the agent, however that dies: its standard input closes.
"""

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from edgekit.errors import DeviceError

_LOOK_S = 0.2
_GRACE_S = 6.0
"""Between asking it to end and ending it."""
_SAID_BYTES = 4096
_PREFIX = "edgekit: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child ended: what went wrong and what to try, if something did."""

    is_ok: bool
    problem: str = ""
    hint: str = ""


class Child:
    """One run of one verb."""

    def __init__(self, arguments: Sequence[str], on_line: Callable[[bytes], None]) -> None:
        self._arguments, self._on_line = list(arguments), on_line
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ask it to end; ``run`` returns some seconds later. From any thread, also before it."""
        self._stopping.set()

    def run(self, *, limit_s: float) -> Ended:
        """Run it to its end, or kill it after ``limit_s``.

        Raises: DeviceError if it cannot be started.
        """
        with tempfile.TemporaryFile() as said:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", "edgekit", *self._arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    start_new_session=True,  # a signal for the agent is not for it
                )
            except OSError as error:
                raise DeviceError(
                    f"cannot start {sys.executable}: {error.strerror}",
                    hint="look at the memory of this board",
                ) from None
            with process:
                try:
                    self._follow(process, time.monotonic() + limit_s)
                finally:
                    _kill(process)
            end = said.seek(0, os.SEEK_END)
            said.seek(max(0, end - _SAID_BYTES))
            return how_it_ended(process.returncode, said.read().decode(errors="replace"))

    def _follow(self, process: "subprocess.Popen[bytes]", deadline_s: float) -> None:
        """Hand on its lines until it has ended."""
        assert process.stdout is not None
        handle, rest, is_asked = process.stdout.fileno(), b"", False
        while time.monotonic() < deadline_s:
            if self._stopping.is_set() and not is_asked:
                is_asked = True
                process.terminate()
                deadline_s = min(deadline_s, time.monotonic() + _GRACE_S)
            if not select.select([handle], [], [], _LOOK_S)[0]:
                if process.poll() is not None:  # a child of its own may hold the pipe
                    return
                continue
            data = os.read(handle, 65536)
            if not data:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE_S)
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._on_line(line)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """It and whatever it started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def how_it_ended(code: int, said: str) -> Ended:
    """From exit code and standard error: an EdgeKitError is its last line there."""
    if code == 0:
        return Ended(is_ok=True)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return Ended(
            is_ok=False,
            problem=f"the measuring was ended by {name}",
            hint="look whether the board ran out of memory (dmesg), then ask again: it resumes",
        )
    if last.startswith(_PREFIX) and ". Try: " in last:
        what, _, hint = last.removeprefix(_PREFIX).partition(". Try: ")
        kind, colon, rest = what.partition(": ")
        problem = rest if colon and kind.endswith("Error") else what
        return Ended(is_ok=False, problem=problem, hint=hint.rstrip("."))
    return Ended(
        is_ok=False,
        problem=f"the measuring ended with code {code}: {last}",
        hint="run `edgekit profile` on that board to see more",
    )
