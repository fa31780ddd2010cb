"""A shard as TensorRT takes it: the same numbers in other operators.

In:  a shard of a device that runs TensorRT.  Out: one that all of its versions take.  Pure.
"""

import onnx

from edgekit.builder.tensorrt_build.fusible import with_float_weights
from edgekit.builder.tensorrt_build.unsigned import without_unsigned


def tensorrt_form(shard: onnx.ModelProto) -> onnx.ModelProto:
    """``shard`` without unsigned integers at its borders and without integers as constants."""
    return with_float_weights(without_unsigned(shard))
