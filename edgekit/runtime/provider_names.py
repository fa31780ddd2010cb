"""Names of providers, what brings each of them, and where engines are kept.

Pure values: imports neither ONNX Runtime nor numpy, so that a check-up can use it where they are
broken.
"""

import os
from pathlib import Path

NATIVE = "tensorrt"
"""The provider of devices whose shards TensorRT runs itself."""
ORT_NAMES = {
    "cpu": "CPUExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt-ep": "TensorrtExecutionProvider",
    "tensorrt-rtx-ep": "NvTensorRTRTXExecutionProvider",
}
"""ONNX Runtime's names of the execution providers, by ours."""
INSTALL = {
    "xnnpack": "build onnxruntime with --use_xnnpack: no published wheel has it",
    "cuda": "run `pip uninstall onnxruntime` and `pip install 'onnxruntime-gpu[cuda,cudnn]'` "
    "(on a Jetson the wheel made for its JetPack), or use cpu",
    "tensorrt-ep": "run `pip uninstall onnxruntime` and `pip install onnxruntime-gpu` (on a Jetson "
    "the wheel made for its JetPack) beside TensorRT 10, or use cpu",
    "tensorrt-rtx-ep": "run `pip install 'edgekit[tensorrt-rtx-ep]'`, which suits RTX 30xx "
    "and later, or use cpu",
}
"""What brings a provider that is not there."""


def engine_cache() -> Path:
    """Where providers that build engines keep them, unless told: ``~/.cache/edgekit/engines``."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if Path(configured).is_absolute() else Path.home() / ".cache"
    return base / "edgekit" / "engines"
