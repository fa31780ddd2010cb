"""``edgekit agent``: run this board's agent until it is told to end."""

import os
import signal
import ssl
import threading
from pathlib import Path

import click

from edgekit.agent.main import run_agent
from edgekit.cli.fleet_child import wait_for_parent
from edgekit.profiler.link_meter import WatchedLink
from edgekit.profiler.run import processor_name
from edgekit.spec.agent_config import AgentConfig
from edgekit.spec.base import load


@click.command("agent")
@click.option(
    "--config",
    required=True,
    type=click.Path(path_type=Path),
    help="agent.toml: device, fleet, broker, store, and [source] on the camera's board.",
)
@click.option("--with-parent", is_flag=True, hidden=True, help="End when standard input closes.")
def command(config: Path, with_parent: bool) -> None:
    """Pull the shard over MQTT, film, infer, forward, answer; serve the last good one offline."""
    loaded = load(config, AgentConfig)
    if with_parent:
        threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    run_agent(loaded, make_link_meter=_link_meter, processor=processor_name())


def _link_meter(config: AgentConfig, tls: ssl.SSLContext | None) -> WatchedLink:
    """An agent imports no stopwatch; it is given this one."""
    return WatchedLink(name=config.device, period_s=config.link.period_s, tls=tls)


def _end_with_parent() -> None:
    wait_for_parent()
    os.kill(os.getpid(), signal.SIGTERM)
