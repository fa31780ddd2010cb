"""The devices and links that a model is built for (fleet.toml)."""

import math

import msgspec

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec
from edgekit.spec.fusion import FusionRule, parse_strategy
from edgekit.units import parse_bandwidth, parse_duration, parse_size


class Device(Spec, frozen=True, kw_only=True):
    """One device of the fleet, in the order frames may visit them."""

    name: str
    relative_speed: float = 1.0
    """Compute speed relative to the other devices here, until a measured profile says more."""
    fusion: str = ""
    """Fusion strategy of the shard that runs here, such as "S3+Ss"; S3 (all folded) if empty."""
    fusion_at: dict[str, str] = msgspec.field(default_factory=dict)
    """Exceptions: strategies by blocks, such as {"0-5" = "S3"}; the last that matches wins."""
    profile: str = ""
    """Its DeviceProfile: a name, or a path beside the fleet file."""
    provider: str = "cpu"
    """Which of the profile's providers runs shards."""
    can_run: bool = True
    """False for a device that only owns the camera, or only takes the answers."""
    memory: str = ""
    """What shards may take, such as "512 MB"; all that the profile has if empty."""
    max_params: int = 0
    """Trained numbers of its shard; 0 is no limit, here and below."""
    max_macs: int = 0
    """Multiply-adds of its shard per frame."""
    max_ms: float = 0.0
    """Milliseconds of its shard per frame."""

    def __post_init__(self) -> None:
        if not self.name or any(char in self.name for char in "/+# "):
            raise ConfigError(
                f"device name {self.name!r} cannot be an MQTT topic level",
                hint="use letters, digits, -",
            )
        if not self.relative_speed > 0:
            raise ConfigError(
                f"device {self.name!r}: relative_speed must be positive, got {self.relative_speed}",
                hint="write 1.0 for the slowest device and 4.0 for one four times as fast",
            )
        if self.memory:
            parse_size(self.memory)
        for field in ("max_params", "max_macs", "max_ms"):
            if not getattr(self, field) >= 0:
                raise ConfigError(
                    f"device {self.name!r}: {field} is {getattr(self, field)}",
                    hint="write a limit, or leave it out",
                )
        try:
            _ = self.fusion_rules
        except ConfigError as error:
            raise ConfigError(f"device {self.name!r}: {error.what}", hint=error.hint) from None

    @property
    def fusion_rules(self) -> tuple[FusionRule, ...]:
        """``fusion`` and ``fusion_at`` as rules, weakest first."""
        whole = {"*": self.fusion} if self.fusion else {}
        return tuple(
            FusionRule(strategy=parse_strategy(text), blocks=blocks, device=self.name)
            for blocks, text in (whole | self.fusion_at).items()
        )


class Link(Spec, frozen=True, kw_only=True, rename={"source": "from", "target": "to"}):
    """What joins two devices, each way."""

    source: str
    target: str
    bandwidth: str = "1 Gbit/s"
    bandwidth_back: str = ""
    """From ``target`` to ``source``, where that differs."""
    rtt: str = "1 ms"
    is_measured: bool = False
    """True where `edgekit link` wrote it."""

    def __post_init__(self) -> None:
        for text in (self.bandwidth, self.bandwidth_back or self.bandwidth):
            if not 0 < parse_bandwidth(text) < math.inf:
                raise ConfigError(
                    f"link {self.source} - {self.target}: bandwidth {text!r} carries nothing",
                    hint="write such as 100 Mbit/s",
                )
        parse_duration(self.rtt)

    def toward(self, device: str) -> float:
        """Bytes per second in the direction that ends at ``device``."""
        is_back = self.bandwidth_back and device == self.source
        return parse_bandwidth(self.bandwidth_back if is_back else self.bandwidth)

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Bandwidth in SI."""
        return parse_bandwidth(self.bandwidth)

    @property
    def rtt_s(self) -> float:
        """Round trip in seconds."""
        return parse_duration(self.rtt)


class Fleet(Spec, frozen=True, kw_only=True):
    """Devices in frame order (the first one owns the camera) and the links between them."""

    name: str
    device: tuple[Device, ...]
    link: tuple[Link, ...] = ()
    source: str = ""
    """The device that has the camera; the first one if empty."""
    sink: str = ""
    """The device that answers must reach; if empty, they are answers wherever they are made."""
    host_speed: float = 0.0
    """Where one machine stands for all devices: its own relative speed; 0 if it is as fast as the
    fastest of those that can run a shard."""

    def __post_init__(self) -> None:
        if not self.device:
            raise ConfigError(
                f"fleet {self.name!r} has no device", hint="add a [[device]] table with a name"
            )
        names = [device.name for device in self.device]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"fleet {self.name!r} names device {name!r} twice", hint="rename one of them"
                )
        for link in self.link:
            for end in (link.source, link.target):
                if end not in names:
                    raise ConfigError(
                        f"fleet {self.name!r}: a link ends at {end!r}, which is no device",
                        hint=f"use one of {', '.join(names)}",
                    )
        for field in ("source", "sink"):
            if (name := getattr(self, field)) and name not in names:
                raise ConfigError(
                    f"fleet {self.name!r}: {field} is {name!r}, which is no device",
                    hint=f"use one of {', '.join(names)}",
                )
        if not any(device.can_run for device in self.device):
            raise ConfigError(
                f"fleet {self.name!r}: no device can run a shard",
                hint="leave out can_run = false at one of them",
            )

        fastest = max(device.relative_speed for device in self.device if device.can_run)
        if self.host_speed and not self.host_speed >= fastest:
            raise ConfigError(
                f"fleet {self.name!r}: host_speed {self.host_speed} is below the fastest device's "
                f"relative_speed {fastest}",
                hint="a machine can stand for slower devices only; raise host_speed",
            )

    def slowdown(self, device: Device) -> float:
        """How many times slower than the machine that stands for it ``device`` is."""
        runners = [one for one in self.device if one.can_run]
        return (self.host_speed or max(one.relative_speed for one in runners)) / (
            device.relative_speed
        )

    @property
    def source_name(self) -> str:
        """The device that has the camera."""
        return self.source or self.device[0].name

    def link_between(self, one: str, other: str) -> Link | None:
        """The link that joins two devices, in either direction, or None if the file names none."""
        for link in self.link:
            if {link.source, link.target} == {one, other}:
                return link
        return None


def local_fleet(count: int, *, name: str = "local") -> Fleet:
    """``count`` equal devices on this machine: edge-a, edge-b, ..."""
    if not 1 <= count <= 26:
        raise ConfigError(f"{count} local devices", hint="give a number from 1 to 26")
    return Fleet(
        name=name, device=tuple(Device(name=f"edge-{chr(ord('a') + i)}") for i in range(count))
    )
