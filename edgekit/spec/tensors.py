"""What a tensor is without its numbers: name, dtype, shape."""

import math
from typing import Any

from numpy.typing import NDArray

from edgekit.errors import ModelError
from edgekit.spec.base import Spec

Array = NDArray[Any]

_ITEM_BYTES = {
    "float64": 8, "int64": 8, "uint64": 8,
    "float32": 4, "int32": 4, "uint32": 4,
    "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2,
    "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip


class TensorSpec(Spec, frozen=True, kw_only=True):
    """A tensor's name, numpy dtype name and static shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in _ITEM_BYTES:
            raise ModelError(
                f"tensor {self.name!r} has the unsupported dtype {self.dtype!r}",
                hint=f"use a model whose tensors are {', '.join(_ITEM_BYTES)}",
            )
        if any(dim < 0 for dim in self.shape):
            raise ModelError(
                f"tensor {self.name!r} has the negative dimension {self.shape}",
                hint="fix its shape",
            )

    @property
    def element_count(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the raw tensor."""
        return self.element_count * _ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{'x'.join(map(str, self.shape))}]"
