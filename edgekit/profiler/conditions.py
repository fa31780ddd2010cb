"""What a board is like while it is measured: load, clock governor, power mode, heat, throttling.

In:  /proc, /sys and the board's own tools, as far as they are there.  Out: a Conditions.
Never a guess: what the board does not say stays empty.
Source: Raspberry Pi documentation of ``vcgencmd get_throttled``; Linux cpufreq and thermal sysfs.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit.errors import DeviceError
from edgekit.spec.profile import Conditions

_TOOL_TIMEOUT_S = 5.0
_THROTTLED_NOW = {
    0: "under-voltage",
    1: "clock capped",
    2: "throttled",
    3: "soft temperature limit",
}
"""Bits of ``vcgencmd get_throttled``; those 16 higher say that it happened since the boot."""
_BUSY_LOAD_PER_PROCESSOR = 0.3
HOT_CELSIUS = 85.0
"""From here on a processor slows itself down."""
_SHARED_SCATTER = 1.3
_FEWEST_PIECES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Where to look; tests point it at a made-up board."""

    root: Path = Path("/")

    def text(self, path: str) -> str:
        """Content of a file of the board, or nothing."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return ""

    def output(self, *command: str) -> str:
        """What a tool of the board prints, or nothing if there is none or it fails."""
        if shutil.which(command[0]) is None:
            return ""
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""


def observe(board: Board | None = None) -> Conditions:
    """Conditions now; the temperature goes into ``temperature_before_celsius``."""
    board = board or Board()
    load = board.text("proc/loadavg").split()
    return Conditions(
        load_1min=float(load[0]) if load else 0.0,
        governor=_governor(board),
        power_mode=_power_mode(board),
        throttle_flags=_throttling(board),
        temperature_before_celsius=_temperature(board),
    )


def measure_scatter(*, duration_s: float = 1.0, piece_s: float = 300e-6) -> float:
    """p90 / p10 of the times of equal pieces of work of about ``piece_s`` each.

    About 1 on a core of one's own. On half a core, or on a processor shared with other virtual
    machines, pieces take up to twice as long for milliseconds at a time, which no load shows.
    """
    import numpy as np  # the check-up looks at conditions where numpy may be broken

    values = np.linspace(0.0, 1.0, 2048)
    results = np.empty_like(values)

    def piece(count: int) -> float:
        began_s = time.perf_counter()
        for _ in range(count):
            np.sin(values, out=results)
        return time.perf_counter() - began_s

    one_s = min(piece(1) for _ in range(20))
    count = max(1, round(piece_s / one_s))
    times_s: list[float] = []
    until_s = time.perf_counter() + duration_s
    while len(times_s) < _FEWEST_PIECES or time.perf_counter() < until_s:
        times_s.append(piece(count))
    return scatter_of(times_s)


def scatter_of(times_s: Sequence[float]) -> float:
    """p90 / p10 of positive times [s]. Raises: ValueError if there are none."""
    if not times_s:
        raise ValueError("no times, no scatter")
    import numpy as np

    low_s, high_s = np.percentile(times_s, (10, 90))
    return round(float(high_s / low_s), 2)


def notes(conditions: Conditions) -> tuple[str, ...]:
    """What to know about a measurement that is good all the same."""
    if conditions.scatter < _SHARED_SCATTER:
        return ()
    return (
        f"shared processor: runs scatter by {conditions.scatter:.1f}x; times are those of "
        "undisturbed runs",
    )


def after(before: Conditions, board: Board | None = None) -> Conditions:
    """``before`` with what the board is like now, after the measurement."""
    now = observe(board)
    flags = sorted({*before.throttle_flags.split(", "), *now.throttle_flags.split(", ")} - {""})
    return msgspec.structs.replace(
        before,
        throttle_flags=", ".join(flags),
        temperature_after_celsius=now.temperature_before_celsius,
    )


def complaints(conditions: Conditions, *, processor_count: int | None = None) -> tuple[str, ...]:
    """Why a measurement under these conditions would not show what the board can do."""
    processors = processor_count or os.cpu_count() or 1
    found = []
    if conditions.load_1min > _BUSY_LOAD_PER_PROCESSOR * processors:
        found.append(f"load {conditions.load_1min:.2f} on {processors} processors")
    now = [
        flag for flag in conditions.throttle_flags.split(", ") if flag in _THROTTLED_NOW.values()
    ]
    if now:
        found.append(f"throttling: {', '.join(now)}")
    heat = conditions.temperature_before_celsius
    if heat is not None and heat >= HOT_CELSIUS:
        found.append(f"{heat:.0f} degrees Celsius")
    if conditions.governor == "powersave":
        found.append("clock governor powersave")
    return tuple(found)


def refuse_bad(conditions: Conditions, *, processor_count: int | None = None) -> None:
    """Raise DeviceError naming what is wrong with a busy, hot or throttled board."""
    found = complaints(conditions, processor_count=processor_count)
    if found:
        raise DeviceError(
            f"this board cannot be measured now: {'; '.join(found)}",
            hint="stop what else runs, cool it, set the governor to performance, or say --anyway",
        )


def _governor(board: Board) -> str:
    folder = board.root / "sys/devices/system/cpu"
    names = {
        board.text(str(path.relative_to(board.root)))
        for path in sorted(folder.glob("cpu[0-9]*/cpufreq/scaling_governor"))
    }
    return ", ".join(sorted(names - {""}))


def _power_mode(board: Board) -> str:
    """Jetson: the line of ``nvpmodel -q`` that names the mode."""
    for line in board.output("nvpmodel", "-q").splitlines():
        if line.startswith("NV Power Mode:"):
            return line.removeprefix("NV Power Mode:").strip()
    return ""


def _throttling(board: Board) -> str:
    """Raspberry Pi: what ``vcgencmd get_throttled`` says, in words."""
    text = board.output("vcgencmd", "get_throttled").removeprefix("throttled=")
    try:
        bits = int(text, 16)
    except ValueError:
        return ""
    now = [word for bit, word in _THROTTLED_NOW.items() if bits >> bit & 1]
    past = [f"{word} since boot" for bit, word in _THROTTLED_NOW.items() if bits >> (bit + 16) & 1]
    return ", ".join(now + past)


def _temperature(board: Board) -> float | None:
    """The hottest thermal zone [degrees Celsius]."""
    found = []
    for path in sorted((board.root / "sys/class/thermal").glob("thermal_zone*/temp")):
        text = board.text(str(path.relative_to(board.root)))
        if text.lstrip("-").isdigit():
            found.append(int(text) / 1000)
    return max((one for one in found if -40 < one < 150), default=None)
