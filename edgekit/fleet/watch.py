"""What the devices of a fleet say, kept up to date.

In: status and telemetry over MQTT.  Out: the latest of each, and a way to wait for a condition.
"""

import logging
import threading
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
