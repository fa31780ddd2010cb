"""``python -m tests.testbed``: an emulated fleet: bring it up, see whether it holds, clean."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import click

from edgekit.errors import EdgeKitError
from edgekit.spec.base import load
from edgekit.spec.fleet import Fleet
from tests.testbed.calibrate import (
    PROMISE_PERCENT,
    calibrate_compute,
    calibrate_links,
    dilations,
)
from tests.testbed.plain import PlainBed
from tests.testbed.testbed import Testbed, clean


@click.group()
def main() -> None:
    """Emulate a fleet on this machine."""


@main.command("calibrate")
@click.argument("fleet", type=click.Path(exists=True, path_type=Path))
@click.option("--plain", is_flag=True, help="Without root: compute only.")
@click.option("--duration", default=3.0, show_default=True, help="Seconds for each link.")
@click.option("--json", "as_json", is_flag=True)
def calibrate(fleet: Path, plain: bool, duration: float, as_json: bool) -> None:
    """Measure what FLEET (a fleet.toml) became; exit 1 if a figure is off by more than 5 %."""
    wanted = load(fleet, Fleet)
    if plain:
        rows = calibrate_compute(PlainBed(wanted), say=_tell)
    else:
        with Testbed(wanted) as bed:
            rows = calibrate_links(bed, duration_s=duration, say=_tell)
            rows += calibrate_compute(bed, say=_tell)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        for row in rows:
            click.echo(
                f"{row.what:<44} wanted {row.wanted:9.3f} {row.unit:<7} measured "
                f"{row.measured:9.3f}   {row.error_percent:4.1f} %"
            )
    worst = max((row.error_percent for row in rows), default=0.0)
    click.echo(f"RESULT figures={len(rows)} worst_error_percent={worst:.2f}")
    sys.exit(0 if worst <= PROMISE_PERCENT else 1)


@main.command("up")
@click.argument("fleet", type=click.Path(exists=True, path_type=Path))
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def up(fleet: Path, words: tuple[str, ...]) -> None:
    """Bring FLEET up, run WORDS (a shell if none), take it down."""
    with Testbed(load(fleet, Fleet)) as bed:
        factors = dilations(bed.fleet)
        for device in bed.fleet.device:
            click.echo(
                f"{device.name}: {bed.address(device.name)}, dilation {factors[device.name]:.3g}, "
                f"run there with: {' '.join(bed.prefix(device.name))} COMMAND",
                err=True,
            )
        sys.exit(subprocess.run(words or ("sh",), check=False).returncode)


@main.command("clean")
def clean_command() -> None:
    """Remove what testbeds left behind whose owner was killed."""
    gone = clean()
    click.echo(f"removed {len(gone)}: {', '.join(gone)}" if gone else "nothing was left behind")


def _tell(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    try:
        main()
    except EdgeKitError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
