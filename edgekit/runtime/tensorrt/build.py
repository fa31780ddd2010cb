"""Build an engine: one path for TensorRT 8.5 to 11 and TensorRT-RTX.

In: a Library, an ONNX file and its recipe.  Out: the bytes of the engine, and the timing cache.
Blocks for seconds to many minutes and may end the process with it: agents do this in a child.

Precision is that of the ONNX file (half weights, or Q/DQ pairs) wherever the network can be told
so (STRONGLY_TYPED). Where it cannot (8.x, and DLAs), the flags of the recipe's precision are set.
"""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import DeviceError
from edgekit.runtime.tensorrt.library import Library
from edgekit.runtime.tensorrt.network import Parsed, parse_onnx
from edgekit.runtime.tensorrt.progress import OnProgress, make_monitor
from edgekit.spec.engine import EngineRecipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An engine, not yet on disk."""

    engine: bytes
    timing_cache: bytes
    """To make the next build faster; empty where this TensorRT keeps none."""
    build_s: float


def build_engine(
    library: Library,
    path: Path,
    recipe: EngineRecipe,
    *,
    target: str = "",
    timing_cache: bytes = b"",
    on_progress: OnProgress = lambda text, share: None,
) -> Built:
    """Build ``path`` as ``recipe`` says, for the GPU that is here or for a ``target`` ("8.9").

    Raises: ModelError naming operators that TensorRT refuses; DeviceError if the build fails.
    """
    began_s = time.perf_counter()
    with _quiet():
        use_dla = recipe.dla_core >= 0 and library.has_precision_flags
        parsed = parse_onnx(library, path, strong=not use_dla)
        config = parsed.builder.create_builder_config()
        _limit(library, config, recipe)
        _allow_precision(library, config, recipe, strong=not use_dla)
        _place_on_dla(library, parsed.builder, config, recipe)
        _set_profile(parsed, config, recipe)
        _aim(library, config, target)
        cache = _give_timing_cache(config, timing_cache)
        monitor = make_monitor(library, on_progress)
        if monitor is not None:
            config.progress_monitor = monitor
        plan = parsed.builder.build_serialized_network(parsed.network, config)
        if plan is None:
            raise DeviceError(
                f"{library.label} built no engine: {parsed.messages.last() or 'without a reason'}",
                hint="give it more workspace in the recipe, or run this shard with ONNX Runtime",
            )
        return Built(
            engine=bytes(plan),
            timing_cache=bytes(memoryview(cache.serialize())) if cache is not None else b"",
            build_s=time.perf_counter() - began_s,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Each version deprecates what another needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _limit(library: Library, config: Any, recipe: EngineRecipe) -> None:
    pools = library.module.MemoryPoolType
    config.set_memory_pool_limit(pools.WORKSPACE, recipe.workspace_bytes)
    if hasattr(config, "builder_optimization_level"):  # since 8.6
        config.builder_optimization_level = recipe.optimization_level


def _allow_precision(library: Library, config: Any, recipe: EngineRecipe, *, strong: bool) -> None:
    flags = library.module.BuilderFlag
    if hasattr(flags, "TF32"):
        (config.set_flag if recipe.tf32 else config.clear_flag)(flags.TF32)
    if not library.has_precision_flags or (strong and library.has_strong_types):
        return
    if recipe.precision == "fp16" or recipe.dla_core >= 0:  # no DLA computes in fp32
        config.set_flag(flags.FP16)
    if recipe.precision == "int8":
        config.set_flag(flags.INT8)


def _place_on_dla(library: Library, builder: Any, config: Any, recipe: EngineRecipe) -> None:
    """On the accelerator if the board has it; what it cannot do goes to the GPU."""
    if recipe.dla_core < 0 or not library.has_precision_flags:
        return
    count = int(getattr(builder, "num_DLA_cores", 0))
    if recipe.dla_core >= count:
        logger.warning("DLA %d was asked for, this board has %d: GPU", recipe.dla_core, count)
        return
    config.default_device_type = library.module.DeviceType.DLA
    config.DLA_core = recipe.dla_core
    config.set_flag(library.module.BuilderFlag.GPU_FALLBACK)


def _set_profile(parsed: Parsed, config: Any, recipe: EngineRecipe) -> None:
    """Shapes of the inputs that have free dimensions."""
    ranges = {one.name: one for one in recipe.shapes}
    profile, is_needed = parsed.builder.create_optimization_profile(), False
    for index in range(parsed.network.num_inputs):
        tensor = parsed.network.get_input(index)
        if all(dim >= 0 for dim in tuple(tensor.shape)):
            continue
        shapes = ranges.get(tensor.name)
        if shapes is None:
            raise DeviceError(
                f"input {tensor.name!r} has free dimensions, {tuple(tensor.shape)}, and the recipe "
                "no shapes for it",
                hint="build the bundle again",
            )
        profile.set_shape(tensor.name, shapes.least, shapes.usual, shapes.most)
        is_needed = True
    if is_needed:
        config.add_optimization_profile(profile)


def _aim(library: Library, config: Any, target: str) -> None:
    """Build for a GPU that is not here."""
    if not target:
        return
    if target not in library.targets():
        raise DeviceError(
            f"{library.label} cannot build for compute capability {target} from elsewhere",
            hint=f"choose of {', '.join(library.targets()) or 'none'}, or build on that board",
        )
    kind = getattr(library.module.ComputeCapability, "SM" + target.replace(".", ""))
    config.num_compute_capabilities = 1
    config.set_compute_capability(kind, 0)


def _give_timing_cache(config: Any, data: bytes) -> Any:
    """The cache that this build uses and fills; None where there is no such thing.

    One that does not fit (other GPU, damaged) is refused by TensorRT and begun anew.
    """
    if not hasattr(config, "create_timing_cache"):
        return None
    for content in (data, b"") if data else (b"",):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None
