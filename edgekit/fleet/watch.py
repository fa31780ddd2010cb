"""What the devices of a fleet say, kept up to date.

In: status and telemetry over MQTT.  Out: the latest of each, and a way to wait for a condition.
"""

import logging
import threading
import time
from collections.abc import Callable

from edgekit.errors import ConfigError
from edgekit.spec.base import parse_json
from edgekit.spec.messages import DeviceStatus, Telemetry
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt_port import MqttPort

logger = logging.getLogger(__name__)


class FleetWatcher:
    """The latest status and telemetry of every device. Thread-safe."""

    def __init__(self, mqtt: MqttPort, topics: Topics) -> None:
        self._changed = threading.Condition()
        self._status: dict[str, DeviceStatus] = {}
        self._telemetry: dict[str, Telemetry] = {}
        self._status_count = 0
        mqtt.subscribe(topics.status("+"), self._on_status)
        mqtt.subscribe(topics.telemetry("+"), self._on_telemetry, qos=0)

    def status(self, device: str) -> DeviceStatus | None:
        """What the device last said it is; None if it was never heard."""
        with self._changed:
            return self._status.get(device)

    def telemetry(self, device: str) -> Telemetry | None:
        """What the device last measured."""
        with self._changed:
            return self._telemetry.get(device)

    def statuses(self) -> tuple[DeviceStatus, ...]:
        """What every device that was heard last said it is, by name."""
        with self._changed:
            return tuple(self._status[device] for device in sorted(self._status))

    def wait_quiet(self, *, quiet_s: float, limit_s: float) -> None:
        """Wait until the statuses that the broker retains are here: none came for ``quiet_s``."""
        ends_s = time.monotonic() + limit_s
        while time.monotonic() < ends_s and self._comes_another(quiet_s):
            pass

    def _comes_another(self, timeout_s: float) -> bool:
        with self._changed:
            seen_count = self._status_count
            return self._changed.wait_for(lambda: self._status_count > seen_count, timeout_s)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until ``condition`` holds; checked at every message. False on time-out."""
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def _on_status(self, topic: str, payload: bytes) -> None:
        if not payload:
            return
        try:
            status = parse_json(payload, DeviceStatus, origin=topic)
        except ConfigError as error:
            logger.warning("ignored: %s", error)
            return
        with self._changed:
            self._status[status.device] = status
            self._status_count += 1
            self._changed.notify_all()

    def _on_telemetry(self, topic: str, payload: bytes) -> None:
        try:
            telemetry = parse_json(payload, Telemetry, origin=topic)
        except ConfigError as error:
            logger.warning("ignored: %s", error)
            return
        with self._changed:
            self._telemetry[telemetry.device] = telemetry
            self._changed.notify_all()
