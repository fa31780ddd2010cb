"""Measure the power that a device draws idle and busy, where it has a meter.

In:  a Meter, and work that keeps the device busy.  Out: an Energy for the profile.
Idle-subtracted: an inference costs (busy - idle) x its time. Nothing here is ever derived from
arithmetic or from a datasheet.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgekit.errors import DeviceError
from edgekit.profiler.energy_meters import Ina3221Meter, RaplMeter
from edgekit.spec.profile import Energy

_SETTLE_S = 1.0
"""Before either window: clocks and fans follow the load late."""

_LEAST_DIFFERENCE = 0.01
"""Of the idle power: less is the meter's own last digit."""


class Meter(Protocol):
    """Something that tells power. Real: ``energy_meters``, ``energy_csv``. Fake: ScriptedMeter."""

    @property
    def name(self) -> str:
        """What it is and what it covers, for the profile."""

    def power_during(self, work: Callable[[], None]) -> float:
        """Mean power [W] while ``work`` runs. Raises: DeviceError or ConfigError if it fails."""


@dataclass
class ScriptedMeter:
    """Answers from a list, standing in for a meter; the work is done all the same."""

    powers_w: Sequence[float]
    name: str = "scripted"
    asked_count: int = field(default=0, init=False)

    def power_during(self, work: Callable[[], None]) -> float:
        """The next number of the list."""
        work()
        self.asked_count += 1
        return self.powers_w[self.asked_count - 1]


def find_meter(root: Path = Path("/")) -> Meter | None:
    """The meter of this board: a Jetson's rails, else RAPL; None if it has neither.

    Raises: DeviceError if there is one that may not be read.
    """
    return Ina3221Meter.find(root) or RaplMeter.find(root)


def measure_energy(
    meter: Meter,
    busy: Callable[[], object],
    *,
    idle_s: float = 5.0,
    busy_s: float = 10.0,
    settle_s: float = _SETTLE_S,
) -> Energy:
    """Power with ``busy`` called over and over for ``busy_s``, and idle for ``idle_s`` before and
    after it.

    Raises: DeviceError if the meter fails, or sees no more difference to busy than between the two
    idle windows; ConfigError for its file.
    """

    def work(duration_s: float) -> None:
        until_s = time.monotonic() + duration_s
        while time.monotonic() < until_s:
            busy()

    def idle_power_w() -> float:
        time.sleep(settle_s)
        return meter.power_during(lambda: time.sleep(idle_s))

    before_w = idle_power_w()
    work(settle_s)
    busy_w = meter.power_during(lambda: work(busy_s))
    after_w = idle_power_w()
    idle_w = (before_w + after_w) / 2
    if busy_w - idle_w <= max(abs(after_w - before_w), _LEAST_DIFFERENCE * idle_w):
        raise DeviceError(
            f"{meter.name} read {before_w:.2f} W and {after_w:.2f} W idle, {busy_w:.2f} W busy: "
            "no difference to tell",
            hint="stop what else runs on this device, or measure with --meter none",
        )
    return Energy(meter=meter.name, idle_w=round(idle_w, 4), busy_w=round(busy_w, 4))
