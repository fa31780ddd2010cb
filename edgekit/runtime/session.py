"""The session port: a loaded shard, ready to run.

Real: ``ort.py``. Fake: ``echo.py``. Wrapper for emulated slow devices: ``dilated.py``.
"""

from typing import Protocol

import numpy as np

from edgekit.spec.tensors import Array, TensorSpec


class Session(Protocol):
    """Runs one shard."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` must be given."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` returns."""

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """One inference. Arrays are not kept. Raises: DeviceError if the runtime fails."""


def random_inputs(specs: tuple[TensorSpec, ...], *, seed: int = 0) -> dict[str, Array]:
    """Inputs for warm-up and checks: floats uniform in [0, 1), else zeros and ones."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for spec in specs:
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            arrays[spec.name] = generator.random(spec.shape, dtype=np.float32).astype(dtype)
        else:
            arrays[spec.name] = generator.integers(0, 2, spec.shape).astype(dtype)
    return arrays
