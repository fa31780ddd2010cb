"""What a profiler or a doctor asks of TensorRT, in one call each.

In: nothing, or an ONNX file of static shapes.  Out: names, reasons in words, a ready session.
These import TensorRT into the calling process: not for agents, which ask ``obtain_engine``.
"""

import hashlib
from pathlib import Path

from edgekit.errors import DeviceError
from edgekit.runtime.tensorrt.build import build_engine
from edgekit.runtime.tensorrt.cache import EngineCache
from edgekit.runtime.tensorrt.cuda import open_cuda
from edgekit.runtime.tensorrt.facts import engine_key, facts_of
from edgekit.runtime.tensorrt.library import find_library
from edgekit.runtime.tensorrt.session import TensorRtSession
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.profile import Precision

_WORKSPACE_BYTES = 1 << 30


def native_name() -> str:
    """Of the TensorRT that is here, "TensorRT 10.3.0"; empty if none can be imported."""
    try:
        return find_library().label
    except DeviceError:
        return ""


def missing_reason() -> str:
    """Why no engine can be built and run here, in words; empty if one can."""
    try:
        find_library()
        open_cuda().close()
    except DeviceError as error:
        return error.what
    return ""


def static_recipe(
    path: Path, *, precision: Precision = "fp32", tf32: bool = False, timeout_s: float = 900.0
) -> EngineRecipe:
    """A recipe for an ONNX file without free dimensions, outside of any bundle."""
    return EngineRecipe(
        shard=path.name,
        shard_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        precision=precision,
        tf32=tf32,
        shapes=(),
        workspace_bytes=_WORKSPACE_BYTES,
        timeout_s=timeout_s,
    )


def open_session(
    path: Path,
    *,
    cache: Path | None = None,
    tf32: bool = False,
    precision: Precision = "fp32",
    use_graph: bool = True,
) -> TensorRtSession:
    """Build the engine of an ONNX file of static shapes, or find it in ``cache``; in this process.

    ``precision`` matters before TensorRT 10 only, where half precision must be allowed.
    Raises: DeviceError, ModelError.
    """
    library, cuda = find_library(), open_cuda()
    try:
        recipe = static_recipe(path, precision=precision, tf32=tf32)
        with cuda.current():
            facts = facts_of(
                library.name, library.label, capability=cuda.capability(), driver=cuda.driver()
            )
        store, key = EngineCache(cache) if cache is not None else None, engine_key(recipe, facts)
        file = store.find(key) if store is not None else None
        if file is not None:
            engine = Path(file.path).read_bytes()
        else:
            timing = store.timing_cache(facts) if store is not None else b""
            built = build_engine(library, path, recipe, timing_cache=timing)
            engine = built.engine
            if store is not None:
                store.keep_timing_cache(facts, built.timing_cache)
                sha256, build_s = recipe.shard_sha256, built.build_s
                store.add(key, engine, shard_sha256=sha256, facts=facts, build_s=build_s)
        return TensorRtSession(library, engine, cuda=cuda, use_graph=use_graph)
    except BaseException:
        cuda.close()
        raise
