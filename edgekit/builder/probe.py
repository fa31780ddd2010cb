"""Run a graph once in the real runtime to learn the shape, type and value of its tensors.

In: a ModelProto and inputs.  Out: arrays.  Runs with every optimisation off, so that each tensor
named in the file exists; never changes the graph it is given.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx

from edgekit.errors import DeviceError, ModelError
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import random_inputs
from edgekit.spec.agent_config import Optimization
from edgekit.spec.tensors import Array, TensorSpec

_MAX_PROTO_BYTES = 2**31 - 1


def probe_tensors(
    proto: onnx.ModelProto, inputs: dict[str, Array], names: Iterable[str]
) -> dict[str, Array]:
    """Values of the tensors ``names`` of ``proto`` on ``inputs``, no optimisation.

    Raises: ModelError naming the operator that the runtime cannot run.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return run_proto(probe, inputs, optimization="none")


def run_proto(
    proto: onnx.ModelProto,
    inputs: dict[str, Array],
    *,
    optimization: Optimization,
    name: str = "model",
) -> dict[str, Array]:
    """Outputs of ``proto`` on ``inputs``, through a temporary file as on a device.

    Raises: ModelError if the runtime refuses the model, or fails on it; ``name`` is for the words.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / Path(name).with_suffix(".onnx").name
        path.write_bytes(to_bytes(proto))
        session = OrtSession(path, optimization=optimization)
    try:
        return session.run(inputs)
    except DeviceError as error:
        raise ModelError(
            f"{name} does not run: {error.what}",
            hint="check the input shapes (--input NAME=1x3x416x416) and export the model again",
        ) from None


def seeded_inputs(specs: tuple[TensorSpec, ...], seed: int) -> dict[str, Array]:
    """Random inputs of a model, the same for the same seed."""
    return random_inputs(specs, seed=seed)


def to_bytes(proto: onnx.ModelProto) -> bytes:
    """The serialised graph: the same graph gives the same bytes.

    Raises: ModelError above the 2 GB that one file can hold.
    """
    size_bytes = proto.ByteSize()
    if size_bytes > _MAX_PROTO_BYTES:
        raise ModelError(
            f"the model has {size_bytes} bytes, too many for one ONNX file",
            hint="use a model below 2 GB",
        )
    data: bytes = proto.SerializeToString(deterministic=True)
    return data
