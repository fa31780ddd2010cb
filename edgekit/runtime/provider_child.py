"""A process of its own that computes one convolution under one provider, or by TensorRT itself.

In:  the name of a provider as argument.  Out: one JSON object on standard output: ``{"starts":
true}``, or ``{"starts": false, "reason": ...}``.  Started by ``runtime.provider_check``.
"""

import base64
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgekit.errors import DeviceError, EdgeKitError
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.provider_names import NATIVE
from edgekit.runtime.session import Session
from edgekit.runtime.tensorrt.probe import open_session

PROBE = base64.b64decode(
    "CAgSB2VkZ2VraXQ6pgEKEgoBeAoBdxIBeRoBeSIEQ29udhIFcHJvYmUqTwgECAQIAQgBEAFCAXdKQAAAgL8AAGC/AABA"
    "vwAAIL8AAAC/AADAvgAAgL4AAAC+AAAAAAAAAD4AAIA+AADAPgAAAD8AACA/AABAPwAAYD9aGwoBeBIWChQIARIQCgII"
    "AQoCCAQKAggICgIICGIbCgF5EhYKFAgBEhAKAggBCgIIBAoCCAgKAggIQgIQEQ=="
)
"""An ONNX file as ``profiler.onnx_writer`` writes it: y = Conv(x), x and y float32 1x4x8x8, weights
(index - 8) / 8 of shape 4x4x1x1. A test makes it again."""
_LARGEST_ERROR = 2e-2
"""A GPU may round the factors to 11 bits."""


def prove(provider: str) -> None:
    """Compute, and compare with the sum written out.

    Raises: EdgeKitError subclasses if the provider does not start, or computes something else.
    """
    inputs = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 4, 8, 8)
    weights = (np.arange(16, dtype=np.float32).reshape(4, 4) - 8) / 8
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "probe.onnx"
        path.write_bytes(PROBE)
        session = _opened(path, provider)
        result = session.run({"x": inputs})["y"]
    error = float(np.abs(result - np.einsum("oc,nchw->nohw", weights, inputs)).max())
    if not error <= _LARGEST_ERROR:
        raise DeviceError(
            f"the provider {provider} computes wrong numbers: off by {error:.3g}",
            hint="use the provider cpu, and update onnxruntime or the driver",
        )


def _opened(path: Path, provider: str) -> Session:
    if provider != NATIVE:
        return OrtSession(path, provider=provider, cache=path.parent)
    return open_session(path, cache=path.parent)


def main(provider: str) -> int:
    """Print the answer; 0 if the provider works."""
    try:
        prove(provider)
    except EdgeKitError as error:
        sys.stdout.write(json.dumps({"starts": False, "reason": error.what}) + "\n")
        return 1
    sys.stdout.write(json.dumps({"starts": True}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
