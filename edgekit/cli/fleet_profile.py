"""``edgekit fleet profile``: a board is measured by its own agent, the profile is saved here."""

import secrets
from pathlib import Path

import click

from edgekit.cli.profile_run import check_writable, default_out, share_progress, show_measured
from edgekit.cli.render import print_json
from edgekit.fleet.board_profile import measure_board
from edgekit.fleet.watch import FleetWatcher
from edgekit.spec.base import save, write_atomically
from edgekit.spec.messages import ProfileWish
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt import MqttSession


@click.command("profile")
@click.argument("device")
@click.option("--broker", required=True, help="mqtt://host:1883")
@click.option("--fleet", required=True, help="Name of the fleet, as in each agent.toml.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="File; else device_profiles/DEVICE.toml."
)
@click.option("--quick", is_flag=True, help="Under a minute, less certain.")
@click.option("--budget", "budget_s", type=click.FloatRange(1.0, 36000.0), help="Seconds, instead.")
@click.option("--anyway", is_flag=True, help="Also on a board that serves, or is busy or hot.")
@click.option(
    "--timeout", "timeout_s", default=1800.0, show_default=True, help="Seconds to wait in all."
)
@click.option("--json", "as_json", is_flag=True, help="Print the profile as JSON.")
def command(
    device: str,
    broker: str,
    fleet: str,
    out: Path | None,
    quick: bool,
    budget_s: float | None,
    anyway: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Have the agent on DEVICE measure its board, with the threads that it runs shards with.

    Ctrl-C stops it there too; asked again, it goes on where it stopped. Saved as
    device_profiles/DEVICE.toml if that folder is here, else among your own profiles.
    """
    topics, wish = Topics(fleet=fleet), ProfileWish(quick=quick, anyway=anyway, budget_s=budget_s)
    out = out or default_out(device)
    check_writable(out)
    mqtt = MqttSession(broker, client_id=f"edgekit-profile-{secrets.token_hex(4)}")
    mqtt.connect()
    try:
        watcher = FleetWatcher(mqtt, topics)
        with share_progress(enabled=not as_json) as tell:
            received = measure_board(
                device,
                wish,
                mqtt=mqtt,
                topics=topics,
                watcher=watcher,
                progress=tell,
                timeout_s=timeout_s,
            )
    finally:
        mqtt.close()
    if out.suffix == ".toml":  # the very bytes: their digest is what the status names
        write_atomically(received.toml, out)
    else:
        save(received.profile, out)
    if as_json:
        print_json(received.profile)
    else:
        show_measured(received.profile, out)
