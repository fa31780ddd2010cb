"""Run one shard with ONNX Runtime, on the CPU unless told otherwise.

In: the path of an ONNX file (never its bytes: weights stay file-backed).  Out: a Session.
"""

import re
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edgekit.errors import ConfigError, DeviceError, EdgeKitError, ModelError
from edgekit.runtime.provider_names import engine_cache
from edgekit.runtime.providers import (
    available_providers,
    make_ready,
    provider_chain,
    provider_options,
    session_with,
)
from edgekit.spec.agent_config import Optimization
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import Array, TensorSpec

__all__ = ["OrtSession", "available_providers", "provider_chain", "runtime_name"]
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


def runtime_name() -> str:
    """What runs shards here, as device profiles name it: "onnxruntime 1.31.1"."""
    return f"onnxruntime {ort.__version__}"


class OrtSession:
    """A shard in ONNX Runtime.

    ``optimization`` "extended" gives bit-equal splits; "all" (the default) is 1.3 to 1.8 times
    faster and within 1e-5, because its blocked layout adds in another order.
    ``provider`` is one of ``providers.ORT_NAMES``; those that build engines keep them in ``cache``,
    and ``precision`` tells them what the model asks for. ``tf32`` lets a GPU round products of
    fp32 to 11 bits.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 1,
        optimization: Optimization = "all",
        provider: str = "cpu",
        precision: Precision = "fp32",
        cache: Path | None = None,
        tf32: bool = False,
    ) -> None:
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}", hint="use 1")
        chain, cache = provider_chain(provider), cache or engine_cache()
        make_ready(provider, cache)
        options = ort.SessionOptions()
        options.graph_optimization_level = _LEVELS[optimization]
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning burns a core between frames: 33 ms CPU per frame at 30 fps for 0.1 ms latency.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings = provider_options(provider, cache=cache, precision=precision, tf32=tf32)
        try:
            self._session = session_with(path, options, chain, settings)
        except EdgeKitError:
            raise
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises bare pybind errors
            raise _refusal(path, error, provider) from None
        if chain[0] not in self._session.get_providers():
            # ONNX Runtime only warns, and runs everything on the CPU.
            raise _no_start(provider, "")
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


def _no_start(provider: str, reason: str) -> DeviceError:
    return DeviceError(
        f"the provider {provider} does not start on this device{reason and ': '}{reason}",
        hint="run `edgekit doctor` for what is missing, or use the provider cpu",
    )


def _refusal(path: Path, error: Exception, provider: str) -> ModelError | DeviceError:
    """Name what failed: a missing file, a cut-off file, an operator, or a provider but the CPU."""
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
    if provider != "cpu":
        return _no_start(provider, text[:300])
    return ModelError(
        f"ONNX Runtime {ort.__version__} refuses {path.name}: {text[:300]}",
        hint="update onnxruntime, or export the model again for opset 17",
    )
