"""``edgekit doctor``: what this board can do, and the command that mends what it cannot."""

import sys
from pathlib import Path

import click

from edgekit.cli.render import print_json, say, show_table
from edgekit.profiler.checkup.examine import examine
from edgekit.profiler.checkup.finding import Finding, is_fit
from edgekit.profiler.checkup.host import Host
from edgekit.runtime.provider_names import engine_cache

_MARKS = {"ok": "ok", "warn": "warn", "missing": "MISSING", "none": "-"}


@click.command("doctor")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="The agent's store, whose disk is looked at; else where engines are kept.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(store: Path | None, as_json: bool) -> None:
    """What this board can do: Python, runtimes, GPU, cameras, clock, room; and what to mend.

    Libraries are tried in processes of their own, by computing something. Ends with 1 if something
    that a shard needs here is missing.
    """
    findings = examine(Host(), folder=store or engine_cache())
    if as_json:
        print_json({"fit": is_fit(findings), "findings": findings})
    else:
        _show(findings)
    if not is_fit(findings):
        sys.exit(1)


def _show(findings: tuple[Finding, ...]) -> None:
    rows = [(_MARKS[one.status], one.name, one.says) for one in findings]
    show_table("this board", ("", "what", "found"), rows, left=3)
    broken = [one for one in findings if one.fix and one.status in ("warn", "missing")]
    for one in broken:
        say(f"{one.name}: {one.fix}")
    missing = [one.name for one in findings if one.status == "missing"]
    say(f"missing: {', '.join(missing)}" if missing else "nothing is missing")
