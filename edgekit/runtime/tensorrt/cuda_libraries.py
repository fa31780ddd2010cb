"""Which shared library of CUDA to call, and by which names.

In: nothing.  Out: Dialects, and libraries loaded from where boards and Python packages have them.
"""

import ctypes
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FOLDERS = ("/usr/local/cuda/lib64", "/usr/lib/aarch64-linux-gnu/tegra")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one library calls things."""

    files: tuple[str, ...]
    prefix: str
    malloc: str
    free: str
    host_malloc: str
    host_free: str
    stream: str
    event: str
    begin_capture: str
    copies_say_direction: bool


RUNTIME = Dialect(
    files=("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so"),
    prefix="cuda", malloc="Malloc", free="Free", host_malloc="HostAlloc", host_free="FreeHost",
    stream="StreamCreateWithFlags", event="EventCreateWithFlags",
    begin_capture="StreamBeginCapture", copies_say_direction=True,
)  # fmt: skip
DRIVER = Dialect(
    files=("libcuda.so.1",),
    prefix="cu", malloc="MemAlloc_v2", free="MemFree_v2", host_malloc="MemHostAlloc",
    host_free="MemFreeHost", stream="StreamCreate", event="EventCreate",
    begin_capture="StreamBeginCapture_v2", copies_say_direction=False,
)  # fmt: skip


def load_library(file: str) -> Any:
    """The shared library, or None; also from where NVIDIA's Python packages have it."""
    folders = [Path(path) for path in _FOLDERS]
    for entry in sys.path:
        with suppress(OSError):  # nvidia/cuda_runtime/lib, nvidia/cu13/lib
            folders += sorted((Path(entry) / "nvidia").glob("cu*/lib"))
    for name in (file, *(str(folder / file) for folder in folders)):
        with suppress(OSError):
            return ctypes.CDLL(name)
    return None
