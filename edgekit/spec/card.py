"""The model card (model.toml): how a frame becomes the model's input, and its outputs become boxes.

Data, not code, so that it travels in the bundle and one preprocessing function serves every model.
"""

from typing import Literal

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec


class InputCard(Spec, frozen=True, kw_only=True):
    """``tensor = (pixel * scale - mean) / std`` per channel after resizing, then NCHW float32."""

    resize: Literal["letterbox", "stretch"] = "letterbox"
    anchor: Literal["top-left", "center"] = "center"
    """Where the resized image sits in the letterbox."""
    pad_value: int = 114
    color: Literal["bgr", "rgb", "gray"] = "bgr"
    """gray: one channel; the first number of ``mean`` and ``std`` is used."""
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """In channel order of ``color``."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 <= self.pad_value <= 255:
            raise ConfigError(
                f"input.pad_value must be 0..255, got {self.pad_value}", hint="use 114"
            )
        if min(abs(value) for value in self.std) == 0 or self.scale == 0:
            raise ConfigError(
                "input.std and input.scale must not be 0",
                hint="use 1.0 to leave pixels as they are",
            )


class OutputCard(Spec, frozen=True, kw_only=True):
    """Which decoder reads the raw outputs, and its thresholds."""

    decoder: str
    score_threshold: float = 0.3
    nms_iou: float = 0.45
    strides: tuple[int, ...] = (8, 16, 32)
    max_detections: int = 300

    def __post_init__(self) -> None:
        for name, value in (("score_threshold", self.score_threshold), ("nms_iou", self.nms_iou)):
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"output.{name} must be 0..1, got {value}", hint="use 0.3")
        if not self.strides or min(self.strides) < 1 or self.max_detections < 1:
            raise ConfigError(
                "output.strides and output.max_detections must be positive, "
                f"got {self.strides} and {self.max_detections}",
                hint="use [8, 16, 32] and 300",
            )


class ModelCard(Spec, frozen=True, kw_only=True):
    """Everything about a model that its ONNX file does not say."""

    name: str
    labels: tuple[str, ...]
    input: InputCard = InputCard()
    output: OutputCard
    licence: str = "unknown"

    def label_of(self, class_id: int) -> str:
        """The label, or ``class 7`` where the card names fewer."""
        return self.labels[class_id] if 0 <= class_id < len(self.labels) else f"class {class_id}"
