"""MQTT without a broker process, for unit tests and for reading: retained messages, wills.

In: topics and payloads.  Out: calls of the matching handlers, each session on its own thread.
Same port as mqtt.py (MqttPort); what a test may do besides: stop the broker, let a client vanish.
"""

import threading
import time
from collections import deque
from functools import partial

from edgekit.errors import LinkError
from edgekit.transport.handlers import Handlers
from edgekit.transport.mailbox import Mailbox
from edgekit.transport.mqtt_port import Handler, OnConnection, check_topic, is_match


class MemoryBroker:
    """Joins MemoryMqttSessions. Forgets its retained messages when stopped, as Mosquitto does."""

    def __init__(self) -> None:
        self.changed = threading.RLock()
        self.retained: dict[str, bytes] = {}
        self.sessions: list[MemoryMqttSession] = []
        self.is_running = True

    def session(
        self,
        client_id: str,
        *,
        will: tuple[str, bytes] | None = None,
        on_connection: OnConnection | None = None,
    ) -> "MemoryMqttSession":
        """A new client of this broker, not connected yet."""
        return MemoryMqttSession(self, client_id=client_id, will=will, on_connection=on_connection)

    def stop(self) -> None:
        """End all connections and forget everything. Wills are not published: nobody could hear."""
        with self.changed:
            self.is_running = False
            self.retained.clear()
            for session in self.sessions:
                session.lose("lost the broker at memory; reconnecting")

    def start(self) -> None:
        """Run again; sessions come back by themselves."""
        with self.changed:
            self.is_running = True
            for session in list(self.sessions):
                session.come()

    def route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Hand a message to every session that asked for it; call with ``changed`` held."""
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        for session in self.sessions:
            session.take(topic, payload)

    def settle(self, timeout_s: float = 2.0) -> bool:
        """True once every handler has seen everything, including what handlers published."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            with self.changed:
                sessions = list(self.sessions)
            for session in sessions:
                session.settle(timeout_s)
            # A handler may have published to a session that had already settled.
            if all(session.settle(0.0) for session in sessions):
                return True
        return False


class MemoryMqttSession:
    """One client of a MemoryBroker (see MqttPort)."""

    def __init__(
        self,
        broker: MemoryBroker,
        *,
        client_id: str,
        will: tuple[str, bytes] | None = None,
        on_connection: OnConnection | None = None,
        queue_count: int = 1000,
    ) -> None:
        if will:
            check_topic(will[0])
        self._broker, self._will = broker, will
        self._on_connection, self._queue_count = on_connection, queue_count
        self._mailbox = Mailbox(f"memory-mqtt-{client_id}")
        self._handlers = Handlers()
        self._waiting: deque[tuple[str, bytes, bool]] = deque()
        self._is_connected = False
        self._state = "not connected to memory yet"

    def connect(self, timeout_s: float = 5.0) -> None:
        """First connection; afterwards it comes back whenever the broker does.

        Raises: LinkError if the broker is stopped.
        """
        with self._broker.changed:
            if self in self._broker.sessions:
                return
            if not self._broker.is_running:
                self._state = "cannot use the broker at memory: Connection refused"
                raise LinkError(self._state, hint="start it")
            self._broker.sessions.append(self)
            self.come()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        qos: int = 1,
        wait_s: float | None = None,
    ) -> None:
        """Send one message; while the broker is stopped, QoS 1 messages queue up to a bound.

        Raises: LinkError if it can be neither sent nor queued, or nobody acknowledges it;
        ConfigError if the topic is no topic.
        """
        check_topic(topic)
        with self._broker.changed:
            if self._is_connected:
                self._broker.route(topic, bytes(payload), retain=retain)
                return
            if self not in self._broker.sessions or qos == 0:
                raise LinkError(f"{topic} is not published: {self._state}", hint="connect first")
            if len(self._waiting) >= self._queue_count:
                raise LinkError(
                    f"{topic} is not published: {self._queue_count} messages wait already",
                    hint="publish again when connected",
                )
            self._waiting.append((topic, bytes(payload), retain))
        if wait_s is not None:
            raise LinkError(
                f"the broker did not acknowledge {topic} within {wait_s:g} s ({self._state})",
                hint="look at the broker",
            )

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:
        """Call ``handler`` for every message that matches; several handlers per filter may be.

        Raises: ConfigError if the filter is no filter.
        """
        self._handlers.add(topic_filter, handler, qos)
        with self._broker.changed:
            if self._is_connected:
                self._send_retained(topic_filter)

    def unsubscribe(self, topic_filter: str) -> None:
        """Remove all handlers of this filter. No effect if there are none."""
        self._handlers.remove(topic_filter)

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted us and runs."""
        return self._is_connected

    @property
    def state(self) -> str:
        """ "connected", or one sentence that says what is wrong."""
        return self._state

    def close(self) -> None:
        """Leave gracefully, without the last will, for good."""
        self._leave()

    def vanish(self) -> None:
        """End as a killed process does: the broker publishes the last will."""
        was_connected = self._is_connected
        self._leave()
        if self._will and was_connected:
            with self._broker.changed:
                self._broker.route(*self._will, retain=True)

    def settle(self, timeout_s: float) -> bool:
        """True once its handlers have seen everything that was delivered so far."""
        return self._mailbox.settle(timeout_s)

    # Called by the broker, with its ``changed`` held.

    def take(self, topic: str, payload: bytes) -> None:
        """A message for whichever handlers match when their turn comes."""
        if self._is_connected and self._handlers.of(topic):
            self._mailbox.post(partial(self._dispatch, topic, payload))

    def come(self) -> None:
        """The broker runs again."""
        self._is_connected, self._state = True, "connected"
        for topic_filter, _ in self._handlers.filters():
            self._send_retained(topic_filter)
        while self._waiting:
            topic, payload, retain = self._waiting.popleft()
            self._broker.route(topic, payload, retain=retain)
        self._tell(True)

    def lose(self, state: str) -> None:
        """The broker has stopped."""
        self._is_connected, self._state = False, state
        self._tell(False)

    def _leave(self) -> None:
        with self._broker.changed:
            self._is_connected, self._state = False, "closed"
            if self in self._broker.sessions:
                self._broker.sessions.remove(self)
        self._mailbox.close()

    def _send_retained(self, topic_filter: str) -> None:
        for topic, payload in list(self._broker.retained.items()):
            if is_match(topic_filter, topic):
                self._mailbox.post(partial(self._dispatch, topic, payload))

    def _dispatch(self, topic: str, payload: bytes) -> None:
        for handler in self._handlers.of(topic):
            # Each in its own call, so that one that fails does not keep the others from it.
            self._mailbox.post(partial(handler, topic, payload))

    def _tell(self, is_connected: bool) -> None:
        if self._on_connection:
            self._mailbox.post(partial(self._on_connection, is_connected, self._state))
