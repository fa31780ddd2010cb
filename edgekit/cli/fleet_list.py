"""``edgekit fleet list``: the devices of a fleet, and whether their profiles can be trusted."""

import hashlib
import secrets
from pathlib import Path
from typing import Any

import click

from edgekit.cli.render import print_json, say, show_table, warn
from edgekit.errors import LinkError
from edgekit.fleet.watch import FleetWatcher
from edgekit.profiler.library import FoundProfile, list_profiles, stale_reason
from edgekit.spec.messages import DeviceStatus
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt import MqttSession

_QUIET_S, _LIMIT_S = 1.0, 5.0


@click.command("list")
@click.option("--broker", required=True, help="mqtt://host:1883")
@click.option("--fleet", required=True, help="Name of the fleet, as in each agent.toml.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def command(broker: str, fleet: str, as_json: bool) -> None:
    """List the devices of a fleet: state, runtime, processor, deployment, profile.

    A profile is stale if it was measured with another runtime than the one that runs there now.
    """
    statuses = _heard(broker, fleet)
    library = list_profiles()
    for problem in library.problems:
        warn(f"left out: {problem}")
    known = {one.profile.name: one for one in library.found}
    devices = [as_entry(status, known.get(status.device)) for status in statuses]
    if as_json:
        print_json({"devices": devices})
        return
    if not devices:
        raise LinkError(
            f"no device of the fleet {fleet!r} was ever heard on {broker}",
            hint="compare both with an agent.toml, and start `edgekit agent`",
        )
    columns = ("device", "state", "runtime", "processor", "deployment", "profile")
    fields = ("device", "state", "runtime", "processor", "deployment", "profile")
    rows = [tuple(str(entry[field]) for field in fields) for entry in devices]
    show_table(f"fleet {fleet}", columns, rows, left=len(columns))
    for entry in devices:
        if entry["stale"]:
            say(f"{entry['device']}: {entry['stale_reason']}")
            say(f"  edgekit fleet profile {entry['device']} --broker {broker} --fleet {fleet}")


def _heard(broker: str, fleet: str) -> tuple[DeviceStatus, ...]:
    mqtt = MqttSession(broker, client_id=f"edgekit-list-{secrets.token_hex(4)}")
    mqtt.connect()
    try:
        watcher = FleetWatcher(mqtt, Topics(fleet=fleet))
        watcher.wait_quiet(quiet_s=_QUIET_S, limit_s=_LIMIT_S)
        return watcher.statuses()
    finally:
        mqtt.close()


def as_entry(status: DeviceStatus, found: FoundProfile | None) -> dict[str, Any]:
    """One device, and how its profile here compares with what it says of itself."""
    profile = found.profile if found is not None else None
    reason = stale_reason(profile, status.runtime) if profile and status.runtime else ""
    return {
        "device": status.device,
        "state": "measuring" if status.profiling else status.state,
        "online": status.state != "offline",
        "runtime": status.runtime,
        "processor": status.processor or (profile.processor if profile else ""),
        "agent_version": status.agent_version,
        "deployment": status.deployment,
        "problem": status.problem,
        "profile": _profile_word(status, found, reason),
        "profile_path": str(found.path) if found is not None else "",
        "stale": bool(reason),
        "stale_reason": reason,
    }


def _profile_word(status: DeviceStatus, found: FoundProfile | None, stale: str) -> str:
    """What is known here of the device, in a word or two."""
    if found is None:
        return "measured there, not here" if status.profile_sha256 else "unknown"
    if stale:
        return "stale"
    if found.profile.source == "datasheet":
        return "datasheet"
    if status.profile_sha256 and status.profile_sha256 != _digest(found.path):
        return "measured, not the newest"
    return "measured"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
