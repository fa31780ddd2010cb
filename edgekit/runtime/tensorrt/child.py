"""The process that imports TensorRT, finds or builds one engine, and runs it once.

``python -m edgekit.runtime.tensorrt.child`` with an EngineJob on its standard input, which stays
open: when it closes, whoever wanted the engine is gone, and so is this process.
Apart, because a build takes minutes and gigabytes, may have to be killed, and a TensorRT that does
not fit the board may take its process with it.
"""

import ctypes
import hashlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from edgekit.errors import DeviceError, EdgeKitError
from edgekit.runtime.session import random_inputs
from edgekit.runtime.tensorrt.build import build_engine
from edgekit.runtime.tensorrt.cache import EngineCache, EngineFile
from edgekit.runtime.tensorrt.cuda import OpenCuda, open_cuda
from edgekit.runtime.tensorrt.facts import EngineFacts, engine_key, facts_of
from edgekit.runtime.tensorrt.library import Library, find_library
from edgekit.runtime.tensorrt.report import EngineJob, EngineReport
from edgekit.runtime.tensorrt.session import TensorRtSession
from edgekit.spec.base import parse_json, to_json
from edgekit.spec.tensors import TensorSpec

_NICENESS = 10
_FIRST_TO_GO = "900"
"""Of -1000..1000: how gladly the kernel kills this process when memory is out."""
_REHEARSALS = 3
"""The third is the one with the CUDA graph."""
_STEP_SHARE = 0.01
_PR_SET_PDEATHSIG = 1

Say = Callable[[EngineReport], None]


def obtain(job: EngineJob, say: Say, *, make_cuda: OpenCuda = open_cuda) -> EngineFile:
    """Find or build the engine of ``job``, in this process, and run it once.

    Raises: DeviceError, ModelError.
    """
    library = find_library(job.libraries)
    facts = _facts(library, job, make_cuda)
    say(EngineReport(step="found", text=library.label))
    _check_digest(job)
    cache, key = EngineCache(Path(job.folder)), engine_key(job.recipe, facts)
    file = cache.find(key)
    if file is not None:
        try:
            _rehearse(job, file, cache, say, make_cuda)
        except DeviceError:
            cache.remove(key)  # whole, and yet it does not run: once more from the beginning
        else:
            return file
    say(EngineReport(step="building", text=library.label))
    built = build_engine(
        library,
        Path(job.onnx),
        job.recipe,
        target=job.target,
        timing_cache=cache.timing_cache(facts),
        on_progress=_teller(say),
    )
    cache.keep_timing_cache(facts, built.timing_cache)
    sha256 = job.recipe.shard_sha256
    file = cache.add(key, built.engine, shard_sha256=sha256, facts=facts, build_s=built.build_s)
    try:
        _rehearse(job, file, cache, say, make_cuda)
    except DeviceError:
        cache.remove(key)
        raise
    return file


def _facts(library: Library, job: EngineJob, make_cuda: OpenCuda) -> EngineFacts:
    """Of the GPU that is here, or of the one to build for."""
    if job.target:
        return facts_of(library.name, library.label, capability=job.target, driver="")
    cuda = make_cuda()
    try:
        with cuda.current():
            capability, driver = cuda.capability(), cuda.driver()
    finally:
        cuda.close()
    return facts_of(library.name, library.label, capability=capability, driver=driver)


def _check_digest(job: EngineJob) -> None:
    try:
        digest = hashlib.sha256(Path(job.onnx).read_bytes()).hexdigest()
    except OSError as error:
        raise DeviceError(
            f"cannot read the shard {job.onnx}: {error.strerror}", hint="deploy the bundle again"
        ) from None
    if digest != job.recipe.shard_sha256:
        raise DeviceError(
            f"the recipe is for another shard than {job.onnx}", hint="build the bundle again"
        )


def _rehearse(
    job: EngineJob, file: EngineFile, cache: EngineCache, say: Say, make_cuda: OpenCuda
) -> None:
    """Load it and run it; keep the kernels that were compiled for that."""
    if not job.rehearse:
        return
    say(EngineReport(step="rehearsing", text=file.facts.library))
    session = TensorRtSession.open(file, make_cuda=make_cuda)
    try:
        usual = {one.name: one.usual for one in job.recipe.shapes}
        specs = tuple(
            TensorSpec(name=spec.name, dtype=spec.dtype, shape=usual.get(spec.name, spec.shape))
            for spec in session.inputs
        )
        for seed in range(_REHEARSALS):
            session.run(random_inputs(specs, seed=seed))
        cache.keep_jit(file, session.jit())
    finally:
        session.close()


def _teller(say: Say) -> Callable[[str, float], None]:
    """Tell of progress when there is some to see: builds have thousands of steps."""
    told, lock = [-1.0], threading.Lock()

    def tell(text: str, share: float) -> None:
        with lock:
            if share >= told[0] + _STEP_SHARE or (share >= 1.0 > told[0]):
                told[0] = share
                say(EngineReport(step="building", text=text, share=round(share, 3)))

    return tell


def main() -> int:
    """Returns: 0, or the exit code of the error that was reported."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever TensorRT prints must not be taken for reports
    line = sys.stdin.buffer.readline()
    _end_with_parent(sys.stdin.buffer)
    _step_back()
    lock = threading.Lock()

    def say(report: EngineReport) -> None:
        with lock, suppress(BrokenPipeError):
            out.write(to_json(report, indent=0) + b"\n")
            out.flush()

    try:
        file = obtain(parse_json(line, EngineJob, origin="the engine job"), say)
    except EdgeKitError as error:
        say(EngineReport(step="failed", problem=error.what, hint=error.hint))
        return error.exit_code
    except OSError as error:
        hint = "look at the disk and the memory of this board"
        say(EngineReport(step="failed", problem=str(error.strerror or error), hint=hint))
        return DeviceError.exit_code
    say(EngineReport(step="done", file=file))
    return 0


def _step_back() -> None:
    """Whoever serves meanwhile comes first: with the processor, and when memory is out."""
    with suppress(OSError):
        os.nice(_NICENESS)
    with suppress(OSError):  # Linux alone
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)


def _end_with_parent(stdin: BinaryIO) -> None:
    """When the standard input closes; also in the middle of a call that never comes back."""
    with suppress(OSError, AttributeError):  # Linux alone
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while stdin.read(1):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # CUDA's own ending may hang or crash, and there is nothing left to do
