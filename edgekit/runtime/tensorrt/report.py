"""What goes between an agent and the process that builds its engine: JSON, one line each.

In: an EngineJob, on the standard input of the child.  Out: EngineReports on its standard output.
"""

from typing import Literal

from edgekit.runtime.tensorrt.cache import EngineFile
from edgekit.runtime.tensorrt.library import LIBRARIES
from edgekit.spec.base import Spec
from edgekit.spec.engine import EngineRecipe


class EngineJob(Spec, frozen=True, kw_only=True):
    """One engine to build, or to find."""

    onnx: str
    """Path of the shard."""
    recipe: EngineRecipe
    folder: str
    """Of the cache."""
    target: str = ""
    """Compute capability to build for; empty: that of the GPU that is here."""
    rehearse: bool = True
    """Whether it must run once, in the child, before anybody else loads it."""
    libraries: tuple[str, ...] = LIBRARIES


class EngineReport(Spec, frozen=True, kw_only=True):
    """How far it is."""

    step: Literal["found", "building", "rehearsing", "done", "failed"]
    text: str = ""
    """found: the library; building: what is being done."""
    share: float | None = None
    """Of the build, 0..1; None where TensorRT does not tell."""
    file: EngineFile | None = None
    """When done."""
    problem: str = ""
    hint: str = ""
    """When failed."""
