"""A fake shard for unit tests and teaching: any function of the inputs, after a fixed time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgekit.spec.tensors import Array, TensorSpec


@dataclass
class EchoSession:
    """Answers ``function(inputs)`` (by default its inputs) after ``delay_s``."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    delay_s: float = 0.0
    function: Callable[[dict[str, Array]], dict[str, Array]] = field(default=dict)

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """One pretended inference."""
        if self.delay_s:
            time.sleep(self.delay_s)
        return self.function(inputs)
