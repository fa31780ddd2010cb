"""The MQTT port: what the control plane needs of a broker connection, and no more.

Real: ``mqtt.py`` (paho). Fake: ``memory_mqtt.py``.

Delivery is at least once: after a reconnection retained messages come again, and a handler whose
filter overlaps another may see a message twice. Handlers must not mind.
"""

from collections.abc import Callable
from typing import Protocol

from edgekit.errors import ConfigError

Handler = Callable[[str, bytes], None]
"""Called with topic and payload on the session's own thread: be quick, do not wait there."""
OnConnection = Callable[[bool, str], None]
"""Called on the session's thread when the connection comes (True) or goes (False), with the state
sentence. At True all subscriptions have been asked for again; publish retained messages here."""


class MqttPort(Protocol):
    """One client of one broker. All methods may be called from any thread and from handlers."""

    def connect(self, timeout_s: float = 5.0) -> None:
        """First connection; from then on it reconnects by itself until ``close``.

        Raises: LinkError if the broker cannot be reached or refuses. May be called again then.
        """

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        qos: int = 1,
        wait_s: float | None = None,
    ) -> None:
        """Send one message; while offline, QoS 1 messages queue up to a bound.

        With ``wait_s``: returns once the broker has acknowledged it.
        Raises: LinkError if the message can not be sent or queued, or is not acknowledged within
        ``wait_s`` (it may still arrive later); ConfigError if the topic is no topic.
        """

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:
        """Call ``handler`` for every message that matches; several handlers per filter may be.

        May be called before ``connect``. Raises: ConfigError if the filter is no filter.
        """

    def unsubscribe(self, topic_filter: str) -> None:
        """Remove all handlers of this filter. No effect if there are none."""

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted us and the connection lives."""

    @property
    def state(self) -> str:
        """ "connected", or one sentence that says what is wrong."""

    def close(self) -> None:
        """Leave gracefully, without the last will, for good. Publishes nothing by itself."""


def check_topic(topic: str) -> None:
    """Raises: ConfigError unless one may publish to ``topic``."""
    if not topic or any(char in topic for char in "+#\0") or len(topic.encode()) > 65535:
        raise ConfigError(f"{topic!r} is not an MQTT topic", hint="take it from spec.topics")


def check_filter(topic_filter: str) -> None:
    """Raises: ConfigError unless one may subscribe to ``topic_filter``."""
    levels = topic_filter.split("/")
    is_bad = (
        not topic_filter
        or "\0" in topic_filter
        or "#" in "".join(levels[:-1])
        or any(len(level) > 1 and ("+" in level or "#" in level) for level in levels)
    )
    if is_bad or len(topic_filter.encode()) > 65535:
        raise ConfigError(
            f"{topic_filter!r} is not an MQTT topic filter",
            hint="use + for one whole level, # for the rest",
        )


def is_match(topic_filter: str, topic: str) -> bool:
    """Whether a message on ``topic`` goes to subscribers of ``topic_filter``.

    Source: MQTT 5.0, section 4.7 (wildcards do not match topics that begin with $).
    """
    if topic.startswith("$") and topic_filter[:1] in {"+", "#"}:
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in {"+", levels[index]}:
            return False
    return len(wanted) == len(levels)
