"""The command line: parse, call, print. One module per verb, imported when its verb is used.

Exit codes follow the error tree: 2 edit something, 3 model, 4 plan, 5 trust, 6 link, 7 device.
"""

import importlib
import logging
import os
import sys
import traceback

import click

from edgekit import __version__
from edgekit.errors import ConfigError, DeviceError, EdgeKitError

_VERBS = {
    "inspect": "What is in a model: operators, work, traffic, blocks, legal cuts.",
    "fold": "Fold the branches of a model into fewer convolutions, chosen block by block.",
    "quantize": "A model in int8, written only where it is measured faster and accurate enough.",
    "accuracy": "What int8, codecs and strategies cost in accuracy, part by part, for the planner.",
    "plan": "How a model should run on a fleet: where to cut it, or not at all, and why.",
    "build": "Turn a model into a bundle: one shard per device, verified.",
    "verify": "Prove again that the shards of a bundle equal the model.",
    "profile": "Measure what this device can do; list and show device profiles.",
    "doctor": "What this board can do, what is missing, and the command that mends it.",
    "agent": "Run on a board: pull the shard, film, infer, forward, answer.",
    "link": "Measure the link to another device: bandwidth each way, round trip, loss.",
    "fleet": "The devices of a running fleet: list them, have one measure its board.",
    "deploy": "Publish a bundle and switch every device of its plan to it.",
    "enrol": "Make the certificates with which the devices of a fleet trust each other.",
    "dashboard": "Open the live page of a fleet.",
    "bench": "Run a benchmark of the source checkout, such as the paper's experiments.",
    "testbed": "Unequal devices on this one machine, with real links between them.",
    "demo": "The main job on one machine: build, two agents, live page.",
}


class _LazyGroup(click.Group):
    """Lists every verb, imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        try:
            module = importlib.import_module(f"edgekit.cli.{cmd_name}")
        except ModuleNotFoundError as error:
            raise _missing_library(error) from None
        command = module.command
        if not isinstance(command, click.Command):
            raise TypeError(f"edgekit.cli.{cmd_name}.command is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))


def _missing_library(error: ModuleNotFoundError) -> ConfigError:
    extras = {
        "torch": "builder",
        "onnx": "builder",
        "onnxscript": "builder",
        "pycocotools": "builder",
        "matplotlib": "builder",
        "cryptography": "builder",
        "nicegui": "dashboard",
        "amqtt": "broker",
    }
    name = (error.name or "").split(".")[0]
    extra = extras.get(name, "all")
    return ConfigError(
        f"this command needs {name!r}, which is not installed",
        hint=f"pip install 'edgekit[{extra}]'",
    )


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgekit")
@click.option("-v", "--verbose", count=True, help="Say more; twice for debugging.")
def cli(verbose: int) -> None:
    """A trained vision model goes in; devices running it together in real time come out."""
    level = [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )


def main() -> None:
    """Entry point: map every EdgeKitError to one clear line and its exit code."""
    # OpenCV reads these when a verb imports it; what it would say, our own errors say better.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        cli.main(standalone_mode=False)
    except EdgeKitError as error:
        _say(f"edgekit: {type(error).__name__}: {error}")
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        sys.exit(error.exit_code)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        failure = DeviceError(
            f"{place}{error.strerror or error}", hint="check the path, its rights and free space"
        )
        _say(f"edgekit: {type(failure).__name__}: {failure}")
        sys.exit(failure.exit_code)
    except ModuleNotFoundError as error:
        _say(f"edgekit: {_missing_library(error)}")
        sys.exit(ConfigError.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        _say("edgekit: interrupted")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
