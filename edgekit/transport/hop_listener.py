"""Downstream end of a TCP hop: accepts one upstream neighbour and takes its activations in.

In: connections.  Out: activations, on the receive thread of their connection.
Never holds more frames than the credit: those handed out and not released, plus the credits that
the upstream end still has, never exceed ``credit_count``, also across reconnections.
"""

import contextlib
import dataclasses
import logging
import socket
import ssl
import threading
import time
from functools import partial

from edgekit.errors import ConfigError, EdgeKitError, LinkError, TrustError
from edgekit.transport import frames, headers
from edgekit.transport.codecs import make_codec
from edgekit.transport.connection import (
    HEARTBEAT_S,
    SILENCE_LIMIT_S,
    Connection,
    check_times,
    sentence,
)
from edgekit.transport.handout import hand_out
from edgekit.transport.port import (
    Answer,
    HopCounters,
    Identity,
    OnActivation,
)
from edgekit.transport.tls import check_peer_name
from edgekit.transport.wire import Wire, describe

_log = logging.getLogger(__name__)

_CONNECTIONS_MAX = 32
"""Open connections, greeted or not; more are closed at once."""
_ACCEPT_PAUSE_S = 0.2
_RETRY = "the upstream device reconnects by itself"


class _Window:
    """The frames of one pipeline that were handed out and are not released yet."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.codec = make_codec(identity.codec)
        self.held_count = 0


class _Upstream:
    """One welcome connection."""

    def __init__(self, number: int, device: str, connection: Connection, window: _Window) -> None:
        self.number, self.device = number, sentence(device)
        self.connection, self.window = connection, window
        self.credit = 0
        """Activations it may still send."""
        self.is_greeted = False
        """Whether Welcome is on its way, so that a Credit may follow."""

    def __str__(self) -> str:
        return self.device


class TcpHopListener:
    """The HopListener over TCP, or TLS 1.3 when ``tls`` is given (see tls.py).

    Refuses everybody until ``serve``; ``device`` is the name it refuses by. The newest connection
    wins: an upstream agent that restarted replaces the one it was. Each activation's tensors are
    in memory of their own, which belongs to the consumer; nothing is reused. ``reply`` and
    ``release`` may be called from any thread, once each; further calls do nothing. Threads:
    "hop-listen" accepts, "hop-listen-beat" sends heartbeats, "hop-in-<n>" receives and decodes; all
    are daemons.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        on_activation: OnActivation,
        credit_count: int = 2,
        tls: ssl.SSLContext | None = None,
        max_payload_bytes: int = frames.PAYLOAD_CAP_BYTES,
        heartbeat_s: float = HEARTBEAT_S,
        silence_limit_s: float = SILENCE_LIMIT_S,
        device: str = "",
    ) -> None:
        check_times(heartbeat_s, silence_limit_s)
        if not 1 <= credit_count <= 64:
            raise ConfigError(f"credit_count must be 1..64, got {credit_count}", hint="use 2")
        self._on_activation, self._credit_count = on_activation, credit_count
        self._tls, self._max_payload_bytes = tls, max_payload_bytes
        self._heartbeat_s, self._silence_limit_s = heartbeat_s, silence_limit_s
        self.counters = HopCounters()
        self._closing = threading.Event()
        self._changed = threading.Lock()
        # All below is guarded by _changed.
        self._device = device
        self._window: _Window | None = None
        self._current: _Upstream | None = None
        self._sockets: dict[int, socket.socket] = {}
        self._is_closed = False
        self._server = _bind(host, port)
        bound = self._server.getsockname()
        self._address = (str(bound[0]), int(bound[1]))
        self._threads = [
            threading.Thread(target=self._accept, name="hop-listen", daemon=True),
            threading.Thread(target=self._beat, name="hop-listen-beat", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # The port.

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on."""
        return self._address

    def serve(self, identity: Identity | None) -> None:
        """Accept hops that match ``identity`` from now on; None refuses all ("not serving yet").

        A connection of another pipeline is closed. Frames of the former pipeline that are still
        held no longer count.
        Raises: ConfigError if the library of its codec is not installed here.
        """
        window = _Window(identity) if identity else None
        with self._changed:
            now = self._window.identity if self._window else None
            if identity == now:
                return
            self._window = window
            if identity:
                self._device = identity.device
            former, self._current = self._current, None
        if former:
            say = (
                f"now serving deployment {identity.deployment}" if identity else "no longer serving"
            )
            former.connection.end(LinkError(f"it is {say}", hint=_RETRY), say=say)

    def close(self) -> None:
        """Stop for good; threads end within a second."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._closing.set()
            current, self._current = self._current, None
        if current:
            current.connection.end(LinkError("closed here", hint=_RETRY), say="shutting down")
        with self._changed:
            for sock in [self._server, *self._sockets.values()]:
                _shut(sock)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(1.0)

    # Accepting.

    def _accept(self) -> None:
        number = 0
        while not self._is_closed:
            try:
                sock, origin = self._server.accept()
            except OSError as error:
                if not self._is_closed:  # such as too many open files: it may pass
                    _log.warning("hop cannot accept: %s", describe(error))
                    time.sleep(_ACCEPT_PAUSE_S)
                continue
            number += 1
            self._make_room()
            with self._changed:
                self._sockets[number] = sock
            threading.Thread(
                target=self._receive, args=(number, sock, str(origin[0])), daemon=True,
                name=f"hop-in-{number}",
            ).start()  # fmt: skip
        self._server.close()

    def _make_room(self) -> None:
        """Close the oldest connection that is of no use, if there are too many."""
        with self._changed:
            useless = [n for n in self._sockets if not self._current or n != self._current.number]
            if len(useless) >= _CONNECTIONS_MAX:
                _shut(self._sockets[min(useless)])

    def _beat(self) -> None:
        while not self._closing.wait(self._heartbeat_s):
            current = self._current
            if current and current.is_greeted:
                current.connection.beat()

    # One connection; all on its own "hop-in-<n>" thread.

    def _receive(self, number: int, sock: socket.socket, origin: str) -> None:
        upstream: _Upstream | None = None
        connection: Connection | None = None
        try:
            sock = self._secured(number, sock)
            connection = Connection(Wire(sock, silence_limit_s=self._silence_limit_s))
            upstream = self._greeted(number, sock, connection)
            while True:
                self._take_in(upstream, connection.receive())
        except EdgeKitError as error:
            reason = (connection.end_reason if connection else None) or error
            self.counters.last_error = reason.what
            # A neighbour that is refused asks again twice a second: not news.
            level = logging.INFO if upstream else logging.DEBUG
            _log.log(level, "hop from %s ended: %s", upstream or origin, reason.what)
            if connection:
                connection.end(LinkError(reason.what, hint=_RETRY), say=reason.what)
        finally:
            with self._changed:
                self._sockets.pop(number, None)
                if self._current and self._current.number == number:
                    self._current = None
            if connection:
                connection.close()
            else:
                sock.close()

    def _secured(self, number: int, sock: socket.socket) -> socket.socket:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                return sock
            sock.settimeout(self._silence_limit_s)
            secure = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            with self._changed:
                self._sockets[number] = secure
                if self._is_closed:
                    _shut(secure)
            secure.do_handshake()
        except (OSError, ValueError) as error:
            why = describe(error) if isinstance(error, OSError) else str(error)
            raise LinkError(f"the handshake failed: {why}", hint=_RETRY) from None
        return secure

    def _greeted(self, number: int, sock: socket.socket, connection: Connection) -> _Upstream:
        greeting = connection.receive()
        if not isinstance(greeting, headers.Hello):
            raise LinkError(
                f"the peer greets with {type(greeting).__name__}, not with Hello",
                hint="run the same edgekit at both ends",
            )
        try:
            check_peer_name(sock, greeting.device)
            upstream, former = self._admit(number, greeting, connection)
        except EdgeKitError as error:
            refuse = headers.Refuse(device=self._device, reason=sentence(error.what))
            connection.send(refuse)
            raise
        if former:
            say = f"a newer connection from {upstream.device} took its place"
            former.connection.end(LinkError(say, hint=_RETRY), say=say)
        connection.send(headers.Welcome(device=self._device, credit=upstream.credit))
        upstream.is_greeted = True
        self._grant(upstream)
        return upstream

    def _admit(
        self, number: int, greeting: headers.Hello, connection: Connection
    ) -> tuple[_Upstream, _Upstream | None]:
        """Make the connection the current one; also gives the one it replaces."""
        with self._changed:
            reason = headers.refusal(greeting, self._window.identity if self._window else None)
            if self._is_closed:
                reason = "shutting down"
            if self._current and self._current.number > number:
                reason = reason or "a newer connection took its place"
            if reason or self._window is None:
                raise LinkError(reason, hint=_RETRY)
            upstream = _Upstream(number, greeting.device, connection, self._window)
            upstream.credit = self._credit_count - self._window.held_count
            former, self._current = self._current, upstream
            self.counters.connects += 1
            return upstream, former

    def _take_in(self, upstream: _Upstream, message: headers.Message) -> None:
        if isinstance(message, headers.Bye):
            raise LinkError(f"the peer said: {sentence(message.reason)}", hint=_RETRY)
        if not isinstance(message, headers.ActivationHeader):
            raise LinkError(
                f"the peer sent an unexpected {type(message).__name__}",
                hint="run the same edgekit at both ends",
            )
        window = upstream.window
        cap_bytes = self._max_payload_bytes
        frames.check_activation(message, window.identity, window.codec, cap_bytes=cap_bytes)
        if not upstream.credit:
            raise TrustError(
                f"frame {message.frame} came without credit",
                hint="run the same edgekit at both ends",
            )
        buffers = frames.empty_buffers(message.coded)
        upstream.connection.receive_into(buffers)
        with self._changed:
            if self._current is not upstream:
                raise LinkError("its place was taken", hint=_RETRY)
            upstream.credit -= 1
            window.held_count += 1
            self.counters.extra["activations_received"] = (
                self.counters.extra.get("activations_received", 0) + 1
            )
        hand_out(
            message,
            buffers,
            window.codec,
            self._on_activation,
            device=self._device,
            reply=partial(_reply, upstream.connection),
            release=partial(self._released, window),
            cap_bytes=cap_bytes,
        )

    # Credit.

    def _released(self, window: _Window) -> None:
        """A frame has left the consumer's queue."""
        with self._changed:
            window.held_count -= 1
            current = self._current
        if current and current.is_greeted and current.window is window:
            self._grant(current)

    def _grant(self, upstream: _Upstream) -> None:
        """Top its credit up to what the window has room for."""
        with self._changed:
            room = self._credit_count - upstream.window.held_count
            grant, upstream.credit = room - upstream.credit, room
        if grant > 0:
            with contextlib.suppress(LinkError):
                upstream.connection.send(headers.Credit(count=grant))


def _reply(connection: Connection, answer: Answer) -> None:
    """Send an answer; one that cannot travel goes back as dropped, with the reason."""
    try:
        parts = frames.answer_parts(answer)
    except EdgeKitError as error:
        _log.warning("frame %s: %s", answer.frame, error)
        parts = frames.answer_parts(
            dataclasses.replace(answer, detections=(), dropped=sentence(error.what))
        )
    try:
        connection.send_parts(parts)
    except LinkError as error:
        _log.info("the answer about frame %s is lost: %s", answer.frame, error.what)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_CONNECTIONS_MAX)
    except (OSError, OverflowError) as error:
        why = describe(error) if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"cannot listen on {host}:{port}: {why}",
            hint="use port 0 for any free port, and a host address of this device or 0.0.0.0",
        ) from None


def _shut(sock: socket.socket) -> None:
    """Wake whatever waits on ``sock``; not SSLSocket.shutdown, as in wire.py."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
