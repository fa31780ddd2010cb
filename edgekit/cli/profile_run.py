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
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edgekit.cli.render import print_json, say, show_facts, warn
from edgekit.errors import ConfigError
from edgekit.profiler.conditions import complaints, observe, refuse_bad
from edgekit.profiler.library import user_folder
from edgekit.profiler.run import ProfileOptions, measure_profile
from edgekit.profiler.run import Progress as Tell
from edgekit.spec.base import save
from edgekit.spec.profile import DeviceProfile

_FULL_S, _FULL_KERNELS = 240.0, 1600
_QUICK_S, _QUICK_KERNELS = 45.0, 500
_FOLDER = Path("device_profiles")


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
def command(
    name: str | None,
    out: Path | None,
    quick: bool,
    threads: int,
    minutes: float,
    anyway: bool,
    as_json: bool,
) -> None:
    """Measure this device: ceilings, kernel times, kernel groups, overheads.

    Saved as device_profiles/NAME.toml if that folder is here, else among your own profiles.
    """
    name = name or re.sub(r"[^a-z0-9-]+", "-", platform.node().lower()).strip("-") or "device"
    if "/" in name:
        raise ConfigError(f"{name!r} is no name of a device", hint="use letters, digits and -")
    out = out or (_FOLDER if _FOLDER.is_dir() else user_folder()) / f"{name}.toml"
    _check_writable(out)
    conditions = observe()
    if not anyway:
        refuse_bad(conditions)
    elif found := complaints(conditions):
        warn(f"measuring anyway: {'; '.join(found)}")
    options = ProfileOptions(
        name=name,
        threads=threads,
        budget_s=_QUICK_S if quick else _FULL_S,
        most_kernels=_QUICK_KERNELS if quick else _FULL_KERNELS,
        sustained_minutes=minutes,
    )
    journal = out.with_name(f".{out.name}.{'quick' if quick else 'full'}.journal")
    with _progress(enabled=not as_json) as tell:
        profile = measure_profile(options, journal=journal, progress=tell, conditions=conditions)
    save(profile, out)
    with contextlib.suppress(OSError):
        journal.unlink()
    if as_json:
        print_json(profile)
    else:
        _show(profile, out)


def _check_writable(out: Path) -> None:
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
def _progress(*, enabled: bool) -> Iterator[Tell]:
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


def _show(profile: DeviceProfile, out: Path) -> None:
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
        }
    )
    say(f"saved {out}")
