"""Does the testbed give what the fleet file says? Measured with the tools that users have.

In:  a bed.  Out: Rows of wanted and measured figures; within 5 % is what the testbed promises.
Compute: the same network inside every device, in turns, as ratios to the fastest one. Links:
`edgekit link`, both ways.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from edgekit.errors import DeviceError
from edgekit.spec.fleet import Fleet, Link
from tests.testbed.layout import RELAY_FROM_S
from tests.testbed.plain import Bed
from tests.testbed.testbed import Testbed

PROMISE_PERCENT = 5.0
_ROOT = Path(__file__).parents[2]
_PORT = 7700
_TRIES = 40
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure."""

    what: str
    unit: str
    wanted: float
    measured: float

    @property
    def error_percent(self) -> float:
        """By how much the measured figure is off."""
        return 100 * abs(self.measured / self.wanted - 1)


def dilations(fleet: Fleet) -> dict[str, float]:
    """By device, how many times slower than this machine it is to be."""
    return {device.name: max(1.0, fleet.slowdown(device)) for device in fleet.device}


def calibrate_compute(bed: Bed, *, rounds: int = 5, say: Say = print) -> list[Row]:
    """Times of every device, relative to the fastest."""
    factors = dilations(bed.fleet)
    times_s: dict[str, list[float]] = {device: [] for device in factors}
    for turn in range(rounds):
        for device, factor in factors.items():
            say(f"compute, round {turn + 1} of {rounds}: {device}")
            times_s[device].append(_time_s(bed, device, factor))
    reference = min(factors, key=lambda device: factors[device])
    base_s = median(times_s[reference])
    return [
        Row(
            what=f"{device} is slower than {reference} by",
            unit="times",
            wanted=factor / factors[reference],
            measured=median(times_s[device]) / base_s,
        )
        for device, factor in factors.items()
        if device != reference
    ]


def calibrate_links(bed: Testbed, *, duration_s: float = 3.0, say: Say = print) -> list[Row]:
    """Bandwidth both ways and round trip of every link of the fleet file."""
    rows: list[Row] = []
    for link in bed.fleet.link:
        say(f"link: {link.source} - {link.target}")
        there, back = _measured(bed, link, duration_s)
        for source, target, found in (
            (link.source, link.target, there),
            (link.target, link.source, back),
        ):
            rows.append(
                Row(
                    what=f"{source} to {target}",
                    unit="Mbit/s",
                    wanted=8e-6 * link.toward(target),
                    measured=8e-6 * found["bandwidth_bytes_per_s"],
                )
            )
        if link.rtt_s >= RELAY_FROM_S:
            rows.append(
                Row(
                    what=f"{link.source} - {link.target}, round trip",
                    unit="ms",
                    wanted=1e3 * link.rtt_s,
                    measured=1e3 * there["rtt_p50_s"],
                )
            )
    return rows


def _time_s(bed: Bed, device: str, factor: float) -> float:
    words = [*bed.prefix(device), sys.executable, "-m", "tests.testbed.stopwatch", str(factor)]
    done = subprocess.run(words, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(
            f"{device} could not do its work: {done.stderr.strip().splitlines()[-1:]}",
            hint="give it more memory in the fleet file",
        )
    return float(done.stdout)


def _measured(bed: Testbed, link: Link, duration_s: float) -> tuple[dict[str, float], ...]:
    """What `edgekit link` says of both directions."""
    edgekit = [sys.executable, "-m", "edgekit", "link"]
    serving = subprocess.Popen(
        [*bed.prefix(link.target), *edgekit, "--serve", "--port", str(_PORT)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    place = f"{bed.address(link.target)}:{_PORT}"
    asking = [*bed.prefix(link.source), *edgekit, place, "--json", "--duration", str(duration_s)]
    try:
        for _ in _tries():
            done = subprocess.run(asking, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return tuple(json.loads(done.stdout)["link"])
    finally:
        serving.terminate()
        serving.wait()
    raise DeviceError(
        f"{link.source} does not reach {link.target}: {done.stderr.strip()[-200:]}",
        hint="run `python -m tests.testbed clean`",
    )


def _tries() -> Iterator[int]:
    """A few, with pauses: the other end may still be starting."""
    for count in range(_TRIES):
        yield count
        time.sleep(0.25)
