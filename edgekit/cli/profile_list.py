"""``edgekit profile list``: which devices a plan can name, and how well each is known."""

import click

from edgekit.cli.render import print_json, say, show_table, warn
from edgekit.profiler.library import FoundProfile, list_profiles, stale_reason
from edgekit.runtime.ort import runtime_name
from edgekit.spec.profile import DeviceProfile


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def command(as_json: bool) -> None:
    """List every device profile that can be named: your own first, then the shipped ones."""
    library = list_profiles()
    runtime = runtime_name()
    for problem in library.problems:
        warn(f"left out: {problem}")
    if as_json:
        print_json({"profiles": [_as_json(one, runtime) for one in library.found]})
        return
    columns = ("profile", "source", "processor", "memory", "bandwidth", "best compute", "error")
    rows = [_row(one.profile, runtime) for one in library.found]
    show_table("device profiles", columns, rows, left=3)
    say("Datasheet figures are peaks; edgekit profile measures what this device attains.")


def _row(profile: DeviceProfile, runtime: str) -> tuple[str, ...]:
    best = max(profile.ceiling, key=lambda one: one.flop_per_s)
    source = profile.source + (", stale" if stale_reason(profile, runtime) else "")
    error = f"{profile.error.mape_percent:.1f} %" if profile.error else ""
    compute = f"{best.compute} {best.precision} {best.provider}"
    return (profile.name, source, profile.processor, profile.memory, profile.memory_bandwidth,
            compute, error)  # fmt: skip


def _as_json(found: FoundProfile, runtime: str) -> dict[str, object]:
    profile = found.profile
    return {
        "name": profile.name,
        "path": str(found.path),
        "source": profile.source,
        "processor": profile.processor,
        "memory_bytes": profile.memory_bytes,
        "memory_bytes_per_s": profile.memory_bytes_per_s,
        "runtime": profile.runtime,
        "date": profile.date,
        "stale": bool(stale_reason(profile, runtime)),
        "mape_percent": profile.error.mape_percent if profile.error else None,
    }
