"""What all detectors of the zoo share, so that export and training need to know only this.

In:  images (B, 3, H, W).  Out: per level, distances from each cell to the box sides, in cells, and
class logits; ``decoded`` gives the Ultralytics v8 layout.
A detector says which levels it has and what it finds there; ``cells`` makes boxes of that.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from edgekit.builder.zoo.cells import answers, cell_grid
from edgekit.errors import ModelError

Level = tuple[Tensor, Tensor]
"""Distances (B, 4, h, w) left, top, right, bottom in cells; class logits (B, C, h, w)."""

BACKGROUND_LOGIT = math.log(0.01 / 0.99)
"""Of each class before training: almost every cell is background, so 1 % each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorConfig:
    """What decides the shape and the first weights of any detector."""

    width: float = 0.25
    depth: float = 1.0
    class_count: int = 2
    seed: int = 0
    input_shape: tuple[int, int, int, int] = (1, 3, 416, 640)
    """What an export takes where no other shape is asked for."""

    def __post_init__(self) -> None:
        if not (0 < self.width <= 4 and 0 < self.depth <= 4):
            raise ModelError(
                f"width and depth must lie in 0..4, got {self.width} and {self.depth}",
                hint="use width 0.25 and depth 1.0",
            )
        if not 1 <= self.class_count <= 1000:
            raise ModelError(
                f"class_count {self.class_count} must be 1..1000", hint="use class_count 2"
            )
        if not 0 <= self.seed < 2**63:
            raise ModelError(f"seed must be 0 or more, got {self.seed}", hint="use 0")


class Detector(nn.Module, ABC):
    """A network whose ``forward`` answers with one Level for each of its ``strides``."""

    config: DetectorConfig

    @property
    @abstractmethod
    def strides(self) -> tuple[int, ...]:
        """Strides of the levels of ``forward``, finest first."""

    def decoded(self, images: Tensor) -> Tensor:
        """Ultralytics v8 layout (B, 4 + C, N): centre boxes in px, then class probabilities."""
        return answers(self(images), cell_grid(self.strides, images.shape[-2], images.shape[-1]))
