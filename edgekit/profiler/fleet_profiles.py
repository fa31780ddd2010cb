"""What each device of a fleet can do: its profile, found by name or derived from this machine.

In:  a Fleet and the folder of its file.  Out: a DeviceProfile for each device that can run a shard,
which of them are this machine, and what was assumed.
A fleet that names no profile at all is taken as `edgekit demo` runs it: its fastest device is this
machine, and the others are slower by their relative_speed.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from edgekit.errors import ConfigError
from edgekit.planner.what_if import scaled_profile
from edgekit.profiler import ceilings
from edgekit.profiler.habits import detect_habits
from edgekit.profiler.library import Library, find_profile, list_profiles, stale_reason
from edgekit.profiler.run import processor_name
from edgekit.runtime.ort import runtime_name
from edgekit.spec.fleet import Device, Fleet
from edgekit.spec.profile import Ceiling, DeviceProfile

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetProfiles:
    """The profile of each device, by its name in the fleet."""

    profiles: Mapping[str, DeviceProfile]
    here: Mapping[str, float]
    """Devices that are this machine, or stand for it: how many times slower they are."""
    coding_speed: Mapping[str, float]
    """How fast each codes frames, this machine being 1."""
    notes: tuple[str, ...]


def fleet_profiles(fleet: Fleet, folder: Path, *, say: Say | None = None) -> FleetProfiles:
    """Profiles of every device of ``fleet`` that can run a shard; paths are beside ``folder``.

    Raises: ConfigError naming the device without a profile, and how to get one.
    """
    if not any(device.profile for device in fleet.device):
        return _as_this_machine(fleet, say or (lambda text: None))
    profiles, here, notes = {}, {}, []
    for device in fleet.device:
        if not device.profile and not device.can_run:
            continue
        profile = _named(device, folder)
        profiles[device.name] = profile
        if is_this_machine(profile):
            here[device.name] = 1.0
        if reason := stale_reason(profile, runtime_name()):
            notes.append(f"{device.name}: {reason}")
        if profile.source == "measured" and not profile.kernel:
            notes.append(f"{device.name}: {profile.name} holds no kernel times, only ceilings")
    speeds = _coding_speeds(profiles, here)
    rough = [f"{name} {speed:.2g}" for name, speed in speeds.items() if name not in here]
    if rough:
        notes.append(
            "coding frames is taken to be as fast as a core's peak in fp32, this machine being 1: "
            + ", ".join(rough)
        )
    return FleetProfiles(profiles=profiles, here=here, coding_speed=speeds, notes=tuple(notes))


def is_this_machine(profile: DeviceProfile) -> bool:
    """Whether ``profile`` was measured by this runtime on this kind of processor."""
    return (
        profile.source == "measured"
        and profile.processor == processor_name()
        and not profile.is_stale(runtime_name())
    )


def profile_of_this_machine(library: Library | None = None) -> DeviceProfile | None:
    """The newest known profile of this machine, or None."""
    known = [one.profile for one in (library or list_profiles()).found]
    ours = [profile for profile in known if is_this_machine(profile)]
    return max(ours, key=lambda one: (bool(one.kernel), one.date, one.name), default=None)


def quick_profile(*, threads: int = 1) -> DeviceProfile:
    """Ceilings and overheads of this machine in a few seconds; no kernel times."""
    rate = ceilings.compute_ceiling("fp32", threads=threads, budget_s=1.0)
    if rate is None:
        raise ConfigError(
            "the runtime of this machine has no fp32 convolution", hint="reinstall onnxruntime"
        )
    extra = ceilings.overheads(threads=threads, budget_s=0.5)
    return DeviceProfile(
        name="this-machine",
        source="measured",
        reference="its ceilings, measured a moment ago",
        processor=processor_name(),
        memory=f"{_memory_bytes() / 1e9:.4g} GB",
        memory_bandwidth=f"{ceilings.memory_bandwidth(budget_s=0.5) / 1e9:.4g} GB/s",
        cache_bandwidth=f"{ceilings.cache_bandwidth(budget_s=0.2) / 1e9:.4g} GB/s",
        copy_bandwidth=f"{extra.copy_bytes_per_s / 1e9:.4g} GB/s",
        launch_overhead=f"{1e6 * extra.launch_s:.4g} us",
        session_overhead=f"{1e6 * extra.session_s:.4g} us",
        ceiling=(Ceiling(precision="fp32", compute=f"{rate / 1e9:.4g} Gflop/s"),),
        fused=detect_habits(),
        threads=threads,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        runtime=runtime_name(),
    )


def _coding_speeds(
    profiles: Mapping[str, DeviceProfile], here: Mapping[str, float]
) -> dict[str, float]:
    """Per device, relative to this machine: by the fp32 peak of one core."""
    speeds = {name: 1 / factor for name, factor in here.items()}
    others = {
        name: roof.flop_per_s / max(1, profile.threads)
        for name, profile in profiles.items()
        if name not in here and (roof := profile.roof("fp32", "cpu")) is not None
    }
    if not others:
        return speeds
    known = profile_of_this_machine()
    roof = known.roof("fp32", "cpu") if known is not None else None
    if known is not None and roof is not None:
        own = roof.flop_per_s / max(1, known.threads)
    else:
        own = ceilings.compute_ceiling("fp32", budget_s=0.5) or 0.0
    return speeds | ({name: rate / own for name, rate in others.items()} if own else {})


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _as_this_machine(fleet: Fleet, say: Say) -> FleetProfiles:
    base = profile_of_this_machine()
    notes = []
    if base is None:
        say("measuring what this machine can do")
        base = quick_profile()
        notes.append(
            "this machine has no profile: its ceilings were measured a moment ago; times of "
            "kernels come with `edgekit profile --quick`"
        )
    here = {device.name: fleet.slowdown(device) for device in fleet.device if device.can_run}
    words = ", ".join(
        f"{name} is this machine" if factor == 1 else f"{name} {factor:.3g} times slower"
        for name, factor in here.items()
    )
    notes.append(
        f"the fleet names no profiles, so as `edgekit demo` would run it: {words} "
        '(name real ones with profile = "raspberry-pi-4")'
    )
    profiles = {
        name: base if factor == 1 else scaled_profile(base, 1 / factor)
        for name, factor in here.items()
    }
    speeds = {name: 1 / factor for name, factor in here.items()}
    return FleetProfiles(profiles=profiles, here=here, coding_speed=speeds, notes=tuple(notes))


def _named(device: Device, folder: Path) -> DeviceProfile:
    """The profile that ``device`` names: one of the library, or a file beside the fleet file."""
    how = (
        f"on it run `edgekit profile --device {device.name}`, or from here `edgekit fleet profile "
        f'{device.name}`, and write profile = "{device.name}"; or name its kind, such as '
        'profile = "raspberry-pi-4"'
    )
    if not device.profile:
        raise ConfigError(
            f"device {device.name!r} has no profile, so nothing is known of its speed", hint=how
        )
    beside = folder / device.profile
    is_file = device.profile.endswith(".toml") and beside.is_file()
    try:
        return find_profile(str(beside) if is_file else device.profile).profile
    except ConfigError as error:
        raise ConfigError(
            f"device {device.name!r}: {error.what}", hint=f"{error.hint}; or {how}"
        ) from None
