"""Who wants which messages: filters and their handlers. Used by the MQTT session and its fake.

In: filters with handlers, then topics.  Out: the handlers a topic concerns, in the order they came.
Thread-safe; calls nobody while it holds its lock.
"""

import threading

from edgekit.transport.mqtt_port import Handler, check_filter, is_match


class Handlers:
    """Several handlers per filter; a filter's QoS is the highest that was asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, list[Handler]] = {}
        self._qos: dict[str, int] = {}

    def add(self, topic_filter: str, handler: Handler, qos: int = 1) -> int:
        """Returns: the QoS to subscribe with. Raises: ConfigError if the filter is no filter."""
        check_filter(topic_filter)
        with self._lock:
            self._known.setdefault(topic_filter, []).append(handler)
            self._qos[topic_filter] = max(qos, self._qos.get(topic_filter, 0))
            return self._qos[topic_filter]

    def remove(self, topic_filter: str) -> bool:
        """Forget all handlers of a filter. Returns: whether there were any."""
        with self._lock:
            self._qos.pop(topic_filter, None)
            return self._known.pop(topic_filter, None) is not None

    def filters(self) -> list[tuple[str, int]]:
        """Every filter with its QoS."""
        with self._lock:
            return list(self._qos.items())

    def of(self, topic: str) -> list[Handler]:
        """The handlers of every filter that matches ``topic``."""
        with self._lock:
            return [
                handler
                for topic_filter, known in self._known.items()
                if is_match(topic_filter, topic)
                for handler in known
            ]
