"""``edgekit profile [run]``: measure what this device can do, and save it as a profile."""

import contextlib
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edgekit.cli.fleet_child import lines_for_agent
from edgekit.cli.profile_extras import (
    CSV_OPTION,
    METER_OPTION,
    PROVIDER_OPTION,
    checked_extras,
)
from edgekit.cli.profile_text import energy_text, session_memory_text
from edgekit.cli.render import print_json, say, show_facts, warn
from edgekit.errors import ConfigError
from edgekit.profiler.conditions import complaints, measure_scatter, notes, observe, refuse_bad
from edgekit.profiler.library import user_folder, working_folder
from edgekit.profiler.run import ProfileOptions, measure_profile
from edgekit.profiler.run import Progress as Tell
from edgekit.spec.base import save
from edgekit.spec.profile import Conditions, DeviceProfile

_FULL_S, _FULL_KERNELS = 480.0, 2400
_QUICK_S, _QUICK_KERNELS = 45.0, 500


@click.command("run")
@click.option("--device", "name", metavar="NAME", help="Name of the profile; else the host's.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="File; else device_profiles/NAME.toml."
)
@click.option("--quick", is_flag=True, help="Under a minute, less certain.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024))
@click.option("--sustained", "minutes", default=0.0, metavar="MINUTES", help="Heat it up as well.")
@click.option("--anyway", is_flag=True, help="Also on a busy, hot or throttled board.")
@click.option("--json", "as_json", is_flag=True, help="Print the profile as JSON.")
@click.option(
    "--budget", "budget_s", type=click.FloatRange(1.0, 36000.0), help="Seconds, instead of --quick."
)
@PROVIDER_OPTION
@METER_OPTION
@CSV_OPTION
@click.option("--for-agent", is_flag=True, hidden=True, help="Progress as JSON; end with stdin.")
def command(
    name: str | None,
    out: Path | None,
    quick: bool,
    threads: int,
    minutes: float,
    anyway: bool,
    as_json: bool,
    budget_s: float | None,
    providers: tuple[str, ...],
    meter: str,
    power_csv: Path | None,
    for_agent: bool,
) -> None:
    """Measure this device: ceilings, kernel times, kernel groups, overheads.

    Saved as device_profiles/NAME.toml if that folder is here, else among your own profiles.
    """
    name = name or re.sub(r"[^a-z0-9-]+", "-", platform.node().lower()).strip("-") or "device"
    if "/" in name:
        raise ConfigError(f"{name!r} is no name of a device", hint="use letters, digits and -")
    out = out or default_out(name)
    check_writable(out)
    extras = checked_extras(meter=meter, power_csv=power_csv, providers=providers, is_quick=quick)
    conditions = _conditions(anyway=anyway)
    options = ProfileOptions(
        name=name,
        threads=threads,
        budget_s=budget_s or (_QUICK_S if quick else _FULL_S),
        most_kernels=_QUICK_KERNELS if quick else _FULL_KERNELS,
        sustained_minutes=minutes,
    )
    journal = out.with_name(f".{out.name}.{'quick' if quick else 'full'}.journal")
    with lines_for_agent() if for_agent else share_progress(enabled=not as_json) as tell:
        profile = measure_profile(options, journal=journal, progress=tell, conditions=conditions)
        profile = extras.add_to(profile, tell)
    save(profile, out)
    with contextlib.suppress(OSError):
        journal.unlink()
    if as_json:
        print_json(profile)
    elif not for_agent:
        show_measured(profile, out)


def _conditions(*, anyway: bool) -> Conditions:
    """What the board is like; a bad one is refused unless told otherwise."""
    conditions = observe()
    if not anyway:
        refuse_bad(conditions)
    elif found := complaints(conditions):
        warn(f"measuring anyway: {'; '.join(found)}")
    conditions = msgspec.structs.replace(conditions, scatter=measure_scatter())
    for note in notes(conditions):
        warn(note)
    return conditions


def default_out(name: str) -> Path:
    """Where the profile ``name`` is saved unless told otherwise."""
    folder = working_folder()
    return (folder if folder.is_dir() else user_folder()) / f"{name}.toml"


def check_writable(out: Path) -> None:
    """Find out before the measuring, not after it."""
    if out.suffix not in (".toml", ".json"):
        raise ConfigError(
            f"{out} would be neither TOML nor JSON", hint="let its name end in .toml or .json"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the folder {out.parent}: {error.strerror}", hint="choose --out elsewhere"
        ) from None
    if not os.access(out.parent, os.W_OK):
        raise ConfigError(f"cannot write into {out.parent}", hint="choose --out elsewhere")


@contextmanager
def share_progress(*, enabled: bool) -> Iterator[Tell]:
    """A bar with what is done and how long it will still take; silent where nobody watches."""
    if not enabled or not sys.stderr.isatty():
        yield lambda text, share: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    began_s = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, left="")

        def tell(text: str, share: float) -> None:
            used_s = time.monotonic() - began_s
            left_s = used_s * (1 - share) / share if share > 0.02 else 0.0
            left = f"about {left_s:.0f} s left" if left_s else ""
            bar.update(task, description=text, completed=share, left=left)

        yield tell


def show_measured(profile: DeviceProfile, out: Path) -> None:
    """What was measured, for people."""
    roofs = ", ".join(f"{one.precision} {one.compute}" for one in profile.ceiling)
    error = profile.error
    show_facts(
        {
            "device": f"{profile.name} ({profile.processor})",
            "runtime": f"{profile.runtime}, {profile.threads} threads",
            "ceilings": roofs,
            "memory": f"{profile.memory_bandwidth} (cache {profile.cache_bandwidth})",
            "overheads": f"{profile.launch_overhead} a kernel, "
            f"{profile.session_overhead} an inference",
            "kernels": f"{len(profile.kernel)} times",
            "error": f"{error.mape_percent:.1f} % on {error.model_count} made-up networks "
            f"(worst {error.worst_percent:.0f} %)"
            if error
            else "not measured",
            "fused": ", ".join(profile.fused) or "nothing",
            "session memory": session_memory_text(profile),
            "energy": energy_text(profile),
        }
    )
    say(f"saved {out}")
