"""Meters that boards have built in: the INA3221 of Jetson modules, and RAPL of x86 processors.

In:  a root folder with the board's /sys.  Out: mean power [W] while some work runs.
Source: NVIDIA Jetson Linux Developer Guide, "Power Monitor" (r32: iio devices with rail names and
power in mW; r34 and later: hwmon with voltages in mV and currents in mA); Linux kernel
documentation, hwmon/ina3221 and power/powercap (energy in uJ, wrapping at max_energy_range_uj).
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import DeviceError

_SAMPLE_EVERY_S = 0.05
_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
"""Rails that feed all others of the module; Xavier and AGX Orin have none, and are summed up."""
_CHANNELS = (1, 2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rail:
    """One channel of a power monitor: a file in mW, or one in mV and one in mA."""

    name: str
    files: tuple[Path, ...]

    def power_w(self) -> float:
        """Power now [W]. Raises: DeviceError if a file cannot be read."""
        values = [_number(path) for path in self.files]
        return values[0] / 1e3 if len(values) == 1 else values[0] * values[1] / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Ina3221Meter:
    """The power monitor of a Jetson, read again and again while the work runs."""

    rails: tuple[Rail, ...]

    @classmethod
    def find(cls, root: Path) -> "Ina3221Meter | None":
        """That of this board: the rail that feeds the module, else all of them; None without."""
        found = {rail.name: rail for rail in _rails(root)}
        for total in _TOTAL_RAILS:
            if total in found:
                return cls(rails=(found[total],))
        return cls(rails=tuple(found[name] for name in sorted(found))) if found else None

    @property
    def name(self) -> str:
        """Which rails are summed up."""
        return f"INA3221 {' + '.join(rail.name for rail in self.rails)}"

    def power_during(self, work: Callable[[], None]) -> float:
        """Mean of the samples [W]. Raises: DeviceError if the monitor cannot be read."""
        samples_w: list[float] = []
        failures: list[DeviceError] = []
        done = threading.Event()

        def sample() -> None:
            try:
                while not done.wait(_SAMPLE_EVERY_S):
                    samples_w.append(sum(rail.power_w() for rail in self.rails))
            except DeviceError as error:
                failures.append(error)

        sampler = threading.Thread(target=sample, name="edgekit-power", daemon=True)
        sampler.start()
        try:
            work()
        finally:
            done.set()
            sampler.join()
        if failures:
            raise failures[0]
        if not samples_w:
            raise DeviceError(f"{self.name} gave no sample", hint="measure for a second or longer")
        return sum(samples_w) / len(samples_w)


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One energy counter of RAPL."""

    name: str
    counter: Path
    range_uj: float

    def used_uj(self, before_uj: float) -> float:
        """Since it read ``before_uj``; it starts again at 0 after its range."""
        used_uj = _number(self.counter) - before_uj
        return used_uj if used_uj >= 0 else used_uj + self.range_uj


@dataclass(frozen=True, slots=True, kw_only=True)
class RaplMeter:
    """Processor packages and memory of an x86 machine, by their own energy counters.

    Not the whole machine: power supply, disks and graphics cards are not in it.
    """

    zones: tuple[Zone, ...]
    clock_s: Callable[[], float] = time.monotonic

    @classmethod
    def find(cls, root: Path) -> "RaplMeter | None":
        """That of this machine, or None.

        Raises: DeviceError if its counters are for root only, as Linux has them since 5.10.
        """
        zones = tuple(_zones(root))
        for zone in zones:
            _number(zone.counter)
        return cls(zones=zones) if zones else None

    @property
    def name(self) -> str:
        """Which zones are summed up."""
        return f"RAPL {' + '.join(zone.name for zone in self.zones)}"

    def power_during(self, work: Callable[[], None]) -> float:
        """Energy used over time taken [W]. Raises: DeviceError if a counter cannot be read."""
        before_uj = [_number(zone.counter) for zone in self.zones]
        began_s = self.clock_s()
        work()
        took_s = self.clock_s() - began_s
        used_uj = sum(
            zone.used_uj(before) for zone, before in zip(self.zones, before_uj, strict=True)
        )
        if took_s <= 0:
            raise DeviceError("no time went by at the meter", hint="measure for a second or longer")
        return 1e-6 * used_uj / took_s


def _rails(root: Path) -> Iterator[Rail]:
    """Channels that are connected, of every INA3221 on an I2C bus."""
    for device in sorted((root / "sys/bus/i2c/devices").glob("*")):
        if "ina3221" not in _text(device / "name"):
            continue
        for folder in sorted(device.glob("hwmon/hwmon*")):
            for channel in _CHANNELS:
                name = _text(folder / f"in{channel}_label")
                files = (folder / f"in{channel}_input", folder / f"curr{channel}_input")
                if name and name != "NC" and all(path.exists() for path in files):
                    yield Rail(name=name, files=files)
        for folder in sorted(device.glob("iio:device*")):
            for channel in range(len(_CHANNELS)):
                name = _text(folder / f"rail_name_{channel}")
                path = folder / f"in_power{channel}_input"
                if name and name != "NC" and path.exists():
                    yield Rail(name=name, files=(path,))


def _zones(root: Path) -> Iterator[Zone]:
    """Packages, and the memory beside them; cores and graphics are parts of a package."""
    for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        name, counter = _text(folder / "name"), folder / "energy_uj"
        if (name.startswith("package") or name == "dram") and counter.exists():
            yield Zone(name=name, counter=counter, range_uj=_number(folder / "max_energy_range_uj"))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> float:
    """A file with one whole number. Raises: DeviceError naming it."""
    try:
        return float(int(path.read_text()))
    except PermissionError:
        raise DeviceError(
            f"the power meter {path} may be read by root only",
            hint="run edgekit profile as root, or make the file readable",
        ) from None
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"cannot read the power meter {path}: {error}",
            hint="measure with --meter none, or with --power-csv",
        ) from None
