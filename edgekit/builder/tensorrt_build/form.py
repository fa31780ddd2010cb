"""A shard as TensorRT takes it: the same numbers in other operators.

In:  a shard of a device that runs TensorRT.  Out: one that all of its versions take.  Pure, but for
the proof, which runs both.
"""

import numpy as np
import onnx

from edgekit.builder.probe import run_proto, seeded_inputs
from edgekit.builder.tensorrt_build.fusible import with_float_weights
from edgekit.builder.tensorrt_build.unsigned import without_unsigned
from edgekit.errors import ModelError
from edgekit.spec.tensors import Array, TensorSpec

_SEED = 0


def tensorrt_form(shard: onnx.ModelProto) -> onnx.ModelProto:
    """``shard`` without unsigned integers at its borders and without integers as constants."""
    return with_float_weights(without_unsigned(shard))


def prove_form(shard: onnx.ModelProto) -> None:
    """Run ``shard`` and its form on random numbers, every operator as it is written.

    Raises: ModelError naming an output that is not the same bit by bit.
    """
    form = tensorrt_form(shard)
    if form == shard:
        return
    inputs = _numbers(_inputs(shard))
    want, got = (run_proto(one, inputs, optimization="none") for one in (shard, form))
    for name, value in want.items():
        if not np.array_equal(value, got[name], equal_nan=value.dtype.kind == "f"):
            raise ModelError(
                f"output {name!r} of {shard.graph.name} is not the same in the operators that "
                "TensorRT takes",
                hint='write provider = "cuda" for its device, and report this model',
            )


def _numbers(specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """Random ones; integers of 8 bits from all of their range."""
    found = seeded_inputs(specs, _SEED)
    generator = np.random.default_rng(_SEED)
    for spec in specs:
        if spec.dtype in ("int8", "uint8"):
            ends = np.iinfo(spec.dtype)
            found[spec.name] = generator.integers(
                ends.min, ends.max, spec.shape, spec.dtype, endpoint=True
            )
    return found


def _inputs(shard: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    found = []
    for value in shard.graph.input:
        kind = value.type.tensor_type
        found.append(
            TensorSpec(
                name=value.name,
                dtype=onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name,
                shape=tuple(dim.dim_value for dim in kind.shape.dim),
            )
        )
    return tuple(found)
