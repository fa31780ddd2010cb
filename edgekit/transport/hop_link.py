"""Upstream end of a TCP hop: keeps one connection to the next device and sends activations over it.

In: activations, and the peer's address.  Out: answers and changes of state, on the link's thread.
Never queues a frame: one that gets no credit in time goes back to the caller as a LinkError.
"""

import logging
import random
import socket
import ssl
import threading
import time
from dataclasses import dataclass

from edgekit.errors import ConfigError, EdgeKitError, LinkError
from edgekit.transport import frames, headers
from edgekit.transport.codecs import make_codec
from edgekit.transport.connection import (
    HEARTBEAT_S,
    SILENCE_LIMIT_S,
    Connection,
    check_times,
    sentence,
)
from edgekit.transport.dialer import Dialer
from edgekit.transport.hop_pace import Pace
from edgekit.transport.port import (
    Activation,
    Answer,
    HopCounters,
    Identity,
    OnAnswer,
    OnState,
    Trip,
)
from edgekit.transport.tls import check_peer_name
from edgekit.transport.wire import Wire

_log = logging.getLogger(__name__)

_BACKOFF_FIRST_S = 0.1
_BACKOFF_CAP_S = 0.5
_STABLE_S = 1.0
"""A connection that lived this long clears the back-off; two links that oust each other do not."""
_RETRY = "wait, it reconnects by itself"
_Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class _Sent:
    """A frame under way."""

    sent_s: float
    payload_bytes: int
    encode_s: float


class TcpHopLink:
    """The HopLink over TCP, or TLS 1.3 when ``tls`` is given (see tls.py).

    ``on_state`` is called once when a connection is accepted by the peer and once when that
    connection is lost; not for attempts that fail in between (``state`` tells those), nor after
    ``close``. An answer may reach ``on_answer`` before ``send`` returns. Threads: "hop-link-<cut>"
    connects and receives, "hop-beat-<cut>" sends heartbeats; both are daemons.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        on_answer: OnAnswer,
        on_state: OnState,
        tls: ssl.SSLContext | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        silence_limit_s: float = SILENCE_LIMIT_S,
    ) -> None:
        """Raises: ConfigError if the library of the codec of ``identity`` is not installed here."""
        check_times(heartbeat_s, silence_limit_s)
        self._identity = identity
        self._codec = make_codec(identity.codec)
        deadline_s = identity.codec.deadline_s
        self._dialer = Dialer(tls, handshake_limit_s=silence_limit_s)
        self._on_answer, self._on_state = on_answer, on_state
        self._heartbeat_s, self._silence_limit_s = heartbeat_s, silence_limit_s
        self.counters = HopCounters()
        # Of its own, so that heartbeats do not wake with every frame.
        self._closing = threading.Event()
        self._changed = threading.Condition()
        # All below is guarded by _changed.
        self._peer: tuple[str, int] | None = None
        self._connection: Connection | None = None
        self._connected_s = 0.0
        self._credit = 0
        self._sent: dict[_Key, _Sent] = {}
        """The oldest first."""
        self._pace = None if deadline_s is None else Pace(deadline_s)
        self._state = "the address of the next device is not known yet"
        self._is_closed = False
        self._backoff_s = 0.0
        self._hint_count = 0
        """How often somebody told where the peer is: a reason to try at once."""
        self._threads = [
            threading.Thread(target=self._run, name=f"hop-link-{identity.cut}", daemon=True),
            threading.Thread(target=self._beat, name=f"hop-beat-{identity.cut}", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # The port.

    def set_peer(self, host: str, port: int) -> None:
        """Where the next device listens now. Reconnects if the address changed.

        If there is no connection the next attempt is made at once, so it pays to repeat the
        address when the next device reports that it is back.
        Raises: ConfigError if ``port`` is none.
        """
        if not 0 < port < 65536:
            raise ConfigError(f"{host}:{port} is not a TCP address", hint="use a port of 1..65535")
        with self._changed:
            self._backoff_s = 0.0
            self._hint_count += 1
            if self._peer != (host, port):
                self._peer = (host, port)
                if self._pace is not None:
                    self._pace.forget()
                self._interrupt(f"the next device moved to {host}:{port}")
            self._changed.notify_all()

    def send(self, activation: Activation, *, timeout_s: float) -> int:
        """Code the tensors, and send as soon as there is a connection and a credit.

        The tensors are read until this returns and not afterwards. ``timeout_s`` is for the wait;
        a frame that is under way may take as long as its bytes move.
        Returns: bytes that went out. Raises: LinkError if neither came within ``timeout_s``, or the
        connection broke meanwhile; ModelError or ConfigError if the activation cannot be sent.
        """
        if self._pace is not None:  # else it would be coded for a link of some time ago
            asked_s = time.monotonic()
            self.wait_ready(timeout_s)
            timeout_s = max(0.0, timeout_s - (time.monotonic() - asked_s))
        started_s = time.monotonic()
        encoded = frames.coded(activation, self._codec, budget_bytes=self._budget_bytes(started_s))
        parts = frames.activation_parts(activation, encoded, self._identity)
        encode_s = time.monotonic() - started_s
        connection = self._take_credit(timeout_s)
        key = (activation.stream, activation.run, activation.frame)
        with self._changed:
            if self._connection is connection:
                nbytes = encoded.header.payload_bytes
                self._sent[key] = _Sent(time.monotonic(), nbytes, encode_s)
        try:
            connection.send_parts(parts)
        except LinkError as error:
            connection.end(error)
            with self._changed:
                self._sent.pop(key, None)
            raise self._unsent(connection.end_reason or error) from None
        sent_bytes = sum(map(len, parts))
        self.counters.activations_sent += 1
        self.counters.bytes_sent += sent_bytes
        return sent_bytes

    def wait_ready(self, timeout_s: float) -> bool:
        """True once a frame could be sent at once (connected, credit in hand); else False."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_ready() or self._is_closed, timeout_s)
            return self._is_ready()

    @property
    def state(self) -> str:
        """ "connected", or one sentence that says what is wrong."""
        return self._problem()

    @property
    def is_connected(self) -> bool:
        """Whether frames can be sent, credit permitting."""
        connection = self._connection
        return connection is not None and connection.end_reason is None

    @property
    def round_trip_s(self) -> float:
        """Last heartbeat's round trip: the bare link, without a frame. 0 before the first."""
        connection = self._connection
        return connection.round_trip_s if connection else 0.0

    def close(self) -> None:
        """Stop for good; threads end within a second. Waiting senders get a LinkError."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._closing.set()
            self._dialer.close()
            self._interrupt("the link was closed here", say="the upstream device closed the hop")
            self._state = "closed"
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(1.0)

    # Sending.

    def _budget_bytes(self, now_s: float) -> int | None:
        """Of the next frame; None: all that there is."""
        if self._pace is None:
            return None
        with self._changed:
            oldest = next(iter(self._sent.values()), None)
            if oldest is None:
                return self._pace.budget_bytes()
            return self._pace.budget_bytes(oldest.payload_bytes, now_s - oldest.sent_s)

    def _is_ready(self) -> bool:
        return self.is_connected and self._credit > 0

    def _take_credit(self, timeout_s: float) -> Connection:
        with self._changed:
            self._changed.wait_for(lambda: self._is_ready() or self._is_closed, timeout_s)
            connection = self._connection
            if connection is None or not self.is_connected or self._is_closed:
                raise LinkError(f"no hop to the next device: {self._problem()}", hint=_RETRY)
            if not self._credit:
                raise LinkError(
                    f"no credit from the next device within {timeout_s:g} s",
                    hint="drop this frame: the next device is busy with earlier ones",
                )
            self._credit -= 1
            return connection

    def _problem(self) -> str:
        """The state, or why the connection is just being given up."""
        reason = self._connection.end_reason if self._connection else None
        return reason.what if reason else self._state

    def _beat(self) -> None:
        while not self._closing.wait(self._heartbeat_s):
            connection = self._connection
            if connection:
                connection.beat()

    # The life of connections; all on the "hop-link" thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._peer is not None or self._is_closed)
                if self._is_closed or self._peer is None:
                    return
                host, port = self._peer
                hint_count = self._hint_count
            try:
                self._live(host, port)
            except EdgeKitError as error:
                self._fail(error)
            self._pause(hint_count)

    def _pause(self, hint_count: int) -> None:
        """Back off before the next attempt, unless somebody has told where the peer is."""
        with self._changed:
            wait_s, self._backoff_s = self._backoff_s, _longer(self._backoff_s)
            jittered_s = random.uniform(0.5, 1.0) * wait_s
            self._changed.wait_for(
                lambda: self._is_closed or self._hint_count != hint_count, jittered_s
            )

    def _live(self, host: str, port: int) -> None:
        """One connection from dialling to its end. Raises: EdgeKitError saying why it ended."""
        sock = self._dialer.dial(host, port)
        connection = Connection(Wire(sock, silence_limit_s=self._silence_limit_s))
        try:
            welcome = self._greet(connection, sock)
            with self._changed:
                if self._is_closed or self._peer != (host, port):
                    return
                self._dialer.finish()
                self._connection = connection
                self._credit = welcome.credit
                self._connected_s = time.monotonic()
                self._state = "connected"
                self.counters.connects += 1
                self._changed.notify_all()
            self._tell(True)
            self._receive(connection, welcome.device)
        except EdgeKitError as error:
            # A sender that fails because of this shall give this as the reason.
            connection.end(LinkError(error.what, hint=_RETRY))
            raise
        finally:
            self._dialer.finish()
            connection.close()

    def _greet(self, connection: Connection, sock: socket.socket) -> headers.Welcome:
        connection.send(headers.hello(self._identity))
        reply = connection.receive()
        if isinstance(reply, headers.Refuse):
            raise LinkError(
                f"{sentence(reply.device) or 'the peer'} refuses: {sentence(reply.reason)}",
                hint=_RETRY,
            )
        if not isinstance(reply, headers.Welcome):
            raise LinkError(
                f"the peer greets with {type(reply).__name__}, not with Welcome",
                hint="run the same edgekit at both ends",
            )
        check_peer_name(sock, reply.device)
        return reply

    def _receive(self, connection: Connection, device: str) -> None:
        while True:
            message = connection.receive()
            if isinstance(message, headers.AnswerHeader):
                frames.check_answer(message)
                body = bytearray(message.detections_bytes)
                connection.receive_into([memoryview(body)])
                self._deliver(frames.answer(message, body))
            elif isinstance(message, headers.Credit):
                with self._changed:
                    self._credit += message.count
                    self._changed.notify_all()
            elif isinstance(message, headers.Bye):
                raise LinkError(
                    f"{sentence(device)} closed the hop: {sentence(message.reason)}", hint=_RETRY
                )
            else:
                raise LinkError(
                    f"{sentence(device)} sent an unexpected {type(message).__name__}",
                    hint="run the same edgekit at both ends",
                )

    def _deliver(self, answer: Answer) -> None:
        with self._changed:
            sent = self._sent.pop((answer.stream, answer.run, answer.frame), None)
            if sent is not None:
                round_trip_s = time.monotonic() - sent.sent_s
                if self._pace is not None:
                    self._pace.add(
                        sent.payload_bytes,
                        round_trip_s=round_trip_s,
                        residence_s=answer.residence_s,
                    )
        if sent is None:
            _log.warning("answer about frame %s, which is not under way", answer.frame)
            return
        self.counters.answers_received += 1
        trip = Trip(
            round_trip_s=round_trip_s, payload_bytes=sent.payload_bytes, encode_s=sent.encode_s
        )
        try:
            self._on_answer(answer, trip)
        except Exception:  # noqa: BLE001 - the caller's code; the hop must outlive its mistakes
            _log.exception("on_answer failed for frame %s", answer.frame)

    def _fail(self, error: EdgeKitError) -> None:
        """The attempt or connection is over; say so once."""
        with self._changed:
            connection, self._connection = self._connection, None
            if self._is_closed:
                return
            if connection is not None and connection.end_reason is not None:
                error = connection.end_reason
            if connection is not None and time.monotonic() - self._connected_s > _STABLE_S:
                self._backoff_s = 0.0
            self._credit = 0
            self._sent.clear()
            self._state = error.what
            self.counters.last_error = error.what
            self._changed.notify_all()
        if connection is not None:
            self._tell(False)

    def _tell(self, is_connected: bool) -> None:
        try:
            self._on_state(is_connected, self._state)
        except Exception:  # noqa: BLE001 - the caller's code; the hop must outlive its mistakes
            _log.exception("on_state failed")

    def _interrupt(self, reason: str, *, say: str = "") -> None:
        """End whatever is under way; call with _changed held."""
        if self._connection is not None:
            self._connection.end(LinkError(reason, hint=_RETRY), say=say or reason)
        self._dialer.interrupt()
        self._changed.notify_all()

    def _unsent(self, error: EdgeKitError) -> LinkError:
        return LinkError(f"the frame was not sent: {error.what}", hint=_RETRY)


def _longer(backoff_s: float) -> float:
    return min(_BACKOFF_CAP_S, 2 * backoff_s) if backoff_s else _BACKOFF_FIRST_S
