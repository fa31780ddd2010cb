"""Bias correction: what rounding the weights of a layer adds to its mean output is taken off its
bias.

In:  the float graph, the weights that a quantized layer really has, calibration frames.  Out: a new
float graph with other biases, to be quantized again.
Measured, not estimated: the graph carries a second convolution beside each layer, of the rounding
errors alone, and the mean of its output per channel is the shift, borders included.
Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019, sec. 4.2 (there from BatchNorm statistics, here from data).
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import TensorProto, helper

from edgekit.builder.probe import to_bytes
from edgekit.runtime.ort import OrtSession
from edgekit.spec.tensors import Array

_MARK = "edgekit_rounding_"


def correct_biases(
    proto: onnx.ModelProto, rounded: Mapping[str, Array], frames: Sequence[dict[str, Array]]
) -> onnx.ModelProto:
    """``proto`` with the bias of every convolution in ``rounded`` corrected.

    rounded: name of a convolution -> its weights after rounding, (O, I / groups, kH, kW).
    Returns: a copy of the graph; convolutions without a bias get one.
    """
    shifts = mean_shifts(proto, rounded, frames)
    corrected = onnx.ModelProto()
    corrected.CopyFrom(proto)
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in corrected.graph.node:
        if node.name not in shifts:
            continue
        bias = np.zeros_like(shifts[node.name])
        if len(node.input) > 2 and node.input[2]:
            if node.input[2] not in constants:
                continue  # computed from other constants: rare, and its layer stays as it is
            bias = onnx.numpy_helper.to_array(constants[node.input[2]])
        name = f"{node.name}.corrected_bias"
        value = (bias - shifts[node.name]).astype(np.float32)
        corrected.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        node.input[:] = [*node.input[:2], name]
    return corrected


def mean_shifts(
    proto: onnx.ModelProto, rounded: Mapping[str, Array], frames: Sequence[dict[str, Array]]
) -> dict[str, Array]:
    """By how much rounding moves the mean of each channel.

    Returns: name of the convolution -> (O,) float32, mean over frames and places.
    """
    probe, outputs = _with_rounding_convolutions(proto, rounded)
    if not outputs:
        return {}
    sums = {name: np.zeros(1) for name in outputs}
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "rounding.onnx"
        path.write_bytes(to_bytes(probe))
        session = OrtSession(path)
    for inputs in frames:
        means = session.run(inputs)
        for name, output in outputs.items():
            sums[name] = sums[name] + means[output].reshape(-1).astype(np.float64)
    return {name: (total / len(frames)).astype(np.float32) for name, total in sums.items()}


def _with_rounding_convolutions(
    proto: onnx.ModelProto, rounded: Mapping[str, Array]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The graph with only the mean rounding errors as outputs, and their names by layer."""
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    outputs = {}
    for node in proto.graph.node:
        weight = constants.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is None or node.name not in rounded:
            continue
        error = rounded[node.name] - onnx.numpy_helper.to_array(weight)
        mark = _MARK + node.name
        probe.graph.initializer.append(
            onnx.numpy_helper.from_array(error.astype(np.float32), f"{mark}.weight")
        )
        beside = onnx.NodeProto()
        beside.CopyFrom(node)
        beside.name = mark
        beside.input[:], beside.output[:] = [node.input[0], f"{mark}.weight"], [f"{mark}.out"]
        mean = helper.make_node("ReduceMean", [f"{mark}.out"], [f"{mark}.mean"], axes=[0, 2, 3])
        probe.graph.node.extend([beside, mean])
        outputs[node.name] = f"{mark}.mean"
    del probe.graph.output[:]
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs.values()
    )
    return probe, outputs
