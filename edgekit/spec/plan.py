"""What will run where: the cuts, the shards between them, and the device of each shard."""

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec
from edgekit.spec.tensors import TensorSpec


class Cut(Spec, frozen=True, kw_only=True):
    """The set of tensors that cross from one shard to the next.

    ``tensors`` holds everything the rest of the model still needs, including model outputs that are
    already computed before the cut (they travel on to the last device, which decodes).
    """

    tensors: tuple[TensorSpec, ...]
    work_flop_before: int
    op_count_before: int

    @property
    def nbytes(self) -> int:
        """Raw bytes that cross per frame."""
        return sum(spec.nbytes for spec in self.tensors)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the crossing tensors, in the order they travel."""
        return tuple(spec.name for spec in self.tensors)

    def __str__(self) -> str:
        return ",".join(self.names)


class BlockFusion(Spec, frozen=True, kw_only=True):
    """What became of one block, in the words of spec.fusion."""

    block: str
    strategy: str


class Placement(Spec, frozen=True, kw_only=True):
    """One shard on one device."""

    device: str
    shard: str
    """Path of the ONNX file inside the bundle."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    work_flop: int
    weight_bytes: int
    fusion: tuple[BlockFusion, ...] = ()
    """The re-parameterizable blocks of this shard, in model order."""


class Plan(Spec, frozen=True, kw_only=True):
    """Shards in the order the frame visits them; ``len(cuts) == len(placements) - 1``."""

    model: str
    model_sha256: str
    rule: str
    """How the cuts were chosen: "auto", "none" or "given"."""
    placements: tuple[Placement, ...]
    cuts: tuple[Cut, ...]
    model_inputs: tuple[TensorSpec, ...]
    model_outputs: tuple[TensorSpec, ...]
    precision: str = "fp32"
    codec: str = "fp32"

    def __post_init__(self) -> None:
        if not self.placements or len(self.cuts) != len(self.placements) - 1:
            raise ConfigError(
                f"a plan with {len(self.placements)} shards has {len(self.cuts)} cuts",
                hint="build the bundle again",
            )
        devices = [placement.device for placement in self.placements]
        if len(set(devices)) != len(devices):
            raise ConfigError(
                f"a device runs two shards: {devices}", hint="give each shard its own device"
            )

    def stage_of(self, device: str) -> int | None:
        """Index of the shard that ``device`` runs, or None."""
        for index, placement in enumerate(self.placements):
            if placement.device == device:
                return index
        return None
