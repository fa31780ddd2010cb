"""What will run where: the cuts, the shards between them, and the device of each shard."""

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec
from edgekit.spec.codec import PICTURES, RAW, CodecSpec
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import TensorSpec

FRAME = "frame"
"""Name of the one tensor of a cut before the model: the camera's picture, (H, W, 3) uint8 BGR."""


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
        """Raw bytes that cross per frame; 0 where the camera decides."""
        return sum(spec.nbytes for spec in self.tensors)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the crossing tensors, in the order they travel."""
        return tuple(spec.name for spec in self.tensors)

    def __str__(self) -> str:
        return ",".join(self.names)


FRAME_CUT = Cut(
    tensors=(TensorSpec(name=FRAME, dtype="uint8", shape=(0, 0, 3)),),
    work_flop_before=0,
    op_count_before=0,
)
"""Before the model. 0: any size, which may change from frame to frame."""


class BlockFusion(Spec, frozen=True, kw_only=True):
    """What became of one block, in the words of spec.fusion."""

    block: str
    strategy: str


class Placement(Spec, frozen=True, kw_only=True):
    """One shard on one device."""

    device: str
    shard: str
    """Path of the ONNX file inside the bundle; empty where frames are filmed and forwarded. The
    whole model where the first device answers some frames itself."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    work_flop: int
    weight_bytes: int
    fusion: tuple[BlockFusion, ...] = ()
    """The re-parameterizable blocks of this shard, in model order."""
    precision: Precision = "fp32"
    """int8: its layers are QDQ; what leaves it for the next device are the integers themselves."""
    engine: str = ""
    """Path of its engine recipe inside the bundle; empty: it is for ONNX Runtime alone."""


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
    codecs: tuple[CodecSpec, ...] = ()
    """How each cut's tensors are written on the wire; empty: all of them as they are."""

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
        self._check_forwarding()
        if len(self.codecs) not in (0, len(self.cuts)):
            raise ConfigError(
                f"a plan with {len(self.cuts)} cuts has {len(self.codecs)} codecs",
                hint="build the bundle again",
            )
        if self.codecs:
            self._check_pictures()

    def _check_forwarding(self) -> None:
        """A device without a shard is the first of several, and the frame is all that it sends."""
        if any(not placement.shard for placement in self.placements[1:]):
            raise ConfigError(
                "a device after the first one has no shard", hint="build the bundle again"
            )
        if any(cut == FRAME_CUT for cut in self.cuts[1:]):
            raise ConfigError(
                "frames leave a device that did not film them", hint="build the bundle again"
            )
        if self.forwards_frames and not self.sends_frames:
            raise ConfigError(
                f"{self.placements[0].device} has no shard, so nothing but frames can leave it",
                hint="build the bundle again",
            )

    def _check_pictures(self) -> None:
        for cut, codec in zip(self.cuts, self.codecs, strict=True):
            if codec.element in PICTURES and cut != FRAME_CUT:
                raise ConfigError(
                    f"the tensors of cut {cut} are no picture, so {codec.name} cannot carry them",
                    hint="use uint8+zstd, or cut at the frame",
                )

    @property
    def sends_frames(self) -> bool:
        """Whether frames leave the first device, and the second one runs the model's start."""
        return bool(self.cuts) and self.cuts[0] == FRAME_CUT

    @property
    def forwards_frames(self) -> bool:
        """Whether the first device films and forwards, and has no shard."""
        return not self.placements[0].shard

    @property
    def shares_frames(self) -> bool:
        """Whether the first device answers some frames itself, with the whole model, and sends the
        others on."""
        return self.sends_frames and not self.forwards_frames

    def codec_of(self, cut: int) -> CodecSpec:
        """How the tensors of the cut with this index travel."""
        return self.codecs[cut] if self.codecs else RAW

    def stage_of(self, device: str) -> int | None:
        """Index of the shard that ``device`` runs, or None."""
        for index, placement in enumerate(self.placements):
            if placement.device == device:
                return index
        return None
