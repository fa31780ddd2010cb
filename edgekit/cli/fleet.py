"""``edgekit fleet``: what the devices of a running fleet are, and what they can do."""

import importlib

import click

_VERBS = {
    "list": "Every device that was ever heard: state, runtime, deployment, whether its profile is "
    "known.",
    "profile": "Have a device measure its own board, and save the profile here.",
}


class _LazyVerbs(click.Group):
    """Imports only the verb that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"edgekit.cli.fleet_{cmd_name}")
        found = module.command
        if not isinstance(found, click.Command):
            raise TypeError(f"edgekit.cli.fleet_{cmd_name}.command is not a click command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))


@click.group("fleet", cls=_LazyVerbs)
def command() -> None:
    """The devices of a running fleet, over MQTT."""
