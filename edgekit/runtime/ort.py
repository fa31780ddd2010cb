"""Run one shard with ONNX Runtime, on the CPU unless told otherwise.

In: the path of an ONNX file (never its bytes: weights stay file-backed).  Out: a Session.
"""

import re
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edgekit.errors import ConfigError, DeviceError, ModelError
from edgekit.spec.agent_config import Optimization
from edgekit.spec.tensors import Array, TensorSpec

_LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
}
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""ONNX Runtime's names of the execution providers, by those that device profiles use."""


def available_providers() -> tuple[str, ...]:
    """Execution providers that this ONNX Runtime was built with, "cpu" first."""
    built = set(ort.get_available_providers())
    return tuple(name for name, long_name in _PROVIDERS.items() if long_name in built)


def provider_chain(provider: str) -> list[str]:
    """What ONNX Runtime is given: the provider, and the CPU for operators that it lacks.

    Raises: ConfigError if this ONNX Runtime does not have it.
    """
    if provider not in available_providers():
        raise ConfigError(
            f"onnxruntime {ort.__version__} here has no provider {provider!r}",
            hint=f"use {' or '.join(available_providers())}, or install a build that has it",
        )
    return list(dict.fromkeys((_PROVIDERS[provider], _PROVIDERS["cpu"])))


def runtime_name() -> str:
    """What runs shards here, as device profiles name it: "onnxruntime 1.31.1"."""
    return f"onnxruntime {ort.__version__}"


class OrtSession:
    """A shard in ONNX Runtime.

    ``optimization`` "extended" gives bit-equal splits; "all" (the default) is 1.3 to 1.8 times
    faster and within 1e-5, because its blocked layout adds in another order.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 1,
        optimization: Optimization = "all",
        provider: str = "cpu",
    ) -> None:
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}", hint="use 1")
        chain = provider_chain(provider)
        options = ort.SessionOptions()
        options.graph_optimization_level = _LEVELS[optimization]
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning burns a core between frames: 33 ms CPU per frame at 30 fps for 0.1 ms latency.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=chain)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises bare pybind errors
            raise _refusal(path, error) from None
        if self._session.get_providers()[0] != chain[0]:
            # ONNX Runtime only warns, and runs everything on the CPU.
            raise DeviceError(
                f"the provider {provider} does not start on this device",
                hint="install its driver and libraries, or use the provider cpu",
            )
        self._inputs = tuple(_spec(arg) for arg in self._session.get_inputs())
        self._outputs = tuple(_spec(arg) for arg in self._session.get_outputs())
        self._names = [spec.name for spec in self._outputs]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` must be given; a free dimension shows as 0."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` returns; a free dimension shows as 0."""
        return self._outputs

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """One inference. Raises: DeviceError if ONNX Runtime refuses the inputs or fails."""
        try:
            results = self._session.run(self._names, inputs)
        except Exception as error:  # noqa: BLE001 - as above
            shapes = {name: tuple(np.shape(value)) for name, value in inputs.items()}
            raise DeviceError(
                f"ONNX Runtime failed on inputs {shapes}: {_first_line(error)}",
                hint=f"feed {', '.join(map(str, self._inputs))}",
            ) from None
        return dict(zip(self._names, results, strict=True))


def _spec(arg: "ort.NodeArg") -> TensorSpec:
    dtype = _DTYPES.get(arg.type) or re.sub(r"tensor\((\w+)\)", r"\1", arg.type)
    shape = tuple(dim if isinstance(dim, int) else 0 for dim in arg.shape)
    return TensorSpec(name=arg.name, dtype=dtype, shape=shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]


def _refusal(path: Path, error: Exception) -> ModelError:
    """Name what ONNX Runtime refused: a missing file, a cut-off file, or an operator."""
    text = " ".join(str(error).split())
    if not path.is_file():
        return ModelError(f"there is no model file {path}", hint="check the path")
    operator = re.search(
        r"(?:No Op registered for|Could not find an implementation for) (\S+)", text
    )
    unregistered = re.search(r"(\S+) is not a registered function/op", text)
    match = operator or unregistered
    if match:
        return ModelError(
            f"{path.name} uses the operator {match[1]}, "
            f"which this ONNX Runtime {ort.__version__} cannot run",
            hint="export the model without it, or update onnxruntime on this device",
        )
    if "INVALID_PROTOBUF" in text or "protobuf parsing failed" in text.lower():
        return ModelError(
            f"{path.name} is not a whole ONNX file ({path.stat().st_size} bytes)",
            hint="copy or export it again",
        )
    return ModelError(
        f"ONNX Runtime {ort.__version__} refuses {path.name}: {text[:300]}",
        hint="update onnxruntime, or export the model again for opset 17",
    )
