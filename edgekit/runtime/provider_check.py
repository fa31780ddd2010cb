"""Prove that an execution provider works here: one real convolution, in a process of its own.

In:  the name of a provider.  Out: whether it computed the right numbers, and else why not.
A provider that ONNX Runtime lists may lack its driver, a library, or kernels for this very GPU; and
a broken driver can take the process with it. So nothing of it is tried inside the agent.
"""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

_TIMEOUT_S = 60.0
"""The first session of CUDA loads a gigabyte of libraries, from an SD card perhaps."""
_MOST_CHARS = 300
_LIBRARY = re.compile(r"\b(lib[\w.+-]+?\.so(?:\.\d+)*)\b")
_NO_KERNEL = re.compile(r"no kernel image|unsupported (gpu|architecture)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCheck:
    """What became of one try."""

    provider: str
    starts: bool
    reason: str = ""
    """Why it does not start, in words; empty if it does."""


@cache
def check_provider(provider: str) -> ProviderCheck:
    """Try ``provider`` once; the answer is remembered as long as this process lives."""
    return tried([sys.executable, "-m", "edgekit.runtime.provider_child", provider], provider)


def tried(command: list[str], provider: str, *, timeout_s: float = _TIMEOUT_S) -> ProviderCheck:
    """Run ``command``, which answers as ``provider_child`` does, and judge what comes back."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        reason = f"gave no answer within {timeout_s:.0f} s"
        return ProviderCheck(provider=provider, starts=False, reason=reason)
    except OSError as error:
        return ProviderCheck(provider=provider, starts=False, reason=str(error))
    answer = _answer(done.stdout)
    if done.returncode == 0 and answer == {"starts": True}:
        return ProviderCheck(provider=provider, starts=True)
    said = str(answer.get("reason", ""))
    reason = in_words(f"{done.stderr}\n{said}", said, done.returncode)
    return ProviderCheck(provider=provider, starts=False, reason=reason)


def in_words(text: str, said: str, returncode: int) -> str:
    """The cause among everything that a failed process printed, in one line."""
    if returncode < 0:
        return f"its process was ended by signal {-returncode}"
    if library := missing_library(text):
        return f"needs {library}, which is not here"
    if _NO_KERNEL.search(text):
        return "was built without kernels for this GPU"
    lines = [line.strip() for line in (said or text).splitlines() if line.strip()]
    return lines[-1][:_MOST_CHARS] if lines else f"its process ended with status {returncode}"


def missing_library(text: str) -> str:
    """The shared library that a loader's message misses, such as "libcudart.so.12"; or nothing."""
    for line in text.splitlines():
        head, found, _ = line.partition(": cannot open shared object file")
        names = _LIBRARY.findall(head) if found else []
        if names:
            return str(names[-1])
    return ""


def _answer(text: str) -> dict[str, object]:
    """The last line of a child's output, if it is a JSON object."""
    lines = text.strip().splitlines()
    try:
        value = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
