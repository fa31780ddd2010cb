"""``edgekit dashboard``: the live page of a fleet."""

import click

from edgekit.cli.render import say
from edgekit.dashboard.app import run_dashboard


@click.command("dashboard")
@click.option("--broker", required=True, help="mqtt://host:1883")
@click.option("--fleet", required=True, help="Name of the fleet, as in each agent.toml.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the page.")
@click.option("--port", default=8080, show_default=True, help="Port of the page; 0: any free one.")
def command(broker: str, fleet: str, host: str, port: int) -> None:
    """Watch a fleet: live video with boxes, latency, drops, and what is wrong. Changes nothing."""
    run_dashboard(
        mqtt_url=broker,
        fleet=fleet,
        host=host,
        port=port,
        on_ready=lambda url: say(f"live page: {url}   (Ctrl-C ends it)"),
    )
