"""The board as probes see it: files, tools, and what happens when a library is loaded.

In:  a root folder, and the processes that are started here.  Out: text, versions, reasons.
Everything that could crash (a broken driver, a library for another processor) is tried in a process
of its own, numpy and ONNX Runtime too: the check-up itself needs neither. Tests put a made-up board
in its place.
"""

import functools
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from edgekit.profiler.conditions import Board
from edgekit.runtime.provider_check import ProviderCheck, check_provider, in_words

_TIMEOUT_S = 60.0
_IMPORT = """
import importlib, sys
module = importlib.import_module(sys.argv[1])
print("\\n" + str(getattr(module, "__version__", "")))
"""
_BUFFERS = """
import sys
from edgekit.errors import EdgeKitError
from edgekit.runtime.tensorrt import open_cuda
try:
    print(open_cuda().name)
except EdgeKitError as error:
    sys.exit(error.what)
"""
_PROVIDERS = """
from edgekit.runtime.providers import available_providers
print(*available_providers())
"""
_BUILD = "import cv2; print(cv2.getBuildInformation())"
_NO_MODULE = re.compile(r"No module named '([\w.]+)'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """What became of an import."""

    name: str
    version: str = ""
    reason: str = ""
    """Why it does not import, in words; empty if it does."""
    is_installed: bool = True

    @property
    def works(self) -> bool:
        """Whether it imports."""
        return not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaFacts:
    """What the CUDA driver says."""

    driver: str = ""
    """The CUDA version that it serves, such as "12.6"."""
    devices: tuple[tuple[str, str], ...] = ()
    """Name and compute capability of each."""
    reason: str = ""
    """Why there is no device, in words."""


class Host(Board):
    """This machine."""

    @property
    def machine(self) -> str:
        """Its kind of processor: "x86_64", "aarch64"."""
        return platform.machine()

    @property
    def python(self) -> tuple[int, int, int]:
        """The version of Python that runs this."""
        return sys.version_info[:3]

    @property
    def now_s(self) -> float:
        """Seconds since 1970, as this board believes."""
        return time.time()

    def module(self, name: str) -> Module:
        """Import a module in a process of its own."""
        done = self._python("-c", _IMPORT, name)
        if done.returncode == 0:
            lines = done.stdout.strip().splitlines()
            return Module(name=name, version=lines[-1] if lines else "")
        absent = _NO_MODULE.findall(done.stderr)
        is_installed = not (absent and (name == absent[-1] or name.startswith(f"{absent[-1]}.")))
        reason = "is not installed"
        if is_installed:
            reason = in_words(done.stderr, "", done.returncode)
        return Module(name=name, reason=reason, is_installed=is_installed)

    def distribution(self, name: str) -> str:
        """Version of an installed package, or nothing."""
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return ""

    def providers(self) -> tuple[str, ...]:
        """Execution providers whose code the installed onnxruntime has; "cpu" if it is broken."""
        done = self._python("-c", _PROVIDERS)
        return tuple(done.stdout.split()) if done.returncode == 0 else ("cpu",)

    def provider(self, name: str) -> ProviderCheck:
        """Compute one convolution under an execution provider."""
        return check_provider(name)

    def opencv_build(self) -> str:
        """How OpenCV was built, in its own words; nothing without it."""
        done = self._python("-c", _BUILD)
        return done.stdout if done.returncode == 0 else ""

    @functools.cache  # noqa: B019 - a host lives as long as its check-up
    def cuda(self) -> CudaFacts:
        """Ask the CUDA driver in a process of its own."""
        done = self._python("-m", "edgekit.profiler.checkup.cuda_child")
        try:
            facts = json.loads(done.stdout.strip().splitlines()[-1])
            devices = tuple((str(name), str(capability)) for name, capability in facts["devices"])
            return CudaFacts(driver=facts["driver"], devices=devices, reason=facts["reason"])
        except (ValueError, IndexError, KeyError, TypeError):
            return CudaFacts(reason=in_words(done.stderr, "", done.returncode))

    def cuda_buffers(self) -> Module:
        """By which library TensorRT's inputs and outputs would be held, or why by none."""
        done = self._python("-c", _BUFFERS)
        if done.returncode == 0:
            return Module(name=done.stdout.strip().splitlines()[-1])
        return Module(name="", reason=in_words(done.stderr, "", done.returncode))

    def tool(self, name: str) -> str:
        """Path of a program, or nothing; also where only root has it in the path."""
        return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin") or ""

    def free_bytes(self, path: Path) -> int:
        """Free space for a file at ``path``, which need not exist yet."""
        while not path.exists() and path != path.parent:
            path = path.parent
        return shutil.disk_usage(path).free

    def can_read(self, path: str) -> bool:
        """Whether this user may open a file of the board."""
        return os.access(self.root / path, os.R_OK)

    def names(self, pattern: str) -> tuple[str, ...]:
        """Paths below the root that match a pattern, sorted."""
        found = sorted(self.root.glob(pattern))
        return tuple(str(path.relative_to(self.root)) for path in found)

    def _python(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, *arguments]
        try:
            return subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            return subprocess.CompletedProcess(command, 1, "", str(error))
