"""A process of its own that loads one model, runs it, and says how much memory that took.

In:  the path of an ONNX file and a number of threads as arguments.  Out: one JSON object on
standard output: ``{"peak_bytes": ...}``, over the process with the runtime and numpy loaded.
Started by ``profiler.memory``; the results of a run stay alive during the next, as in an agent.
"""

import json
import sys
from pathlib import Path

import numpy as np

from edgekit.errors import DeviceError
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import random_inputs
from edgekit.spec.tensors import TensorSpec

_RUN_COUNT = 6
"""The runtime plans its buffers after the first run, and settles within a few."""
_STATUS = Path("/proc/self/status")


def resident_bytes(status: str) -> tuple[int, int]:
    """Resident bytes now, and at most so far, from the text of /proc/self/status.

    Raises: DeviceError where the system does not tell.
    """
    found = {}
    for line in status.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if name in ("VmRSS", "VmHWM") and len(words) == 2 and words[0].isdigit():
            found[name] = int(words[0]) * 1024
    if len(found) != 2:
        raise DeviceError(
            "this system does not say how much memory a process takes",
            hint="profile on Linux with /proc mounted",
        )
    return found["VmRSS"], found["VmHWM"]


def peak_increment_bytes(path: Path, *, threads: int, run_count: int = _RUN_COUNT) -> int:
    """Most that loading and running the model added to this process.

    Raises: ModelError if the runtime refuses the model, DeviceError without /proc.
    """
    # Loads what the first random input would, so that it does not count for the session.
    random_inputs((TensorSpec(name="x", dtype="float32", shape=(1,)),))
    np.ones((16, 16)) @ np.ones((16, 16))
    before_bytes, _ = resident_bytes(_STATUS.read_text())
    session = OrtSession(path, threads=threads)
    inputs = random_inputs(session.inputs)
    kept = None
    for _ in range(run_count):
        kept = session.run(inputs)
    _, peak_bytes = resident_bytes(_STATUS.read_text())
    del kept
    return max(0, peak_bytes - before_bytes)


if __name__ == "__main__":
    found_bytes = peak_increment_bytes(Path(sys.argv[1]), threads=int(sys.argv[2]))
    sys.stdout.write(json.dumps({"peak_bytes": found_bytes}) + "\n")
