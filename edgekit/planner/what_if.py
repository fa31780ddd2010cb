"""The same question with one thing changed: a faster link, a slower device.

In:  a Fleet or a DeviceProfile, and a factor.  Out: a changed copy.  Pure.
A factor of 2 is twice as fast: twice the ceilings and bandwidths, half of every time.
"""

import msgspec

from edgekit.errors import PlanError
from edgekit.spec.fleet import Fleet, Link
from edgekit.spec.profile import Ceiling, DeviceProfile
from edgekit.units import parse_bandwidth, parse_duration, parse_rate

_LONGEST_OVERHEAD_S = 1.0
"""What a profile may hold."""


def scaled_profile(profile: DeviceProfile, factor: float) -> DeviceProfile:
    """``profile`` of a device ``factor`` times as fast in everything; memory stays what it is.

    Raises: PlanError unless the factor is positive.
    """
    if not factor > 0:
        raise PlanError(f"no device is {factor:g} times as fast", hint="give a positive factor")
    return msgspec.structs.replace(
        profile,
        memory_bandwidth=_bandwidth(profile.memory_bandwidth, factor),
        memory_bandwidth_sustained=_bandwidth(profile.memory_bandwidth_sustained, factor),
        cache_bandwidth=_bandwidth(profile.cache_bandwidth, factor),
        copy_bandwidth=_bandwidth(profile.copy_bandwidth, factor),
        launch_overhead=_duration(profile.launch_overhead, factor),
        session_overhead=_duration(profile.session_overhead, factor),
        ceiling=tuple(_ceiling(one, factor) for one in profile.ceiling),
        weight_read=tuple(
            msgspec.structs.replace(one, s_per_byte=one.s_per_byte / factor)
            for one in profile.weight_read
        ),
        kernel=tuple(
            msgspec.structs.replace(one, time_s=one.time_s / factor) for one in profile.kernel
        ),
    )


def with_bandwidth(fleet: Fleet, link: Link, factor: float) -> Fleet:
    """``fleet`` with ``link`` ``factor`` times as fast, both ways; its round trip stays."""
    faster = msgspec.structs.replace(
        link,
        bandwidth=_bandwidth(link.bandwidth, factor),
        bandwidth_back=_bandwidth(link.bandwidth_back, factor),
    )
    links = tuple(faster if one is link else one for one in fleet.link)
    return msgspec.structs.replace(fleet, link=links)


def _ceiling(one: Ceiling, factor: float) -> Ceiling:
    return msgspec.structs.replace(
        one, compute=_rate(one.compute, factor), sustained=_rate(one.sustained, factor)
    )


def _rate(text: str, factor: float) -> str:
    return f"{parse_rate(text) * factor / 1e9:.5g} Gflop/s" if text else ""


def _bandwidth(text: str, factor: float) -> str:
    return f"{parse_bandwidth(text) * factor / 1e6:.5g} MB/s" if text else ""


def _duration(text: str, factor: float) -> str:
    return f"{min(_LONGEST_OVERHEAD_S, parse_duration(text) / factor) * 1e6:.5g} us"
