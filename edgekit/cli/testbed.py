"""``edgekit testbed``: unequal devices on this machine, in namespaces, with links as slow as asked.

In:  a verb of ``python -m tests.testbed`` and its options.  Out: its output and its exit status.
"""

import os
import subprocess
import sys

import click

from edgekit.cli.bench import checkout


@click.command(
    "testbed", context_settings={"ignore_unknown_options": True, "help_option_names": []}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Emulate a fleet on this machine: edgekit testbed calibrate|up|clean (-h tells more)."""
    path = os.pathsep.join([str(checkout()), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "tests.testbed", *(arguments or ("--help",))],
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    sys.exit(done.returncode)
