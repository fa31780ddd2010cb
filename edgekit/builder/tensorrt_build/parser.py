"""What the TensorRT of this machine says of a shard, if there is one; no GPU is needed.

In:  a shard's file.  Out: who was asked, and what it refuses.
Asked in a process of its own: a TensorRT that does not fit its driver may end the process that
imports it, and that is no reason why a model cannot be built for a board where it fits.
"""

import logging
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from edgekit.builder.tensorrt_build.obstacles import ELSEWHERE, Obstacle
from edgekit.runtime.tensorrt.library import LIBRARIES
from edgekit.spec.base import Spec

logger = logging.getLogger(__name__)

_CHILD = "edgekit.builder.tensorrt_build.parser_child"
_TIMEOUT_S = 300.0
_UNKNOWN = ("", ())


class Verdict(Spec, frozen=True, kw_only=True):
    """What the child found: operator, node and reason of each refusal."""

    label: str
    refusals: tuple[tuple[str, str, str], ...]


def parser_obstacles(shard: bytes) -> tuple[str, tuple[Obstacle, ...]]:
    """The name of the TensorRT here and what it refuses; empty where there is none to be asked."""
    if not any(find_spec(name) for name in LIBRARIES):
        return _UNKNOWN
    with TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "shard.onnx"
        path.write_bytes(shard)
        try:
            child = subprocess.run(
                [sys.executable, "-m", _CHILD, str(path)],
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            logger.warning("TensorRT's parser gave no answer in %g s", _TIMEOUT_S)
            return _UNKNOWN
    try:
        verdict = msgspec.json.decode(child.stdout.splitlines()[-1], type=Verdict)
    except (msgspec.DecodeError, IndexError):
        said = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
        logger.warning("TensorRT's parser cannot be asked here: %s", *said or ["it said nothing"])
        return _UNKNOWN
    return verdict.label, tuple(
        Obstacle(operator=operator or "the file", node=node, why=why, hint=ELSEWHERE)
        for operator, node, why in verdict.refusals
    )
