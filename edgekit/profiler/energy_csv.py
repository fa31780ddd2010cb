"""A USB power meter that writes a CSV file while the device is measured.

In:  a file with a time column and W, or V and A.  Out: mean power [W] while some work runs.
Columns, in any order and case: ``time`` (seconds since 1970, or ISO 8601; local unless it says
otherwise) and ``W`` (or ``power``), or ``V`` and ``A``. The meter's computer and this one must
agree about the time: samples are matched by the wall clock.
"""

import csv
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from edgekit.errors import ConfigError

_TIMES = ("time", "timestamp", "t")
_POWERS = ("w", "power", "power_w", "watt")
_VOLTS, _AMPERES = ("v", "voltage", "voltage_v"), ("a", "current", "current_a")
_LATE_S = 5.0
"""How long a logger may take to write its last samples."""
_FEWEST = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """Power at one moment of the wall clock."""

    time_s: float
    power_w: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvMeter:
    """The file of a power logger that runs beside the measurement."""

    path: Path
    clock_s: Callable[[], float] = time.time
    late_s: float = _LATE_S

    @property
    def name(self) -> str:
        """The file's name tells which meter it was."""
        return f"CSV {self.path.name}"

    def power_during(self, work: Callable[[], None]) -> float:
        """Mean over the window of the work [W].

        Raises: ConfigError if the file has no samples of that time, or cannot be read.
        """
        began_s = self.clock_s()
        work()
        ended_s = self.clock_s()
        deadline_s = time.monotonic() + self.late_s
        while True:
            samples = self._read()
            if (samples and samples[-1].time_s >= ended_s) or time.monotonic() >= deadline_s:
                return mean_power_w(samples, began_s, ended_s, origin=str(self.path))
            time.sleep(min(0.2, self.late_s))

    def _read(self) -> tuple[Sample, ...]:
        try:
            text = self.path.read_text(encoding="utf-8-sig", errors="replace")
        except OSError as error:
            raise ConfigError(
                f"cannot read {self.path}: {error.strerror}",
                hint="start the logger first, and give --power-csv the file it writes",
            ) from None
        return parse_power_csv(text, origin=str(self.path))


def parse_power_csv(text: str, *, origin: str) -> tuple[Sample, ...]:
    """Samples in order of time. A last line without its end is still being written, and left out.

    Raises: ConfigError naming ``origin`` and the line.
    """
    whole = text[: text.rfind("\n") + 1]
    rows = [row for row in csv.reader(io.StringIO(whole)) if any(cell.strip() for cell in row)]
    if not rows:
        return ()
    header = [cell.strip().lower() for cell in rows[0]]
    when, power = _column(header, _TIMES), _column(header, _POWERS)
    volts, amperes = _column(header, _VOLTS), _column(header, _AMPERES)
    if when is None or (power is None and (volts is None or amperes is None)):
        raise ConfigError(
            f"{origin}: columns are {', '.join(header)[:200]}",
            hint="name them time and W, or time, V and A, in the first line",
        )
    samples = []
    for number, row in enumerate(rows[1:], start=2):
        try:
            watts = (
                float(row[power])
                if power is not None
                else float(row[volts or 0]) * float(row[amperes or 0])
            )
            sample = Sample(_seconds(row[when].strip()), watts)
            if not (math.isfinite(sample.time_s) and math.isfinite(watts)):
                raise ValueError("not a finite number")
        except (ValueError, IndexError, OverflowError) as error:
            raise ConfigError(
                f"{origin}, row {number}: {','.join(row)[:100]!r}: {error}",
                hint="remove that row, or export the file again",
            ) from None
        samples.append(sample)
    return tuple(sorted(samples, key=lambda one: one.time_s))


def mean_power_w(
    samples: Sequence[Sample], began_s: float, ended_s: float, *, origin: str
) -> float:
    """Time-weighted mean of the samples inside the window, straight lines between them [W].

    Raises: ConfigError if there are fewer than two, or they leave out half of the window.
    """
    inside = [one for one in samples if began_s <= one.time_s <= ended_s]
    covered_s = inside[-1].time_s - inside[0].time_s if len(inside) >= _FEWEST else 0.0
    if covered_s <= 0 or covered_s < 0.5 * (ended_s - began_s):
        known = f"from {_clock(samples[0])} to {_clock(samples[-1])}" if samples else "nothing"
        raise ConfigError(
            f"{origin} holds {len(inside)} samples between {datetime.fromtimestamp(began_s)} and "
            f"{datetime.fromtimestamp(ended_s)}; it covers {known}",
            hint="let the logger run during the whole measurement, at least once a second, and "
            "set both clocks alike",
        )
    energy_j = sum(
        0.5 * (one.power_w + other.power_w) * (other.time_s - one.time_s)
        for one, other in pairwise(inside)
    )
    return energy_j / covered_s


def _clock(sample: Sample) -> str:
    try:
        return str(datetime.fromtimestamp(sample.time_s))
    except (ValueError, OverflowError, OSError):
        return f"{sample.time_s:g} s"


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """The first column called one of ``names``; a unit in brackets is ignored."""
    plain = [cell.split("(")[0].split("[")[0].strip() for cell in header]
    return next((plain.index(name) for name in names if name in plain), None)


def _seconds(text: str) -> float:
    """Since 1970. Raises: ValueError for what is neither a number nor ISO 8601."""
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
