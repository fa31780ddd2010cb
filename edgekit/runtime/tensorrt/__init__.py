"""Run one shard with TensorRT: an engine built on the board by a process of its own, and cached.

Importing this imports neither TensorRT nor CUDA.
"""

from edgekit.runtime.tensorrt.build import Built, build_engine
from edgekit.runtime.tensorrt.cache import EngineCache, EngineFile
from edgekit.runtime.tensorrt.cuda import Cuda, open_cuda
from edgekit.runtime.tensorrt.library import Library, find_library
from edgekit.runtime.tensorrt.network import Refusal, refusals_of
from edgekit.runtime.tensorrt.process import obtain_engine
from edgekit.runtime.tensorrt.report import EngineJob, EngineReport
from edgekit.runtime.tensorrt.session import TensorRtSession

__all__ = [
    "Built",
    "Cuda",
    "EngineCache",
    "EngineFile",
    "EngineJob",
    "EngineReport",
    "Library",
    "Refusal",
    "TensorRtSession",
    "build_engine",
    "find_library",
    "obtain_engine",
    "open_cuda",
    "refusals_of",
]
