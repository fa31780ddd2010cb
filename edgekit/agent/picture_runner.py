"""What a device does with a picture: run the first shard on it, or forward it as it is.

In: the one tensor FRAME, a camera's picture.  Out: the tensors that leave the device.
Used by the device that owns the camera, and by the next one where frames are forwarded.
"""

from typing import Protocol

import numpy as np

from edgekit.agent.shard import ShardRunner
from edgekit.spec.card import ModelCard
from edgekit.spec.plan import FRAME, Plan
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.vision.preprocess import preprocess


class Runner(Protocol):
    """Tensors that entered this device -> tensors that leave it. ``ShardRunner`` is one."""

    def check(self, tensors: dict[str, Array]) -> str:
        """Why these tensors cannot enter, or an empty string."""

    def run(self, tensors: dict[str, Array]) -> dict[str, Array]:
        """What leaves. Raises: EdgeKitError if it cannot be made."""


class PictureRunner:
    """Preprocess the picture as the card says, and run the first shard on it."""

    def __init__(self, shard: ShardRunner, card: ModelCard, model_input: TensorSpec) -> None:
        self._shard, self._card, self._model_input = shard, card, model_input

    def check(self, tensors: dict[str, Array]) -> str:
        """Pictures may have any size, and differ in it."""
        array = tensors.get(FRAME)
        if array is None:
            return f"tensor {FRAME!r} is missing"
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            return f"tensor {FRAME!r} is {array.dtype.name}{array.shape}, expected a BGR picture"
        return ""

    def run(self, tensors: dict[str, Array]) -> dict[str, Array]:
        """Tensors that leave this device. Raises: EdgeKitError if the runtime fails."""
        height_px, width_px = self._model_input.shape[2:]
        tensor = preprocess(
            tensors[FRAME], self._card.input, height_px=height_px, width_px=width_px
        )
        return self._shard.run({self._model_input.name: tensor})


class Forwarder:
    """Lets the picture pass: the next device runs the first shard."""

    def check(self, tensors: dict[str, Array]) -> str:
        """Nothing is expected."""
        return ""

    def run(self, tensors: dict[str, Array]) -> dict[str, Array]:
        """The picture itself."""
        return {FRAME: tensors[FRAME]}


def runner_of(plan: Plan, index: int, shard: ShardRunner | None, card: ModelCard) -> Runner:
    """What the device of this index does with what enters it; ``shard`` is None if it has none."""
    if shard is None:
        return Forwarder()
    if index == 0 or (index == 1 and plan.sends_frames):
        return PictureRunner(shard, card, plan.model_inputs[0])
    return shard
