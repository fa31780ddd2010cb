"""Check where a command is to write, before minutes of work and not after.

In:  paths from the command line.  Out: nothing, or a ConfigError that says what to change.
"""

from pathlib import Path

from edgekit.errors import ConfigError


def check_onnx_out(out: Path, model: Path, *, force: bool) -> None:
    """Raises: ConfigError unless ``out`` can become an ONNX file made from ``model``."""
    if out.suffix != ".onnx" or out.is_dir():
        raise ConfigError(f"--out {out} is no name for an ONNX file", hint="end it in .onnx")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent} for --out", hint="make it first")
    if out.exists() and model.exists() and out.samefile(model):
        raise ConfigError(f"--out {out} is the model itself", hint="write to another file")
    if out.exists() and not force:
        raise ConfigError(f"{out} exists", hint="give --force to replace it, or another --out")
