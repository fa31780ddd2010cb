"""``edgekit bench``: run a benchmark of the source checkout; without a name, list them.

In:  the name of a file in tests/bench, and its own options.  Out: its output and its exit status.
Benchmarks read real models and videos and start real agents, so they live in the checkout and not
in the installed package.
"""

import ast
import subprocess
import sys
from pathlib import Path

import click

import edgekit
from edgekit.cli.render import print_json
from edgekit.errors import ConfigError

_REST = {"ignore_unknown_options": True, "help_option_names": []}


@click.command("bench", context_settings=_REST)
@click.argument("name", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(name: str | None, arguments: tuple[str, ...]) -> None:
    """Run a benchmark of this checkout: edgekit bench NAME [its options]; -h after NAME lists them.

    Without NAME (or with --json alone): what there is.
    """
    folder = checkout() / "tests/bench"
    found = benchmarks(folder)
    if name in (None, "-h", "--help"):
        click.echo("usage: edgekit bench NAME [options of that benchmark]\n")
        width = max(map(len, found), default=0)
        for one, what in found.items():
            click.echo(f"  {one:{width}}  {what}")
        return
    if name == "--json":
        print_json(found)
        return
    if name not in found:
        raise ConfigError(f"there is no benchmark {name!r}", hint=f"choose of {', '.join(found)}")
    done = subprocess.run([sys.executable, str(folder / f"{name}.py"), *arguments], check=False)
    sys.exit(done.returncode)


def checkout() -> Path:
    """Top folder of the source checkout that this package was installed from.

    Raises: ConfigError if it was installed without one.
    """
    root = Path(edgekit.__file__).resolve().parents[1]
    if not (root / "tests/bench").is_dir():
        raise ConfigError(
            "benchmarks and the testbed are parts of the source checkout, and edgekit was "
            "installed without one",
            hint="clone the repository and install it with `pip install -e '.[all,dev]'`",
        )
    return root


def benchmarks(folder: Path) -> dict[str, str]:
    """What can be run there: name, and the first line of what it says of itself."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if '\nif __name__ == "__main__":' in text:
            said = ast.get_docstring(ast.parse(text)) or ""
            found[path.stem] = said.partition("\n")[0]
    return found
