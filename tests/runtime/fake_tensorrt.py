"""TensorRTs that are not there: modules with the interface of one version each, and no GPU.

"ONNX" files are JSON: inputs and outputs as [name, dtype, shape], a factor by which the first input
becomes every output, and nodes that are refused. Engines are JSON as well, with what they were
built with, so that tests can look. ``TensorRT``'s names and return values are as in its manuals.
"""

import hashlib
import json
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from edgekit.runtime.tensorrt.cuda import array_at
from edgekit.runtime.tensorrt.cuda_fake import FakeCuda
from edgekit.spec.engine import EngineRecipe, ShapeRange

DTYPES = {"float32": "FLOAT", "float16": "HALF", "int8": "INT8", "uint8": "UINT8", "bf16": "BF16"}
GENERATIONS: dict[str, dict[str, Any]] = {
    "8.5.2": {"network": ("EXPLICIT_BATCH",), "flags": ("FP16", "INT8", "GPU_FALLBACK")},
    "8.6.1": {
        "network": ("EXPLICIT_BATCH",), "flags": ("FP16", "INT8", "GPU_FALLBACK"), "level": 1,
    },
    "10.3.0": {
        "network": ("EXPLICIT_BATCH", "STRONGLY_TYPED"), "flags": ("FP16", "INT8", "GPU_FALLBACK"),
        "level": 1, "monitor": 1,
    },
    "11.4.0": {"network": ("STRONGLY_TYPED",), "flags": (), "level": 1, "monitor": 1},
    "rtx": {"network": ("STRONGLY_TYPED",), "flags": (), "level": 1, "monitor": 1, "jit": 1},
}  # fmt: skip


def write_model(path: Path, *, factor: float = 2.0, **more: Any) -> Path:
    """A shard for the fakes: images float32[1x3] -> out float32[1x3]."""
    model = {
        "inputs": [["images", "float32", [1, 3]]], "outputs": [["out", "float32", [1, 3]]],
        "factor": factor, "refused": [], "fails": "", **more,
    }  # fmt: skip
    path.write_text(json.dumps(model))
    return path


def recipe_of(path: Path, **more: Any) -> EngineRecipe:
    """For a file made by ``write_model``."""
    fields: dict[str, Any] = {
        "shard": "shards/shard-0.onnx", "precision": "fp32", "workspace_bytes": 1 << 20,
        "shard_sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "golden": "golden/x.npz",
        "shapes": (ShapeRange(name="images", least=(1, 3), usual=(1, 3), most=(1, 3)),),
    }  # fmt: skip
    return EngineRecipe(**{**fields, **more})


def numbered(name: str, members: tuple[str, ...]) -> Any:
    return IntEnum(name, {member: index for index, member in enumerate(members)})


class FakeTensorRt(SimpleNamespace):
    """One version's module. ``said`` goes to the logger before a failure."""

    def __init__(self, version: str, cuda: FakeCuda | None = None) -> None:
        can = GENERATIONS[version]
        flags = (*can["flags"], "TF32")
        super().__init__(
            __version__="1.7.1" if version == "rtx" else version, can=can,
            cuda=cuda or FakeCuda(), dla_count=0, built_count=0, last_config=None, said="",
            NetworkDefinitionCreationFlag=numbered("Network", can["network"]),
            BuilderFlag=numbered("Flag", flags),
            MemoryPoolType=numbered("Pool", ("WORKSPACE", "DLA_MANAGED_SRAM")),
            DataType=numbered("DataType", tuple(DTYPES.values())),
            DeviceType=numbered("Device", ("GPU", "DLA")),
            TensorIOMode=numbered("Mode", ("NONE", "INPUT", "OUTPUT")),
            IExecutionContext=Context, ILogger=Logger,
            Builder=lambda logger: Builder(self, logger), OnnxParser=Parser,
            Runtime=lambda logger: Runtime(self, logger),
        )  # fmt: skip
        if "monitor" in can:
            self.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})

    def fail(self, logger: Any, text: str) -> None:
        logger.log(Logger.ERROR, text)


class Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Builder:
    def __init__(self, module: Any, logger: Any) -> None:
        self.module, self.logger, self.num_DLA_cores = module, logger, module.dla_count

    def create_network(self, flags: int) -> Any:
        return SimpleNamespace(
            flags=flags, model=None, get_input=self._input, num_inputs=1, num_outputs=1
        )

    def _input(self, index: int) -> Any:
        name, _dtype, shape = self.model["inputs"][index]
        return SimpleNamespace(name=name, shape=tuple(shape))

    def create_builder_config(self) -> Any:
        self.module.last_config = Config(self.module)
        return self.module.last_config

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, Any] = {}
        return SimpleNamespace(
            shapes=shapes, set_shape=lambda name, *three: shapes.update({name: three})
        )

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        self.module.built_count += 1
        if monitor := getattr(config, "progress_monitor", None):
            monitor.phase_start("Building engine", None, 4)
            for step in range(4):
                monitor.step_complete("Building engine", step)
            monitor.phase_finish("Building engine")
        if network.model["fails"]:
            self.module.fail(self.logger, network.model["fails"])
            return None
        profile = config.profiles[0].shapes if config.profiles else {}
        return json.dumps({**network.model, "flags": network.flags, "profile": profile}).encode()


class Config:
    def __init__(self, module: Any) -> None:
        self.flags, self.pools, self.profiles, self.timing = {"TF32"}, {}, [], b""
        if "level" in module.can:
            self.builder_optimization_level = 3
        self._flag = module.BuilderFlag

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, count_bytes: int) -> None:
        self.pools[pool.name] = count_bytes

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return 0

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(data=data, serialize=lambda: data + b"+") if data != b"bad" else None

    def set_timing_cache(self, cache: Any, _ignore_mismatch: bool) -> bool:
        self.timing = cache.data
        return True


class Parser:
    def __init__(self, network: Any, logger: Any) -> None:
        self.network, self.refused = network, []

    def parse_from_file(self, path: str) -> bool:
        model = json.loads(Path(path).read_text())
        self.network.model, self.refused = model, model["refused"]
        self.network.get_input.__self__.model = model
        self.network.num_inputs = len(model["inputs"])
        return not self.refused

    @property
    def num_errors(self) -> int:
        return len(self.refused)

    def get_error(self, index: int) -> Any:
        operator, node, reason = self.refused[index]
        return SimpleNamespace(
            node_operator=lambda: operator, node_name=lambda: node, desc=lambda: reason
        )


class Runtime:
    def __init__(self, module: Any, logger: Any) -> None:
        self.module, self.logger = module, logger

    def deserialize_cuda_engine(self, data: bytes) -> Any:
        try:
            return Engine(self.module, self.logger, json.loads(data))
        except ValueError:
            self.module.fail(self.logger, "magic tag does not match")
            return None


class Engine:
    def __init__(self, module: Any, logger: Any, model: dict[str, Any]) -> None:
        self.module, self.logger, self.model = module, logger, model
        self.tensors = {
            name: (dtype, tuple(shape), mode)
            for mode, kind in ((1, "inputs"), (2, "outputs"))
            for name, dtype, shape in model[kind]
        }
        self.num_io_tensors = len(self.tensors)
        if "jit" in module.can:
            self.create_runtime_config = lambda: SimpleNamespace(
                create_runtime_cache=lambda: SimpleNamespace(
                    deserialize=lambda data: data == b"jit", serialize=lambda: b"jit"
                ),
                set_runtime_cache=lambda cache: None,
            )

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.module.TensorIOMode(self.tensors[name][2])

    def get_tensor_dtype(self, name: str) -> Any:
        return self.module.DataType[DTYPES[self.tensors[name][0]]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][1]

    def get_tensor_profile_shape(self, name: str, _profile: int) -> Any:
        return self.model["profile"][name]

    def create_execution_context(self, _config: Any = None) -> Any:
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.addresses = engine, {}
        self.shapes = {name: shape for name, (_, shape, _) in engine.tensors.items()}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        for other, (_, declared, mode) in self.engine.tensors.items():
            if mode == 2 and -1 in declared:
                self.shapes[other] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        engine = self.engine
        if engine.model.get("breaks"):
            engine.module.fail(engine.logger, engine.model["breaks"])
            return False
        engine.module.cuda.do(self._compute)
        return True

    def _compute(self) -> None:
        first = self._array(next(iter(self.engine.tensors))).astype(np.float64)
        for name, (_, _, mode) in self.engine.tensors.items():
            if mode == 2:
                out = self._array(name)
                made = first * self.engine.model["factor"]
                out[...] = (made if made.shape == out.shape else made.mean()).astype(out.dtype)

    def _array(self, name: str) -> np.ndarray:
        dtype, shape = np.dtype(self.engine.tensors[name][0]), self.shapes[name]
        count_bytes = int(np.prod(shape)) * dtype.itemsize
        return array_at(self.addresses[name], count_bytes).view(dtype).reshape(shape)
