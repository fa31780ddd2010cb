"""Look at everything: one list of findings, in the order a reader wants them.

In:  a Host and the folder that the agent would fill.  Out: Findings.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgekit.profiler.checkup import board, gpu, software
from edgekit.profiler.checkup.finding import Finding
from edgekit.profiler.checkup.host import Host

_AT_ONCE = 4
"""Probes that wait for processes of their own."""
Probe = Callable[[Host], Finding | list[Finding]]
_PROBES: tuple[Probe, ...] = (
    software.check_python,
    software.check_numpy,
    software.check_onnxruntime,
    software.check_providers,
    gpu.check_gpu,
    gpu.check_jetpack,
    gpu.check_tensorrt,
    gpu.check_buffers,
    software.check_opencv,
    board.check_cameras,
    software.check_codecs,
    board.check_broker,
    board.check_memory,
    board.check_conditions,
    board.check_clock,
)


def examine(host: Host, *, folder: Path) -> tuple[Finding, ...]:
    """Every finding; a few seconds, most of them in the processes that libraries are tried in."""
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        answers = list(pool.map(lambda probe: probe(host), _PROBES))
    found = [
        one for answer in answers for one in (answer if isinstance(answer, list) else [answer])
    ]
    return (*found, board.check_disk(host, folder))
