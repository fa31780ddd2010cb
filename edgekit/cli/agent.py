"""``edgekit agent``: run this board's agent until it is told to end."""

import os
import signal
import threading
from pathlib import Path

import click

from edgekit.agent.main import run_agent
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
    run_agent(loaded)


def _end_with_parent() -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock would stop the interpreter at exit
        pass
    os.kill(os.getpid(), signal.SIGTERM)
