"""The MQTT session over a real broker. Only this file and mqtt_client.py know paho.

In: a broker URL, topics and payloads.  Out: messages to handlers, or a LinkError saying what to do.
Never drops a message silently: one that can be neither sent nor queued raises.

Rules that keep paho safe: no call into paho while our lock is held (paho holds its own locks while
it calls back), and no exception may leave a callback (it would end paho's thread).
"""

import logging
import ssl
import threading
import time
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, error_string
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from edgekit.errors import ConfigError, LinkError
from edgekit.transport.broker_url import parse_broker_url
from edgekit.transport.handlers import Handlers
from edgekit.transport.mqtt_client import Attempt, new_client, stop
from edgekit.transport.mqtt_port import Handler, OnConnection, check_topic
from edgekit.transport.wire import describe

_log = logging.getLogger(__name__)

_PAYLOAD_CAP_BYTES = 268_435_455
_BRIEF_S = 5.0
_BRIEF_MAX = 2
_START_ONE = "start one with `mosquitto -p {port}` or leave out --broker"


class _RefusedVersionError(Exception):
    """The broker closed, or said no to, this version of the protocol."""


class MqttSession:
    """One client of one broker (see MqttPort). MQTT 5; MQTT 3.1.1 where the broker has only that.

    ``will`` is (topic, payload), published retained by the broker if this process vanishes.
    ``on_connection`` is called at the first connection too, but not after ``close``.
    ``tls`` is for mqtts:// with own certificates (tls.py); without it the system's are used.
    Reconnects after 0.3 to 2 s, jittered. Thread: "paho-mqtt-client-<id>", a daemon.
    """

    def __init__(
        self,
        url: str,
        *,
        client_id: str,
        will: tuple[str, bytes] | None = None,
        on_connection: OnConnection | None = None,
        keepalive_s: int = 5,
        tls: ssl.SSLContext | None = None,
        queue_count: int = 1000,
    ) -> None:
        self._url = parse_broker_url(url)
        if will:
            check_topic(will[0])
        self._client_id, self._will = client_id, will
        self._on_connection = on_connection
        self._keepalive_s, self._tls, self._queue_count = keepalive_s, tls, queue_count
        self._handlers = Handlers()
        self._changed = threading.Lock()
        # All below is guarded by _changed.
        self._client: Client | None = None
        self._is_connected = False
        self._is_closed = False
        self._state = f"not connected to {self._url} yet"
        self._refused: dict[int, str] = {}
        self._loop_thread_id: int | None = None
        self._connected_s = 0.0
        self._brief_count = 0
        """Connections in a row that ended within seconds."""

    # Connecting.

    def connect(self, timeout_s: float = 5.0) -> None:
        """First connection; from then on it reconnects by itself until ``close``.

        Raises: LinkError if the broker cannot be reached or refuses. May be called again then.
        """
        if self._client is not None:
            return
        deadline_s = time.monotonic() + timeout_s
        try:
            # A broker that does not even answer a version 5 CONNECT gets half of the time.
            self._try_version(MQTTProtocolVersion.MQTTv5, time.monotonic() + timeout_s / 2)
        except _RefusedVersionError as refusal:
            _log.info("%s does not take MQTT 5 (%s); trying 3.1.1", self._url, refusal)
            try:
                self._try_version(MQTTProtocolVersion.MQTTv311, deadline_s)
            except _RefusedVersionError as error:
                raise self._unreachable(str(error)) from None

    def _try_version(self, version: MQTTProtocolVersion, deadline_s: float) -> None:
        """Raises: LinkError, or _RefusedVersionError if another version may do better."""
        attempt, is_accepted = Attempt(), False
        client = self._new_client(version, attempt)
        client.connect_timeout = max(0.1, deadline_s - time.monotonic())
        with self._changed:
            self._client = client
        try:
            client.connect(self._url.host, self._url.port, self._keepalive_s)
            client.loop_start()
            attempt.done.wait(max(0.0, deadline_s - time.monotonic()))
            is_accepted = attempt.is_accepted
            if is_accepted:
                return
            if attempt.refusal:
                raise self._unreachable(
                    f"it refuses: {attempt.refusal}",
                    hint="check user, password and access rules, and the broker URL",
                )
            raise _RefusedVersionError(attempt.ended or "no reply to the greeting")
        except (OSError, ValueError) as error:
            raise self._unreachable(
                describe(error) if isinstance(error, OSError) else str(error)
            ) from None
        finally:
            if not is_accepted:
                with self._changed:
                    self._client, self._is_connected = None, False
                # Not waited for: paho may sleep half a second before it looks.
                stop(client, wait_s=0.0)

    def _new_client(self, version: MQTTProtocolVersion, attempt: Attempt) -> Client:
        client = new_client(
            self._url,
            version,
            attempt,
            client_id=self._client_id,
            will=self._will,
            tls=self._tls,
            queue_count=self._queue_count,
        )
        client.on_connect = self._connected
        client.on_connect_fail = self._connect_failed
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        client.on_publish = self._published
        client.on_subscribe = self._subscribed
        return client

    def _unreachable(self, why: str, *, hint: str = "") -> LinkError:
        with self._changed:
            self._state = f"cannot use the broker at {self._url}: {why}"
        return LinkError(self._state, hint=hint or _START_ONE.format(port=self._url.port))

    # The port.

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        qos: int = 1,
        wait_s: float | None = None,
    ) -> None:
        """Send one message; while offline, QoS 1 messages queue up to ``queue_count``.

        With ``wait_s``: returns once the broker has acknowledged it; not for handlers.
        Raises: LinkError if the message can not be sent or queued, or is not acknowledged within
        ``wait_s`` (it may still arrive later); ConfigError if topic or payload cannot be sent.
        """
        check_topic(topic)
        if len(payload) > _PAYLOAD_CAP_BYTES:
            raise ConfigError(
                f"{len(payload)} bytes for {topic} exceed MQTT's {_PAYLOAD_CAP_BYTES}",
                hint="send it in blocks",
            )
        client = self._client
        if client is None or self._is_closed:
            raise LinkError(f"{topic} is not published: {self._state}", hint="connect first")
        if wait_s is not None and threading.get_ident() == self._loop_thread_id:
            raise LinkError(
                f"{topic}: a handler cannot wait for its own thread", hint="leave out wait_s there"
            )
        info = client.publish(topic, payload, qos=qos, retain=retain)
        if info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN and qos > 0:
            # Queued by paho; without this, waiting would report it as failed.
            info.rc = MQTTErrorCode.MQTT_ERR_SUCCESS
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise self._unsent(topic, info.rc)
        if wait_s is not None:
            try:
                info.wait_for_publish(wait_s)
                is_published = info.is_published()
            except (RuntimeError, ValueError):
                raise self._unsent(topic, info.rc) from None
            self._check_acknowledged(topic, info.mid, is_published, wait_s)

    def _unsent(self, topic: str, code: MQTTErrorCode) -> LinkError:
        if code == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            why = f"{self._queue_count} messages wait for the broker already"
        else:
            why = error_string(code).rstrip(".") if self._is_connected else self._state
        return LinkError(f"{topic} is not published: {why}", hint="publish again when connected")

    def _check_acknowledged(self, topic: str, mid: int, is_published: bool, wait_s: float) -> None:
        with self._changed:
            refusal = self._refused.pop(mid, None)
        if refusal:
            raise LinkError(
                f"the broker refuses {topic}: {refusal}", hint="check the broker's access rules"
            )
        if not is_published:
            raise LinkError(
                f"the broker did not acknowledge {topic} within {wait_s:g} s ({self._state})",
                hint="look at the broker",
            )

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:
        """Call ``handler`` for every message that matches; several handlers per filter may be.

        May be called before ``connect``. Raises: ConfigError if the filter is no filter.
        """
        qos = self._handlers.add(topic_filter, handler, qos)
        with self._changed:
            client = self._client if self._is_connected else None
        if client:
            # If the connection breaks meanwhile, _connected subscribes again.
            client.subscribe(topic_filter, qos)

    def unsubscribe(self, topic_filter: str) -> None:
        """Remove all handlers of this filter. No effect if there are none."""
        is_known = self._handlers.remove(topic_filter)
        with self._changed:
            client = self._client if self._is_connected else None
        if client and is_known:
            client.unsubscribe(topic_filter)

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted us and the connection lives."""
        return self._is_connected

    @property
    def state(self) -> str:
        """ "connected", or one sentence that says what is wrong."""
        return self._state

    def close(self) -> None:
        """Leave gracefully, without the last will, for good. Publishes nothing by itself."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._is_connected = False
            self._state = "closed"
            client = self._client
        if client:
            stop(client)

    # Callbacks, on paho's thread.

    def _connected(
        self, client: Client, attempt: Attempt, _flags: Any, reason: ReasonCode, _props: Any
    ) -> None:
        if reason.is_failure:
            if attempt.done.is_set():
                self._set_state(f"the broker at {self._url} refuses: {reason}")
            elif "protocol" in str(reason).lower():
                attempt.end(f"it refuses: {reason}")
            else:
                attempt.refuse(str(reason))
            return
        with self._changed:
            if self._is_closed or client is not self._client:
                return
            self._loop_thread_id = threading.get_ident()
            self._is_connected, self._connected_s = True, time.monotonic()
            self._state = "connected"
        filters = self._handlers.filters()
        if filters:
            client.subscribe(filters)
        attempt.accept()
        self._tell(True)

    def _connect_failed(self, _client: Client, _attempt: Attempt) -> None:
        self._set_state(f"cannot reach the broker at {self._url}; still trying")

    def _disconnected(
        self, client: Client, attempt: Attempt, flags: Any, reason: ReasonCode, _props: Any
    ) -> None:
        if not attempt.done.is_set():
            attempt.end("it closes the connection")
            return
        said = reason.is_failure and flags.is_disconnect_packet_from_server
        with self._changed:
            was_connected, self._is_connected = self._is_connected, False
            if self._is_closed or client is not self._client:
                return
            if was_connected:
                is_brief = time.monotonic() - self._connected_s < _BRIEF_S
                self._brief_count = self._brief_count + 1 if is_brief else 0
                why = f": {reason}" if said else ""
                if self._brief_count >= _BRIEF_MAX:
                    why += f", again and again: does another client call itself {self._client_id}?"
                self._state = f"lost the broker at {self._url}{why}; reconnecting"
        if was_connected:
            self._tell(False)

    def _message(self, _client: Client, _attempt: Attempt, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            _log.warning("a message with an undecodable topic is ignored")
            return
        payload = bytes(message.payload)
        for handler in self._handlers.of(topic):
            try:
                handler(topic, payload)
            except Exception:  # noqa: BLE001 - the caller's code; it must not end paho's thread
                _log.exception("a handler failed on %s (%d bytes)", topic, len(message.payload))

    def _published(
        self, _client: Client, _attempt: Attempt, mid: int, reason: ReasonCode, _props: Any
    ) -> None:
        if reason.is_failure:
            _log.error("the broker refuses message %d: %s", mid, reason)
            with self._changed:
                self._refused[mid] = str(reason)
                while len(self._refused) > self._queue_count:
                    self._refused.pop(next(iter(self._refused)))

    def _subscribed(
        self, _client: Client, _attempt: Attempt, _mid: int, reasons: list[ReasonCode], _p: Any
    ) -> None:
        for reason in reasons:
            if reason.is_failure:
                _log.error("the broker at %s refuses a subscription: %s", self._url, reason)

    def _set_state(self, state: str) -> None:
        with self._changed:
            if not self._is_closed:
                self._state = state

    def _tell(self, is_connected: bool) -> None:
        if self._on_connection is None:
            return
        try:
            self._on_connection(is_connected, self._state)
        except Exception:  # noqa: BLE001 - as in _message
            _log.exception("on_connection failed")
