"""``edgekit verify``: prove again that the shards of a bundle equal the model."""

from pathlib import Path
from typing import Any

import click

from edgekit.builder.compare import MAX_RELATIVE_ERROR
from edgekit.builder.verify import VerifyReport, verify_bundle
from edgekit.bundle.bundle import Bundle, open_bundle
from edgekit.cli.render import byte_progress, print_json, say, show_table


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--against", required=True, type=click.Path(path_type=Path), help="The model file.")
@click.option("--source", help="Also compare on frames: file:clip.mp4, images:DIR, scene:yard …")
@click.option(
    "--frames",
    "frame_count",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many frames of --source.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    bundle: Path, against: Path, source: str | None, frame_count: int, as_json: bool
) -> None:
    """Run the whole model and the chained shards of BUNDLE on random and real input; compare.

    Fails if any output is more than 1e-5 of its range away; where shards are int8 or fp16, if it
    has more than twice the noise that the build found.
    """
    opened = open_bundle(bundle)
    with byte_progress(enabled=not as_json) as progress:
        report = verify_bundle(
            opened, against, source=source, frame_count=frame_count, progress=progress
        )
    if as_json:
        print_json(_as_json(opened, report))
    else:
        _show(opened, report)
    report.raise_if_bad()


def _as_json(bundle: Bundle, report: VerifyReport) -> dict[str, Any]:
    return {
        "bundle": str(bundle.folder),
        "deployment": bundle.deployment_id,
        "ok": report.is_ok,
        "notes": list(report.notes),
        "limit": MAX_RELATIVE_ERROR,
        "checks": [
            {
                "input": check.kind,
                "level": check.level,
                "output": check.output,
                "compared": check.compared_count,
                "bit_equal": check.bit_equal_count,
                "max_relative_error": check.max_relative_error,
                "noise": check.noise,
                "noise_limit": check.noise_limit,
            }
            for check in report.checks
        ],
    }


def _show(bundle: Bundle, report: VerifyReport) -> None:
    rows = [
        (
            check.output,
            check.kind,
            check.level,
            f"{check.bit_equal_count} of {check.compared_count}",
            f"{check.max_relative_error:.1e}",
            f"{check.noise:.1e}",
            f"noise {check.noise_limit:.1e}" if check.noise_limit is not None else "error 1e-5",
            "ok" if check.is_within_limit else "TOO FAR",
        )
        for check in report.checks
    ]
    columns = ("output", "input", "level", "bit-equal", "max relative error", "noise", "limit", "")
    show_table(f"whole model against {len(bundle.plan.placements)} shards", columns, rows, left=3)
    for note in report.notes:
        say(f"note: {note}")
    say(report.said)
