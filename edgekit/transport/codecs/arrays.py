"""Arrays as they may travel: little-endian, contiguous, of a type that both ends know.

In: any array.  Out: the same numbers in that form, and their facts; or a named refusal.  Pure.
"""

import numpy as np

from edgekit.errors import ModelError
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.codecs.packings import SIZE_MAX_BYTES

DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8",
                 "uint64", "uint32", "uint16", "uint8", "bool")
}  # fmt: skip
DIMS_MAX = 16
FP16_MAX = 65504.0

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""Asking a dtype for its name takes longer than all else that is done to a tensor sent as it is."""
_HALF_INFINITY = 0x7C00


def travelling(name: str, array: Array) -> tuple[TensorSpec, Array]:
    """A tensor and its facts; the same object if it is in that form already.

    Raises: ModelError if it cannot travel.
    """
    dtype_name = _NAMES.get(array.dtype) or array.dtype.name
    dtype = DTYPES.get(dtype_name)
    if dtype is None or array.size == 0 or array.ndim > DIMS_MAX:
        raise ModelError(
            f"tensor {name!r} cannot be coded: {dtype_name}{list(array.shape)}",
            hint=f"cut elsewhere; tensors need 1 to {DIMS_MAX} dimensions, at least one "
            f"element and one of {', '.join(DTYPES)}",
        )
    if array.nbytes > SIZE_MAX_BYTES:
        raise ModelError(
            f"tensor {name!r} takes {array.nbytes} bytes, the limit is {SIZE_MAX_BYTES}",
            hint="cut elsewhere",
        )
    if array.dtype != dtype or not array.flags.c_contiguous:
        array = np.require(array, dtype=dtype, requirements="C")
    return TensorSpec(name=name, dtype=dtype_name, shape=array.shape), array


def as_half(array: Array) -> Array:
    """float16; finite numbers beyond its largest become that, infinities and NaN stay."""
    with np.errstate(over="ignore"):
        half = array.astype(DTYPES["float16"])
    # By its bits: NumPy compares float16 ten times more slowly than integers.
    if ((half.view("<u2") & 0x7FFF) == _HALF_INFINITY).any():
        with np.errstate(over="ignore"):
            half = np.where(np.isfinite(array), np.clip(array, -FP16_MAX, FP16_MAX), array).astype(
                DTYPES["float16"]
            )
    return half
