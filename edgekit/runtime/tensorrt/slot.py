"""One tensor of an engine: its memory here and on the GPU.

In: pinned bytes and an address.  Out: the part in use, as an array.
"""

from dataclasses import dataclass

import numpy as np

from edgekit.spec.tensors import Array, TensorSpec


@dataclass(slots=True)
class Slot:
    """Memory of the largest size that a tensor may have."""

    spec: TensorSpec
    """As the engine declares it; a free dimension is 0."""
    host: Array
    """Pinned, uint8."""
    address: int
    """On the GPU."""
    shape: tuple[int, ...]
    """Of this run."""

    def part(self) -> Array:
        """The bytes in use: copies move these only."""
        count = int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.spec.dtype).itemsize
        return self.host[:count]

    def view(self) -> Array:
        """The same as an array. The next run overwrites it."""
        return self.part().view(self.spec.dtype).reshape(self.shape)

    def takes(self, array: Array) -> bool:
        """Whether an array has the declared type and shape, and is no larger than the memory."""
        declared = self.spec.shape
        return (
            array.dtype.name == self.spec.dtype
            and len(array.shape) == len(declared)
            and all(want in (0, got) for got, want in zip(array.shape, declared, strict=True))
            and array.nbytes <= self.host.nbytes
        )
