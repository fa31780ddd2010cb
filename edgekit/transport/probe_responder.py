"""The far end of a link probe: echoes datagrams, measures trains and blocks, sends some back.

In: sessions over TCP (or TLS 1.3), datagrams on the UDP port of the same number.  Out: replies.

What a stranger can make it do:

- A datagram without the token of an open session, or from another address than that session's, is
  counted and never answered. The token comes over TCP, so its owner really has that address: no
  forged sender can point replies at a third party.
- An echo is answered by as many bytes as came, at most 1000 times a second.
- Whoever opens a session may fill the link, but only for as long as one measurement lasts (trains
  of at most 8192 packets, blocks for at most 10 s), one measurement at a time for all sessions, and
  a session ends after five minutes. Give certificates, or serve on a network you trust.
"""

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

from edgekit.errors import ConfigError, EdgeKitError, LinkError
from edgekit.transport import probe_messages as messages
from edgekit.transport.connection import sentence
from edgekit.transport.probe_bulk import receive_bulk, send_bulk
from edgekit.transport.probe_messages import Control, RefusedError, refuse
from edgekit.transport.probe_packets import Packet
from edgekit.transport.probe_sessions import Session, SessionTable
from edgekit.transport.probe_socket import ProbeSocket
from edgekit.transport.probe_train import TrainIntake
from edgekit.transport.tls import check_peer_name
from edgekit.transport.wire import Wire, describe

_log = logging.getLogger(__name__)

_SESSIONS_MAX = 16
_SESSION_CAP_S = 300.0
_SILENCE_LIMIT_S = 10.0
_TURN_LIMIT_S = 3.0
_LOOK_S = 0.2
_BIND_TRIES = 8
_HINT = "probe again"


class ProbeResponder:
    """Answers link probes until ``close``; see the module for what it refuses.

    With ``tls`` the control connection and the bulk transfers are TLS 1.3 with certificates at both
    ends, as the hop's are; datagrams are never encrypted, they hold random filling. ``on_session``
    is told one line about every session that ended. Threads: "probe-accept", "probe-datagrams",
    "probe-in-<n>"; all are daemons.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        name: str,
        tls: ssl.SSLContext | None = None,
        on_session: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._name, self._tls, self._on_session = name, tls, on_session
        self._server, self._socket = _bind(host, port)
        self._table = SessionTable(self._socket)
        self.counters = self._table.counters
        bound = self._server.getsockname()
        self._address = (str(bound[0]), int(bound[1]))
        self._closing = threading.Event()
        self._turn = threading.Lock()
        """Held by the one measurement under way."""
        self._changed = threading.Lock()
        self._connections: dict[int, socket.socket] = {}
        self._threads = [
            threading.Thread(target=self._accept, name="probe-accept", daemon=True),
            threading.Thread(
                target=self._table.run, args=(self._closing,), name="probe-datagrams", daemon=True
            ),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on, TCP and UDP alike."""
        return self._address

    def close(self) -> None:
        """Stop for good; threads end within a second."""
        with self._changed:
            if self._closing.is_set():
                return
            self._closing.set()
            for sock in [self._server, *self._connections.values()]:
                _shut(sock)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(1.0)

    # Connections.

    def _accept(self) -> None:
        number = 0
        while not self._closing.is_set():
            try:
                sock, origin = self._server.accept()
            except OSError as error:
                if not self._closing.wait(_LOOK_S):  # such as too many open files: it may pass
                    self.counters.last_error = describe(error)
                continue
            number += 1
            with self._changed:
                is_full = len(self._connections) >= _SESSIONS_MAX or self._closing.is_set()
                if not is_full:
                    self._connections[number] = sock
            if is_full:
                self.counters.refused += 1
                sock.close()
                continue
            threading.Thread(
                target=self._serve, args=(number, sock, str(origin[0])), daemon=True,
                name=f"probe-in-{number}",
            ).start()  # fmt: skip
        self._server.close()

    def _serve(self, number: int, sock: socket.socket, host: str) -> None:
        """One connection from its greeting to its end, on its own thread."""
        wire: Wire | None = None
        try:
            sock = self._secured(number, sock)
            wire = Wire(sock, silence_limit_s=_SILENCE_LIMIT_S)
            control = Control(wire, sock)
            with self._greeted(control, sock, host) as session:
                self._obey_all(control, session)
        except EdgeKitError as error:
            self.counters.refused += 1
            self.counters.last_error = error.what
            _log.info("probe from %s ended: %s", host, error.what)
        finally:
            with self._changed:
                self._connections.pop(number, None)
            if wire:
                wire.close()
            else:
                sock.close()

    def _secured(self, number: int, sock: socket.socket) -> socket.socket:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                return sock
            sock.settimeout(_SILENCE_LIMIT_S)
            secure = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            with self._changed:
                self._connections[number] = secure
            secure.do_handshake()
        except (OSError, ValueError) as error:
            why = describe(error) if isinstance(error, OSError) else str(error)
            raise LinkError(f"the handshake failed: {why}", hint=_HINT) from None
        return secure

    @contextlib.contextmanager
    def _greeted(self, control: Control, sock: socket.socket, host: str) -> Iterator[Session]:
        """An open session while inside. Raises: LinkError or TrustError if there is none."""
        hello = control.receive()
        if not isinstance(hello, messages.Hello):
            raise LinkError(f"it greets with {type(hello).__name__}", hint=_HINT)
        if hello.protocol != messages.PROTOCOL:
            reason = f"it speaks probe protocol {messages.PROTOCOL}, not {hello.protocol}"
            control.send(refuse(reason))
            raise LinkError(reason, hint="run the same edgekit at both ends")
        try:
            check_peer_name(sock, hello.name)
        except EdgeKitError as error:
            control.send(refuse(error.what))
            raise
        session = self._table.open(sentence(hello.name), host)
        try:
            control.send(messages.Welcome(name=self._name, token=session.token))
            yield session
        finally:
            self._table.close(session)
            self._on_session(str(session))

    # Measurements, on the thread of their connection.

    def _obey_all(self, control: Control, session: Session) -> None:
        """Until the prober goes. Raises: LinkError if it goes without a word, or talks nonsense."""
        ends_s = time.monotonic() + _SESSION_CAP_S
        while time.monotonic() < ends_s and not self._closing.is_set():
            wish = control.receive()
            if isinstance(wish, messages.Bye):
                return
            if isinstance(wish, messages.Ping):
                control.send(messages.Pong(number=wish.number))
                continue
            if not self._turn.acquire(timeout=_TURN_LIMIT_S):
                control.send(refuse("it is busy with the measurement of another prober"))
                continue
            try:
                self._obey(control, session, wish)
            except RefusedError as error:
                control.send(refuse(error.what))
            finally:
                self._turn.release()

    def _obey(self, control: Control, session: Session, wish: messages.Message) -> None:
        if isinstance(wish, messages.TrainOut):
            self._take_train(control, session, wish)
        elif isinstance(wish, messages.TrainBack):
            self._send_train(control, session, wish)
        elif isinstance(wish, messages.BulkOut):
            control.send(messages.Ready())
            control.send(receive_bulk(control.wire))
            session.bulk_count += 1
            self.counters.bulks += 1
        elif isinstance(wish, messages.BulkBack):
            control.limit_unsent(wish.unsent_bytes)
            control.send(messages.Ready())
            control.send(send_bulk(control.wire, wish.duration_s))
            session.bulk_count += 1
            self.counters.bulks += 1
        else:
            raise LinkError(f"it sent an unexpected {type(wish).__name__}", hint=_HINT)

    def _take_train(self, control: Control, session: Session, wish: messages.TrainOut) -> None:
        intake = TrainIntake(wish.series, wish.packet_count)
        session.intake = intake
        try:
            control.send(messages.Ready())
            control.expect(messages.TrainSent)
            intake.wait()
        finally:
            session.intake = None
        control.send(intake.report())
        session.train_count += 1
        self.counters.trains += 1

    def _send_train(self, control: Control, session: Session, wish: messages.TrainBack) -> None:
        if session.address is None:
            raise RefusedError("no datagram of this session has arrived here yet", hint=_HINT)
        try:
            sending = self._socket.send_train(
                Packet("train", session.token, wish.series, 0),
                packet_count=wish.packet_count,
                packet_bytes=wish.packet_bytes,
                address=session.address,
            )
        except OSError as error:
            raise RefusedError(f"it cannot send datagrams: {describe(error)}", hint=_HINT) from None
        control.send(sending)
        session.train_count += 1
        self.counters.trains += 1


def _bind(host: str, port: int) -> tuple[socket.socket, ProbeSocket]:
    """A TCP and a UDP socket on the same port. Raises: ConfigError naming what is in the way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    failure: OSError | OverflowError | None = None
    for _ in range(1 if port else _BIND_TRIES):  # a free TCP port may be taken for UDP
        server: socket.socket | None = None
        datagrams = ProbeSocket(family)
        try:
            server = socket.create_server((host, port), family=family, backlog=_SESSIONS_MAX)
            datagrams.bind((host, server.getsockname()[1]))
        except (OSError, OverflowError) as error:
            failure = error
            datagrams.close()
            if server:
                server.close()
        else:
            return server, datagrams
    why = describe(failure) if isinstance(failure, OSError) else str(failure)
    raise ConfigError(
        f"cannot listen on {host}:{port} (TCP and UDP): {why}",
        hint="use another --port, and a host address of this device or 0.0.0.0",
    )


def _shut(sock: socket.socket) -> None:
    """Wake whatever waits on ``sock``; not SSLSocket.shutdown, as in wire.py."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
