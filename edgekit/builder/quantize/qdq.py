"""Write integers into a graph: QuantizeLinear and DequantizeLinear around what runs in int8.

In:  a float graph, the operators to quantize, ranges, a recipe.  Out: a new graph, IR 8, opset 17.
ONNX Runtime's quantizer writes it; nothing here touches a file or the graph given.
"""

import contextlib
import logging
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from edgekit.builder.quantize.recipes import Recipe
from edgekit.builder.tensorrt_build.fusible import rounded_once
from edgekit.errors import ModelError
from edgekit.spec.tensors import Array

_IR_VERSION = 8


def quantized(
    proto: onnx.ModelProto, integer: Collection[str], ranges: Any, recipe: Recipe
) -> onnx.ModelProto:
    """``proto`` with the operators named in ``integer`` quantized as ``recipe`` says.

    Raises: ModelError if the quantizer cannot take an operator.
    """
    inferred = onnx.shape_inference.infer_shapes(proto)
    kinds = sorted({node.op_type for node in proto.graph.node if node.name in set(integer)})
    try:
        quantizer = QDQQuantizer(
            inferred,
            per_channel=recipe.weights_per_channel,
            reduce_range=recipe.seven_bit_weights,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8 if recipe.unsigned_activations else QuantType.QInt8,
            tensors_range=ranges,
            nodes_to_quantize=list(integer),
            nodes_to_exclude=[],
            op_types_to_quantize=kinds,
            extra_options={
                "ActivationSymmetric": recipe.symmetric_activations,
                "WeightSymmetric": True,
                "QuantizeBias": recipe.quantize_bias,
                # Else a Relu whose range starts at 0 is dropped, and with it the name of a tensor
                # that a model may be cut at. The runtime drops it when it loads the graph.
                "QDQKeepRemovableActivations": True,
            },
        )
        with _quiet():
            quantizer.quantize_model()
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"ONNX Runtime's quantizer refuses the model: {error}",
            hint="name the operator in --keep-float, and report this model",
        ) from error
    result: onnx.ModelProto = quantizer.model.model
    result.ir_version = _IR_VERSION
    result.producer_name, result.producer_version = "edgekit", ""
    return rounded_once(result) if recipe.symmetric_activations else result


def dequantized_weights(proto: onnx.ModelProto) -> dict[str, Array]:
    """What the weights of each quantized layer have become.

    Returns: name of the layer -> its weights in float32, of the same shape.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    makers = {node.output[0]: node for node in proto.graph.node}
    found = {}
    for node in proto.graph.node:
        source = makers.get(node.input[1]) if len(node.input) > 1 else None
        if source is None or source.op_type != "DequantizeLinear":
            continue
        if source.input[0] in constants:
            found[node.name] = _dequantize(source, constants)
    return found


def _dequantize(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Array:
    """Shapes: integers (O, ...), scale and zero point (O,) or ()."""
    integers, scale, zero = (
        onnx.numpy_helper.to_array(constants[name]).astype(np.float32) for name in node.input
    )
    axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
    if scale.ndim:
        shape = [1] * integers.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    weights: Array = (integers - zero) * scale
    return weights


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's quantizer logs advice about its own command line, and dead channels whose
    bias it limits, on the root logger; what matters of it is measured afterwards.
    """
    root = logging.getLogger()
    root.addFilter(_is_ours)
    try:
        yield
    finally:
        root.removeFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    """The root logger itself is used by nobody in this package."""
    return record.name != "root"
