"""``edgekit profile``: measure this device, list what is known of others, show one.

Without a subcommand it measures: ``edgekit profile --quick`` is ``edgekit profile run --quick``.
"""

import importlib

import click

_VERBS = {
    "run": "Measure the device at hand (also without the word run).",
    "list": "The profiles that can be named.",
    "show": "One profile: ceilings, ridge points, overheads, error; drawn with --plot.",
}
_MODULES = {"run": "profile_run", "list": "profile_list", "show": "profile_show"}


class _RunByDefault(click.Group):
    """Options without a subcommand belong to ``run``; only the one called is imported."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_option = bool(args) and args[0].startswith("-")
        if not args or (is_option and args[0] not in ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"edgekit.cli.{_MODULES[cmd_name]}")
        found = module.command
        if not isinstance(found, click.Command):
            raise TypeError(f"edgekit.cli.{_MODULES[cmd_name]}.command is not a click command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))


@click.group("profile", cls=_RunByDefault)
def command() -> None:
    """What devices can do: measure this one, list and show profiles.

    Without a subcommand: edgekit profile run.
    """
