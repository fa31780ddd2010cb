"""Half precision: a float graph whose inner tensors and weights are float16.

In:  a float graph, the operators that stay in float32.  Out: a new graph; its inputs and outputs
are float32 still.  Nothing is written, the graph given is unchanged.
ONNX Runtime's converter writes it. Whether a processor computes in half precision or only stores it
is not asked here: the gate times it.
"""

from collections.abc import Collection

import onnx
import onnx.shape_inference
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from edgekit.errors import ModelError

_ROUNDING = ("QuantizeLinear", "DequantizeLinear")
"""They read and make float32 up to opset 18."""


def half(proto: onnx.ModelProto, keep_float: Collection[str] = ()) -> onnx.ModelProto:
    """``proto`` in float16, except for the operators named in ``keep_float``.

    Raises: ModelError if the converter cannot take the graph.
    """
    inferred = onnx.shape_inference.infer_shapes(proto)
    try:
        result: onnx.ModelProto = convert_float_to_float16(
            inferred,
            keep_io_types=True,
            disable_shape_infer=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_ROUNDING],
            node_block_list=sorted(keep_float),
        )
    except (ValueError, KeyError, TypeError, RuntimeError, AssertionError) as error:
        raise ModelError(
            f"ONNX Runtime's converter to fp16 refuses the model: {error}",
            hint="leave it in fp32, and report this model",
        ) from error
    del result.graph.value_info[:]
    _sort(result)
    return result


def _sort(proto: onnx.ModelProto) -> None:
    """Topological order: the converter appends its casts, one anew for each reader of a tensor."""
    known = {one.name for one in (*proto.graph.initializer, *proto.graph.input)} | {""}
    waiting, done = list(proto.graph.node), []
    while waiting:
        rest = []
        for node in waiting:
            if known.issuperset(node.output):
                continue
            if known.issuperset(node.input):
                known.update(node.output)
                done.append(node)
            else:
                rest.append(node)
        if len(rest) == len(waiting):
            raise ModelError(
                f"the fp16 graph reads {rest[0].input[0]!r}, which nothing makes",
                hint="leave it in fp32, and report this model",
            )
        waiting = rest
    del proto.graph.node[:]
    proto.graph.node.extend(done)
