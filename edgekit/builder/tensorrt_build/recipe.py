"""The recipe by which a board builds an engine of its shard.

In:  a shard's file, its placement in the bundle, its device and that device's profile.  Out: an
EngineRecipe; the same shard and the same device give the same bytes.  Pure.
A fleet asks for engines with ``provider = "tensorrt"``, and with ``"tensorrt-dla"`` for those on
the deep-learning accelerator of a Jetson, which leaves the GPU to others and is slower than it.

Source: TensorRT's guide: the accelerator takes no Q/DQ and computes in fp16 at the most.
"""

import hashlib

import onnx

from edgekit.errors import ConfigError
from edgekit.spec.engine import EngineRecipe, ShapeRange
from edgekit.spec.fleet import Device
from edgekit.spec.plan import Placement
from edgekit.spec.profile import DeviceProfile, Precision
from edgekit.units import parse_size

TENSORRT, DLA = "tensorrt", "tensorrt-dla"
_ACCELERATOR = "NVDLA"
"""As the processors of profiles name it."""
_SHARE_OF_MEMORY = 4
"""One part of so many may be scratch memory: weights, activations and the system need the rest."""
_USUAL_WORKSPACE_BYTES = 1 << 30
_LEAST_WORKSPACE_BYTES, _MOST_WORKSPACE_BYTES = 256 << 20, 4 << 30
_COPIES_OF_WEIGHTS = 4
"""That a build may hold at once, whatever the device's share: with less it fails."""


def wants_engine(device: Device) -> bool:
    """Whether TensorRT itself runs the shard of ``device``."""
    return device.provider in (TENSORRT, DLA)


def engine_recipe(
    shard: bytes,
    placement: Placement,
    device: Device,
    *,
    golden: str,
    profile: DeviceProfile | None = None,
) -> EngineRecipe:
    """The recipe of ``shard``, whose golden vectors lie at ``golden`` in the bundle.

    Raises: ConfigError if the fleet asks for an accelerator that is not there, or that does not
    compute in the shard's precision.
    """
    return EngineRecipe(
        shard=placement.shard,
        shard_sha256=hashlib.sha256(shard).hexdigest(),
        precision=placement.precision,
        shapes=_shapes(onnx.load_from_string(shard).graph),
        workspace_bytes=max(workspace_bytes(device, profile), _COPIES_OF_WEIGHTS * len(shard)),
        dla_core=_dla_core(device, placement.precision, profile),
        golden=golden,
    )


def workspace_bytes(device: Device, profile: DeviceProfile | None) -> int:
    """A quarter of what shards may take, or of the memory the profile knows; 1 GiB if neither."""
    if device.memory:
        memory = parse_size(device.memory)
    elif profile is not None:
        memory = profile.memory_bytes
    else:
        return _USUAL_WORKSPACE_BYTES
    share = memory // _SHARE_OF_MEMORY
    return max(_LEAST_WORKSPACE_BYTES, min(share, _MOST_WORKSPACE_BYTES))


def _shapes(graph: onnx.GraphProto) -> tuple[ShapeRange, ...]:
    """Of each input that the shard reads: one, since builds fix open dimensions."""
    found = []
    for value in graph.input:
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        found.append(ShapeRange(name=value.name, least=shape, usual=shape, most=shape))
    return tuple(found)


def _dla_core(device: Device, precision: Precision, profile: DeviceProfile | None) -> int:
    if device.provider != DLA:
        return -1
    if profile is not None and _ACCELERATOR not in profile.processor:
        raise ConfigError(
            f"{device.name} is to use a deep-learning accelerator, and its profile "
            f"{profile.name} has none ({profile.processor})",
            hint=f'write provider = "{TENSORRT}" for it in the fleet file',
        )
    if precision != "fp16":
        raise ConfigError(
            f"{device.name} is to use its deep-learning accelerator, which computes in fp16 only "
            f"here, and its shard is {precision}",
            hint=f'build with --precision {device.name}=fp16, or write provider = "{TENSORRT}"',
        )
    return 0
