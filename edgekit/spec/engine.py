"""How a shard becomes a TensorRT engine: the recipe that a bundle carries beside the ONNX file.

Written by the builder for devices whose provider is "tensorrt", read by the agent, which builds the
engine on the board itself: an engine fits one TensorRT, one GPU architecture, one driver.
Precision lives in the ONNX file (fp16 weights, or Q/DQ pairs); TensorRT 11 has no flags for it.
"""

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec
from edgekit.spec.profile import Precision

LARGEST_OPTIMIZATION_LEVEL = 5


class ShapeRange(Spec, frozen=True, kw_only=True):
    """Shapes that one input may have; all three alike where it is static."""

    name: str
    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]

    def __post_init__(self) -> None:
        ranks = {len(self.least), len(self.usual), len(self.most)}
        if len(ranks) != 1 or not all(
            1 <= least <= usual <= most
            for least, usual, most in zip(self.least, self.usual, self.most, strict=True)
        ):
            raise ConfigError(
                f"shapes of input {self.name!r} do not rise: {self.least}, {self.usual}, "
                f"{self.most}",
                hint="build the bundle again",
            )

    @property
    def is_static(self) -> bool:
        """Whether there is one shape only."""
        return self.least == self.most


class EngineRecipe(Spec, frozen=True, kw_only=True):
    """What a board is told to build, and what the result must compute."""

    format: int = 1
    shard: str
    """Path of the ONNX file inside the bundle."""
    shard_sha256: str
    precision: Precision
    """That of the ONNX file."""
    tf32: bool = False
    """Whether fp32 products may be rounded to 11 bits, as tensor cores like it."""
    shapes: tuple[ShapeRange, ...]
    """Of every input of the shard."""
    workspace_bytes: int
    """Scratch memory that a kernel may take at the most."""
    optimization_level: int = 3
    """0 builds fastest, 5 searches longest."""
    dla_core: int = -1
    """Deep-learning accelerator to use where the board has one; -1: the GPU alone."""
    golden: str = ""
    """Path of the golden vectors inside the bundle; without them no engine may serve."""
    timeout_s: float = 900.0
    """A build that takes longer is given up."""

    def __post_init__(self) -> None:
        if self.format != 1:
            raise ConfigError(
                f"engine recipe format {self.format} is not 1",
                hint="update edgekit on this device",
            )
        if not 0 <= self.optimization_level <= LARGEST_OPTIMIZATION_LEVEL:
            raise ConfigError(
                f"optimization_level must be 0..{LARGEST_OPTIMIZATION_LEVEL}, "
                f"got {self.optimization_level}",
                hint="use 3",
            )
        if self.workspace_bytes < 1 or self.timeout_s <= 0:
            raise ConfigError(
                f"workspace_bytes {self.workspace_bytes} and timeout_s {self.timeout_s} must be "
                "positive",
                hint="build the bundle again",
            )

    @property
    def is_static(self) -> bool:
        """Whether every input has one shape only, so that a CUDA graph can be recorded."""
        return all(one.is_static for one in self.shapes)
