"""What each quantized tensor has lost: its signal-to-noise ratio against the float model.

In:  the float graph, the quantized one, a few frames.  Out: one TensorLoss per tensor, worst first.
The noise is what has gathered up to that tensor, so the first place where the ratio falls is the
layer to look at.
"""

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from edgekit.builder.probe import to_bytes
from edgekit.runtime.ort import OrtSession
from edgekit.spec.tensors import Array

_BEFORE_ROUNDING = "_QuantizeLinear_Input"
"""What ONNX Runtime's quantizer calls an output of the graph before it rounds it."""
PERFECT_DB = 150.0
"""Stands for no noise at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLoss:
    """One tensor on the frames tried."""

    tensor: str
    op: str
    """The operator that makes it."""
    op_type: str
    sqnr_db: float
    own_db: float
    """Of rounding this tensor alone: float value against its nearest integer and range."""


def tensor_losses(
    proto: onnx.ModelProto, quantized: onnx.ModelProto, frames: Sequence[dict[str, Array]]
) -> tuple[TensorLoss, ...]:
    """Every tensor that ``quantized`` rounds and ``proto`` has too, worst first.

    Not what only a rounded Relu or Clip reads: it is rounded to the range behind that, which cuts
    it off alike, so it has lost nothing that anybody would have read.
    """
    makers = {name: node for node in proto.graph.node for name in node.output}
    rounders = {
        node.input[0].removesuffix(_BEFORE_ROUNDING): node
        for node in quantized.graph.node
        if node.op_type == "QuantizeLinear"
        and node.input[0].removesuffix(_BEFORE_ROUNDING) in makers
    }
    for name in _cut_off(proto, rounders):
        del rounders[name]
    readers = {
        node.input[0]: node.output[0]
        for node in quantized.graph.node
        if node.op_type == "DequantizeLinear"
    }
    after = {name: readers[node.output[0]] for name, node in rounders.items()}
    constants = {one.name: one for one in quantized.graph.initializer}
    signal, noise, own = (dict.fromkeys(after, 0.0) for _ in range(3))
    want_session, got_session = _session(proto, list(after)), _session(quantized, [*after.values()])
    for inputs in frames:
        want, got = want_session.run(inputs), got_session.run(inputs)
        for name, source in after.items():
            value = want[name].astype(np.float64)
            signal[name] += float((value**2).sum())
            noise[name] += float(((value - got[source]) ** 2).sum())
            own[name] += float(((value - _rounded(value, rounders[name], constants)) ** 2).sum())
    losses = [
        TensorLoss(
            tensor=name,
            op=makers[name].name,
            op_type=makers[name].op_type,
            sqnr_db=decibels(signal[name], noise[name]),
            own_db=decibels(signal[name], own[name]),
        )
        for name in after
    ]
    return tuple(sorted(losses, key=lambda loss: (loss.sqnr_db, loss.tensor)))


def _cut_off(proto: onnx.ModelProto, rounded: Collection[str]) -> set[str]:
    """Of ``rounded``, what is read by a Relu or Clip with a rounded output, and by nothing else."""
    readers: dict[str, list[bool]] = {value.name: [False] for value in proto.graph.output}
    for node in proto.graph.node:
        cuts = node.op_type in ("Relu", "Clip") and node.output[0] in rounded
        for name in node.input:
            readers.setdefault(name, []).append(cuts)
    return {name for name in rounded if name in readers and all(readers[name])}


def decibels(signal: float, noise: float) -> float:
    """Ratio of two energies in dB, between -PERFECT_DB and PERFECT_DB."""
    if noise <= 0:
        return PERFECT_DB
    if signal <= 0:
        return -PERFECT_DB
    return float(np.clip(10 * np.log10(signal / noise), -PERFECT_DB, PERFECT_DB))


def _rounded(value: Array, node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Array:
    """``value`` as the QuantizeLinear ``node`` would let it through; one scale per tensor."""
    scale, zero = (onnx.numpy_helper.to_array(constants[name]) for name in node.input[1:3])
    limits = np.iinfo(zero.dtype)
    integers = np.clip(np.rint(value / scale) + int(zero), limits.min, limits.max)
    rounded: Array = (integers - int(zero)) * scale.astype(np.float64)
    return rounded


def _session(proto: onnx.ModelProto, names: Sequence[str]) -> OrtSession:
    """A session that returns the tensors ``names``, unoptimised: every tensor exists."""
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "probe.onnx"
        path.write_bytes(to_bytes(probe))
        return OrtSession(path, optimization="none")
