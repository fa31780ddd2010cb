"""A graph in the runtime, and what it takes: bytes of its file, memory of a session.

In:  a graph, a function that measures memory (the profiler's, which this layer cannot import).
Out: a session, or bytes.  Writes temporary files.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx

from edgekit.builder.probe import to_bytes
from edgekit.runtime.ort import OrtSession
from edgekit.spec.agent_config import Optimization

MeasureBytes = Callable[[Path], int]
"""Most memory [bytes] that a session of a file takes."""


def session_of(proto: onnx.ModelProto, optimization: Optimization = "all") -> OrtSession:
    """``proto`` in the runtime, as devices run it. Raises: ModelError if that refuses it."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(to_bytes(proto))
        return OrtSession(path, optimization=optimization)


def measured_bytes(proto: onnx.ModelProto, measure: MeasureBytes | None) -> tuple[int, int | None]:
    """Bytes of the file of ``proto``, and most that a session of it takes; None if not measured."""
    data = to_bytes(proto)
    if measure is None:
        return len(data), None
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        return len(data), measure(path)
