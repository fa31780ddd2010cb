"""Deploy a published bundle in two phases: every device of the plan switches, or none does.

::

    all online -> prepare (each pulls, verifies, loads, tests) -> all READY -> commit -> all serving
                        any failure or time-out -> abort on all

In: an announcement on the broker.  Out: a fleet that serves it, or a LinkError/DeviceError that
names the device and its problem, with everybody serving what they served before.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Literal

from edgekit.errors import DeviceError, LinkError
from edgekit.fleet.watch import FleetWatcher
from edgekit.spec.base import to_json
from edgekit.spec.messages import Announcement, Command, DeviceStatus
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt_port import MqttPort

_COMMAND_TIMEOUT_S = 10.0
_RESEND_S = 2.0
_HALF_SWITCHED = "until then devices of different epochs refuse each other's frames"

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

    def send(device: str, command: Command) -> None:
        payload = to_json(command, indent=0)
        mqtt.publish(topics.command(device), payload, wait_s=_COMMAND_TIMEOUT_S)

    say(f"waiting for {', '.join(devices)}")
    _wait_online(devices, watcher, online_timeout_s)
    epoch = 1 + max(_status(watcher, device).epoch for device in devices)
    try:
        say(f"prepare {deployment} on {', '.join(devices)}")
        prepare = _commands(devices, "prepare", deployment, epoch)
        _until(prepare, "ready", watcher, ready_timeout_s, send)
        say(f"commit epoch {epoch}")
        # Last stage first: a device is ready for activations before its upstream sends any.
        commit = _commands(devices[::-1], "commit", deployment, epoch)
        _until(commit, "serving", watcher, serving_timeout_s, send)
    except (LinkError, DeviceError):
        for device, command in _commands(devices, "abort", deployment, epoch).items():
            send(device, command)
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


def _commands(
    devices: Sequence[str], verb: Literal["prepare", "commit", "abort"], deployment: str, epoch: int
) -> dict[str, Command]:
    """The same command for each device, each with its own id."""
    return {
        device: Command(id=secrets.token_hex(8), verb=verb, deployment=deployment, epoch=epoch)
        for device in devices
    }


def _until(
    commands: dict[str, Command],
    state: str,
    watcher: FleetWatcher,
    timeout_s: float,
    send: Callable[[str, Command], None],
) -> None:
    """Command every device until it says that it obeys, and wait until all are in ``state``.

    A command is idempotent by its id, so one that seems lost (a broker restarted, a device had not
    subscribed yet) is sent again. Raises: DeviceError, LinkError naming the device.
    """

    def obeys(device: str) -> bool:
        return _status(watcher, device).command == commands[device].id

    def failed() -> list[DeviceStatus]:
        seen = [_status(watcher, device) for device in commands]
        return [
            status
            for status in seen
            if status.state == "offline" or (obeys(status.device) and status.problem)
        ]

    def waiting() -> list[str]:
        return [
            device
            for device, command in commands.items()
            if not obeys(device)
            or (_status(watcher, device).state, _status(watcher, device).deployment)
            != (state, command.deployment)
        ]

    deadline_s = time.monotonic() + timeout_s
    while waiting() and not failed() and time.monotonic() < deadline_s:
        for device, command in commands.items():
            if not obeys(device):
                send(device, command)
        left_s = min(_RESEND_S, deadline_s - time.monotonic())
        watcher.wait_for(lambda: bool(failed()) or not waiting(), left_s)
    outcome = "nothing was switched" if state == "ready" else _HALF_SWITCHED
    if broken := failed():
        status = broken[0]
        raise DeviceError(
            f"{status.device} cannot be {state}: {status.problem or 'it went offline'}",
            hint=f"mend this device and deploy again; {outcome}",
        )
    if left := waiting():
        raise LinkError(
            f"not {state} after {timeout_s:.0f} s: {', '.join(left)}",
            hint=f"look at the agent's log on that device and deploy again; {outcome}",
        )
