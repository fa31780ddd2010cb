"""Run one shard as a TensorRT engine.

In: a deserialisable engine and a way to CUDA.  Out: a Session.  Tensors go by name; copies run
through pinned memory. Where all shapes are fixed the copies and the engine are recorded as one CUDA
graph after two plain runs, and launched as one from then on; where that fails they run one by one.
"""

import hashlib
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import DeviceError
from edgekit.runtime.tensorrt.cache import EngineFile
from edgekit.runtime.tensorrt.cuda import Cuda, open_cuda
from edgekit.runtime.tensorrt.library import Library, Messages, find_library
from edgekit.runtime.tensorrt.slot import Slot
from edgekit.spec.tensors import Array, TensorSpec

logger = logging.getLogger(__name__)

_PLAIN_RUNS = 2
"""Before recording: TensorRT settles what it does lazily."""
_HINT = "run this shard with ONNX Runtime and report the message"


class TensorRtSession:
    """An engine, loaded. Runs from any thread, one at a time."""

    def __init__(
        self,
        library: Library,
        engine: bytes,
        *,
        cuda: Cuda,
        use_graph: bool = True,
        jit: bytes = b"",
    ) -> None:
        self._library, self._cuda = library, cuda
        self._lock = threading.Lock()
        self._messages = Messages(library)
        self._graph: int | None = None
        self._run_count, self._is_open = 0, True
        self._jit: Any = None
        with cuda.current():
            runtime = library.module.Runtime(self._messages.logger)
            loaded = runtime.deserialize_cuda_engine(engine)
            if loaded is None:
                raise self._error("the engine cannot be loaded")
            self._runtime, self._engine = runtime, loaded
            self._context = self._make_context(jit)
            names = [loaded.get_tensor_name(at) for at in range(loaded.num_io_tensors)]
            is_input = {name: self._is_input(name) for name in names}
            largest = self._set_largest([name for name in names if is_input[name]])
            slots = {name: self._slot(name, largest) for name in names}
        self._ins = {name: slot for name, slot in slots.items() if is_input[name]}
        self._outs = {name: slot for name, slot in slots.items() if not is_input[name]}
        self._is_static = all(0 not in slot.spec.shape for slot in slots.values())
        self._may_record = use_graph and self._is_static

    @classmethod
    def open(
        cls, file: EngineFile, *, make_cuda: Callable[[], Cuda] = open_cuda
    ) -> "TensorRtSession":
        """Load an engine from the cache.

        Raises: DeviceError if there is no TensorRT or GPU, or the file changed meanwhile.
        """
        data = Path(file.path).read_bytes()
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise DeviceError("the engine changed on disk", hint="deploy again: it is rebuilt")
        library = find_library((file.facts.module,))
        jit = file.jit_path.read_bytes() if file.jit_path.is_file() else b""
        cuda = make_cuda()
        try:
            return cls(library, data, cuda=cuda, jit=jit)
        except BaseException:
            cuda.close()
            raise

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` must be given; a free dimension shows as 0."""
        return tuple(slot.spec for slot in self._ins.values())

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` returns; a free dimension shows as 0."""
        return tuple(slot.spec for slot in self._outs.values())

    @property
    def uses_graph(self) -> bool:
        """Whether runs are launched as one CUDA graph by now."""
        return self._graph is not None

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """One inference. Raises: DeviceError if inputs do not fit or the GPU fails."""
        with self._lock:
            if not self._is_open:
                raise DeviceError("the engine was closed", hint="deploy again")
            with self._cuda.current():
                self._take(inputs)
                if self._graph is not None:
                    self._cuda.launch(self._graph)
                else:
                    self._begin()
                self._cuda.wait()
                answers = {name: slot.view().copy() for name, slot in self._outs.items()}
                self._run_count += 1
                if self._may_record and self._run_count == _PLAIN_RUNS:
                    self._record()
            return answers

    def jit(self) -> bytes:
        """Kernels compiled at run time so far; empty where TensorRT keeps none."""
        return bytes(memoryview(self._jit.serialize())) if self._jit is not None else b""

    def close(self) -> None:
        """Give the GPU's memory back."""
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            with suppress(DeviceError), self._cuda.current():  # TensorRT frees its own there
                self._context = self._engine = self._runtime = self._jit = None
            self._cuda.close()

    # ---- at the start -----------------------------------------------------------------------

    def _make_context(self, jit: bytes) -> Any:
        make_config = getattr(self._engine, "create_runtime_config", None)
        config: Any = make_config() if make_config is not None else None
        if hasattr(config, "create_runtime_cache"):  # TensorRT-RTX
            self._jit = config.create_runtime_cache()
            if jit and not self._jit.deserialize(jit):
                logger.info("kernels compiled earlier do not fit, they are compiled again")
            config.set_runtime_cache(self._jit)
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise self._error("the engine does not start")
        return context

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._library.module.TensorIOMode.INPUT)

    def _set_largest(self, inputs: list[str]) -> dict[str, tuple[int, ...]]:
        """Give free inputs their largest shape, so that all outputs get theirs."""
        largest = {}
        for name in inputs:
            if min(tuple(self._engine.get_tensor_shape(name)), default=0) < 0:
                shape = tuple(self._engine.get_tensor_profile_shape(name, 0)[2])
                if not self._context.set_input_shape(name, shape):
                    raise self._error(f"input {name!r} does not take its largest shape {shape}")
                largest[name] = shape
        return largest

    def _slot(self, name: str, largest: dict[str, tuple[int, ...]]) -> Slot:
        declared = tuple(self._engine.get_tensor_shape(name))
        shape = largest.get(name, tuple(self._context.get_tensor_shape(name)))
        if min(shape, default=0) < 0:
            raise DeviceError(
                f"the shape of {name!r} depends on the data, {shape}", hint="use ONNX Runtime"
            )
        spec = TensorSpec(
            name=name,
            dtype=self._library.dtype_name(self._engine.get_tensor_dtype(name)),
            shape=tuple(max(0, dim) for dim in declared),
        )
        count_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
        slot = Slot(spec, self._cuda.host(count_bytes), self._cuda.device(count_bytes), shape)
        if not self._context.set_tensor_address(name, slot.address):
            raise self._error(f"tensor {name!r} takes no address")
        return slot

    # ---- at every run -----------------------------------------------------------------------

    def _take(self, inputs: dict[str, Array]) -> None:
        """Copy the inputs to pinned memory, and tell the engine of new shapes."""
        changed = False
        for name, slot in self._ins.items():
            array = inputs.get(name)
            if array is None or not slot.takes(array):
                got = "nothing" if array is None else f"{array.dtype.name}{array.shape}"
                raise DeviceError(f"TensorRT was given {got} for {slot.spec}", hint="feed that")
            if array.shape != slot.shape:
                if not self._context.set_input_shape(name, array.shape):
                    raise self._error(f"input {name!r} does not take the shape {array.shape}")
                slot.shape, changed = array.shape, True
            np.copyto(slot.view(), array)
        if changed:
            for name, slot in self._outs.items():
                slot.shape = tuple(self._context.get_tensor_shape(name))

    def _begin(self) -> None:
        """Copy, compute, copy back: nothing is waited for."""
        for slot in self._ins.values():
            self._cuda.to_device(slot.address, slot.part())
        if not self._context.execute_async_v3(self._cuda.stream):
            raise self._error("the engine fails")
        for slot in self._outs.values():
            self._cuda.to_host(slot.part(), slot.address)

    def _record(self) -> None:
        """As a graph if that can be: the CPU then begins one thing per frame, not hundreds."""
        capturable = getattr(self._context, "is_stream_capturable", None)
        try:
            if capturable is not None and not capturable(self._cuda.stream):
                raise DeviceError("TensorRT says this engine cannot be recorded", hint=_HINT)
            self._graph = self._cuda.capture(self._begin)
        except DeviceError as error:
            self._may_record = False
            logger.info("no CUDA graph, the engine runs without: %s", error)

    def _error(self, what: str) -> DeviceError:
        said = self._messages.last() or "TensorRT says no more"
        return DeviceError(f"{self._library.label}: {what}: {said}", hint=_HINT)
