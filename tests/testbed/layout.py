"""Names and addresses of an emulated fleet.

In:  a Fleet.  Out: a Layout.  Pure.
Every device has a namespace, one address of its own (on its loopback) by which all others know it,
an uplink to the host for the broker, and one pair of interfaces for each link of the fleet file.
Routes to a device's own address lead over the link between the two, so what agents say to each
other crosses exactly the link that the fleet file describes.

::

    10.<net>.1.<k>                own address of device k
    10.<net>.2.<k>  .2.254        uplink of device k, and the host
    10.<net>.<16 + m>.1  .2       ends of link m
"""

import hashlib
from dataclasses import dataclass

from edgekit.errors import ConfigError
from edgekit.spec.fleet import Fleet

RELAY_FROM_S = 2e-3
"""Round trips below this are not emulated: bare links have some 0.05 ms, a relay would add more."""
_MOST_DEVICES = 100
_FIRST_LINK_NET = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where one device lives."""

    device: str
    namespace: str
    address: str
    uplink_address: str
    uplink: str
    """Name of the host's end of its uplink."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One link."""

    ends: tuple[str, str]
    """Devices."""
    interfaces: tuple[str, str]
    addresses: tuple[str, str]
    bytes_per_s: tuple[float, float]
    """Goodput from the first end to the second, and back."""
    delay_s: float
    """One way; 0: as fast as it goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All of it."""

    tag: str
    """What all names in the kernel begin with."""
    bridge: str
    host_address: str
    seats: tuple[Seat, ...]
    wires: tuple[Wire, ...]

    def seat(self, device: str) -> Seat:
        """Where ``device`` lives. Raises: ConfigError if the fleet has no such device."""
        for one in self.seats:
            if one.device == device:
                return one
        raise ConfigError(
            f"the testbed has no device {device!r}",
            hint=f"use one of {', '.join(one.device for one in self.seats)}",
        )


def layout_of(fleet: Fleet, *, key: str, net: int = 77) -> Layout:
    """The layout of ``fleet``. ``key`` tells testbeds of one machine apart, ``net`` addresses.

    Raises: ConfigError if there are too many devices, or two links join the same pair.
    """
    count = len(fleet.device)
    if count > _MOST_DEVICES or len(fleet.link) > _MOST_DEVICES:
        raise ConfigError(
            f"fleet {fleet.name!r} has {count} devices and {len(fleet.link)} links",
            hint=f"the testbed takes up to {_MOST_DEVICES} of each",
        )
    pairs = [frozenset((link.source, link.target)) for link in fleet.link]
    if len(set(pairs)) != len(pairs) or any(len(pair) < 2 for pair in pairs):
        raise ConfigError(
            f"fleet {fleet.name!r} joins two devices twice, or one with itself",
            hint="write one [[link]] for a pair, with bandwidth_back if it differs",
        )
    # An interface name has at most 15 characters.
    tag = f"ek{hashlib.sha256(key.encode()).hexdigest()[:6]}"
    seats = tuple(
        Seat(
            device=device.name,
            namespace=f"{tag}-{device.name}",
            address=f"10.{net}.1.{number}",
            uplink_address=f"10.{net}.2.{number}",
            uplink=f"{tag}u{number}",
        )
        for number, device in enumerate(fleet.device, start=1)
    )
    wires = tuple(
        Wire(
            ends=(link.source, link.target),
            interfaces=(f"{tag}l{number}a", f"{tag}l{number}b"),
            addresses=(
                f"10.{net}.{_FIRST_LINK_NET + number}.1",
                f"10.{net}.{_FIRST_LINK_NET + number}.2",
            ),
            bytes_per_s=(link.toward(link.target), link.toward(link.source)),
            delay_s=link.rtt_s / 2 if link.rtt_s >= RELAY_FROM_S else 0.0,
        )
        for number, link in enumerate(fleet.link)
    )
    return Layout(
        tag=tag, bridge=f"{tag}br", host_address=f"10.{net}.2.254", seats=seats, wires=wires
    )
