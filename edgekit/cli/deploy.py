"""``edgekit deploy``: publish a bundle and switch its devices to it, all or none."""

from pathlib import Path

import click

from edgekit.bundle.bundle import open_bundle
from edgekit.cli.render import byte_progress, print_json, say
from edgekit.fleet.deployment import deploy
from edgekit.fleet.publish import publish_bundle
from edgekit.fleet.watch import FleetWatcher
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt import MqttSession


@click.command("deploy")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--broker", required=True, help="mqtt://host:1883")
@click.option("--fleet", required=True, help="Name of the fleet, as in each agent.toml.")
@click.option("--timeout", "timeout_s", default=300.0, help="Seconds to wait for every device.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(bundle: Path, broker: str, fleet: str, timeout_s: float, as_json: bool) -> None:
    """Publish BUNDLE on the broker and switch every device of its plan to it, or none."""
    opened, topics = open_bundle(bundle), Topics(fleet=fleet)
    mqtt = MqttSession(broker, client_id=f"edgekit-deploy-{opened.manifest.deployment_id}")
    mqtt.connect()
    try:
        watcher = FleetWatcher(mqtt, topics)
        with byte_progress(enabled=not as_json) as progress:
            announcement = publish_bundle(opened, mqtt=mqtt, topics=topics, progress=progress)
        epoch = deploy(
            announcement,
            mqtt=mqtt,
            topics=topics,
            watcher=watcher,
            say=(lambda text: None) if as_json else say,
            ready_timeout_s=timeout_s,
        )
    finally:
        mqtt.close()
    if as_json:
        devices = [placement.device for placement in announcement.plan.placements]
        deployment = announcement.manifest.deployment_id
        print_json({"deployment": deployment, "epoch": epoch, "devices": devices})
