"""Have an engine built by a process of its own: with progress, a time limit, an end at any time.

In: an EngineJob.  Out: an EngineFile, or a DeviceError with the reason in words. Whatever happens
to that process (killed, out of memory, crashed in a driver), the caller goes on.
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
from typing import BinaryIO

from edgekit.errors import ConfigError, DeviceError
from edgekit.runtime.tensorrt.cache import EngineFile
from edgekit.runtime.tensorrt.report import EngineJob, EngineReport
from edgekit.spec.base import parse_json, to_json

_LOOK_S = 0.1
_SAID_BYTES = 4096
_CHILD = (sys.executable, "-m", "edgekit.runtime.tensorrt.child")
_HINT = (
    "run this shard with ONNX Runtime, or give the recipe more time or a lower optimization_level"
)

OnReport = Callable[[EngineReport], None]


def obtain_engine(
    job: EngineJob,
    *,
    on_report: OnReport = lambda report: None,
    stopping: threading.Event | None = None,
    command: Sequence[str] = _CHILD,
) -> EngineFile:
    """Find or build the engine of ``job`` in a child; blocks until it is there.

    Raises: DeviceError if there is none in the end: refused by TensorRT, out of time, stopped, or
    the child died.
    """
    with tempfile.TemporaryFile() as said:
        process = _start(command, said)
        with process:
            try:
                last = _follow(process, job, on_report, stopping or threading.Event())
            finally:
                _kill(process)
        end = said.seek(0, os.SEEK_END)
        said.seek(max(0, end - _SAID_BYTES))
        words = said.read().decode(errors="replace")
    if last is not None and last.step == "done" and last.file is not None:
        return last.file
    if last is not None and last.step == "failed":
        raise DeviceError(last.problem, hint=last.hint)
    raise DeviceError(f"the engine was not built: {_end_of(process.returncode, words)}", hint=_HINT)


def _start(command: Sequence[str], said: BinaryIO) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,  # a signal for the agent is not for it
        )
    except OSError as error:
        raise DeviceError(
            f"cannot start {command[0]}: {error.strerror}", hint="look at the memory of this board"
        ) from None


def _follow(
    process: "subprocess.Popen[bytes]",
    job: EngineJob,
    on_report: OnReport,
    stopping: threading.Event,
) -> EngineReport | None:
    """Hand on its reports until it ends. Returns: the last one.

    Raises: DeviceError when it is to be killed: stopped, or out of time.
    """
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.write(to_json(job, indent=0) + b"\n")
        process.stdin.flush()
    began_s = time.monotonic()
    handle, rest, last = process.stdout.fileno(), b"", None
    while True:
        if stopping.is_set():
            raise DeviceError("the building of the engine was stopped", hint="deploy again")
        if time.monotonic() - began_s > job.recipe.timeout_s:
            raise DeviceError(
                f"the engine was not built within {job.recipe.timeout_s:g} s", hint=_HINT
            )
        if not select.select([handle], [], [], _LOOK_S)[0]:
            if process.poll() is not None:
                return last
            continue
        data = os.read(handle, 65536)
        if not data:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S * 20)
            return last
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            with suppress(ConfigError):  # not a report: something printed by a library
                last = parse_json(line, EngineReport, origin="the building process")
                on_report(last)
        if last is not None and last.step in ("done", "failed"):
            return last


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """It and whatever it started."""
    with suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _end_of(code: int, said: str) -> str:
    """How a child ended that did not say so."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1][:200] if lines else "it said nothing"
    if code >= 0:
        return f"its process ended with code {code}: {last}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        why = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"its process was ended by {name}{why}: {last}"
    return f"its process was ended by signal {-code}: {last}"
