"""Deploy a published bundle in two phases: every device of the plan switches, or none does.

::

    all online -> prepare (each pulls, verifies, loads, tests) -> all READY -> commit -> all serving
                        any failure or time-out -> abort on all

In: an announcement on the broker.  Out: a fleet that serves it, or a LinkError/DeviceError that
names the device and its problem, with everybody serving what they served before.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Literal

from edgekit.errors import DeviceError, LinkError
from edgekit.fleet.watch import FleetWatcher
from edgekit.spec.base import to_json
from edgekit.spec.messages import Announcement, Command, DeviceStatus
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt_port import MqttPort

_COMMAND_TIMEOUT_S = 10.0

Say = Callable[[str], None]


def deploy(
    announcement: Announcement,
    *,
    mqtt: MqttPort,
    topics: Topics,
    watcher: FleetWatcher,
    say: Say,
    online_timeout_s: float = 30.0,
    ready_timeout_s: float = 300.0,
    serving_timeout_s: float = 30.0,
) -> int:
    """Bring every device of the plan to serve ``announcement``. Returns the new epoch."""
    devices = [placement.device for placement in announcement.plan.placements]
    deployment = announcement.manifest.deployment_id
    say(f"waiting for {', '.join(devices)}")
    _wait_online(devices, watcher, online_timeout_s)
    epoch = 1 + max(_status(watcher, device).epoch for device in devices)
    try:
        say(f"prepare {deployment} on {', '.join(devices)}")
        sent = _send_all(devices, "prepare", deployment, epoch, mqtt, topics)
        _wait_state(sent, "ready", deployment, watcher, ready_timeout_s)
        say(f"commit epoch {epoch}")
        # Last stage first: a device is ready for activations before its upstream sends any.
        sent = _send_all(devices[::-1], "commit", deployment, epoch, mqtt, topics)
        _wait_state(sent, "serving", deployment, watcher, serving_timeout_s)
    except (LinkError, DeviceError):
        _send_all(devices, "abort", deployment, epoch, mqtt, topics)
        raise
    say(f"{', '.join(devices)} serve {deployment}")
    return epoch


def _status(watcher: FleetWatcher, device: str) -> DeviceStatus:
    return watcher.status(device) or DeviceStatus(device=device, state="offline")


def _wait_online(devices: Sequence[str], watcher: FleetWatcher, timeout_s: float) -> None:
    def missing() -> list[str]:
        return [device for device in devices if _status(watcher, device).state == "offline"]

    if not watcher.wait_for(lambda: not missing(), timeout_s):
        raise LinkError(
            f"not online after {timeout_s:.0f} s: {', '.join(missing())}",
            hint="start `edgekit agent --config agent.toml` on each, with this broker and fleet",
        )


def _wait_state(
    sent: dict[str, str], state: str, deployment: str, watcher: FleetWatcher, timeout_s: float
) -> None:
    """Wait until every device reached ``state`` in answer to its command in ``sent``."""

    def failed() -> list[DeviceStatus]:
        seen = [_status(watcher, device) for device in sent]
        return [
            status
            for status in seen
            if status.state == "offline"
            or (status.command == sent[status.device] and status.problem)
        ]

    def waiting() -> list[str]:
        wanted = (state, deployment)
        seen = [_status(watcher, device) for device in sent]
        return [
            status.device
            for status in seen
            if status.command != sent[status.device] or (status.state, status.deployment) != wanted
        ]

    watcher.wait_for(lambda: bool(failed()) or not waiting(), timeout_s)
    if broken := failed():
        status = broken[0]
        raise DeviceError(
            f"{status.device} cannot be {state}: {status.problem or 'it went offline'}",
            hint="nothing was switched; mend this device and deploy again",
        )
    if left := waiting():
        raise LinkError(
            f"not {state} after {timeout_s:.0f} s: {', '.join(left)}",
            hint="nothing was switched; look at the agent's log on that device",
        )


def _send_all(
    devices: Sequence[str],
    verb: Literal["prepare", "commit", "abort"],
    deployment: str,
    epoch: int,
    mqtt: MqttPort,
    topics: Topics,
) -> dict[str, str]:
    """Send one command to each device. Returns the command's id by device."""
    sent = {}
    for device in devices:
        command = Command(id=secrets.token_hex(8), verb=verb, deployment=deployment, epoch=epoch)
        sent[device] = command.id
        payload = to_json(command, indent=0)
        mqtt.publish(topics.command(device), payload, wait_s=_COMMAND_TIMEOUT_S)
    return sent
