"""Whole frames to the first shard: a device that films and sends pictures, in front of a plan.

In:  a Plan whose first shard reads a picture, the device with the camera, how pictures travel.
Out: a Plan in which that device comes first, without a shard, or with the whole model if it is to
answer some frames itself.  Pure.
What the shards compute does not change, so nothing is proved anew; what a lossy picture costs is
the business of whoever chose its quality (``edgekit accuracy`` measures it).
"""

from dataclasses import dataclass

import msgspec

from edgekit.errors import ConfigError
from edgekit.spec.codec import PICTURES, RAW, CodecRequest, CodecSpec
from edgekit.spec.fleet import Device, Fleet
from edgekit.spec.plan import FRAME, FRAME_CUT, Placement, Plan

_RAW_FRAMES = CodecRequest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """Who films, and how its pictures travel."""

    device: str
    codec: CodecRequest = _RAW_FRAMES
    """A codec of pictures, or raw ones."""
    own: Device | None = None
    """The device itself, if it answers some frames with a model of its own, folded by its rules."""

    def __post_init__(self) -> None:
        if self.codec != _RAW_FRAMES and self.codec.element not in PICTURES:
            raise ConfigError(
                f"{self.device} forwards frames, and codec {self.codec.name!r} is none of pictures",
                hint="use jpeg-90, webp-80 or png, or fp32 for raw frames",
            )


def forwarded(plan: Plan, forwarding: Forwarding, own: Placement | None = None) -> Plan:
    """``plan`` with ``forwarding`` in front of it; ``own``: the whole model there, if it has one.

    Raises: ConfigError if that device has a shard of ``plan``, or if the first shard does not read
    one picture: its inputs are what the card makes of a frame.
    """
    if len(plan.model_inputs) != 1 or len(plan.model_inputs[0].shape) != 4:
        raise ConfigError(
            f"{plan.model} reads {', '.join(map(str, plan.model_inputs))}, not one picture, so "
            "frames cannot be forwarded to it",
            hint=f"leave out --cut {FRAME}",
        )
    request = forwarding.codec
    codec = CodecSpec(element=request.element, quality=request.quality)
    filming = own or Placement(
        device=forwarding.device,
        shard="",
        inputs=(),
        outputs=FRAME_CUT.tensors,
        work_flop=0,
        weight_bytes=0,
    )
    behind = plan.codecs or (RAW,) * len(plan.cuts)
    codecs = (codec, *behind)
    return msgspec.structs.replace(
        plan,
        placements=(filming, *plan.placements),
        cuts=(FRAME_CUT, *plan.cuts),
        codecs=() if all(one == RAW for one in codecs) else codecs,
    )


def behind_the_camera(
    fleet: Fleet, requests: tuple[CodecRequest, ...] = (), *, shares: bool = False
) -> tuple[Forwarding, Fleet, tuple[CodecRequest, ...]]:
    """The first device films for the others: how it does, the others, the codecs between them.

    Of several codecs the first is that of frames; a single one is, if it is one of pictures or if
    there is nothing else to code. ``shares``: the camera's device has the whole model, too.
    Raises: ConfigError if nobody is behind the camera, or frames cannot travel so.
    """
    camera, *others = fleet.device
    if not others:
        raise ConfigError(
            f"--cut {FRAME} sends frames on from {camera.name}, and no device is behind it",
            hint="name a second device",
        )
    rest = msgspec.structs.replace(
        fleet,
        device=tuple(others),
        link=tuple(one for one in fleet.link if camera.name not in (one.source, one.target)),
        source="",
        sink="",
    )
    own = camera if shares else None
    is_for_frames = len(others) == 1 or len(requests) > 1
    if requests and (is_for_frames or requests[0].element in PICTURES):
        return Forwarding(device=camera.name, codec=requests[0], own=own), rest, requests[1:]
    return Forwarding(device=camera.name, own=own), rest, requests
