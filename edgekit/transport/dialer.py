"""Reach a listener: resolve, connect, shake hands over TLS; another thread may interrupt it.

In: host and port.  Out: a connected socket, or a LinkError saying what does not work.
"""

import contextlib
import socket
import ssl
import threading

from edgekit.errors import LinkError
from edgekit.transport.wire import describe

_CONNECT_LIMIT_S = 1.0
_HINT = "wait, it is tried again and again; if it lasts, look at the peer and the cable"


class Dialer:
    """Makes one connection at a time. Only name resolution cannot be interrupted."""

    def __init__(self, tls: ssl.SSLContext | None, *, handshake_limit_s: float) -> None:
        self._tls, self._handshake_limit_s = tls, handshake_limit_s
        self._lock = threading.Lock()
        self._attempt: socket.socket | None = None
        self._is_closed = False

    def dial(self, host: str, port: int) -> socket.socket:
        """A connected socket, which ``interrupt`` still ends until ``finish``.

        Raises: LinkError naming host, port and reason.
        """
        try:
            sock = self._connected(host, port)
            return sock if self._tls is None else self._secured(sock, host, self._tls)
        except (OSError, ValueError) as error:
            why = describe(error) if isinstance(error, OSError) else "not a host name"
            raise LinkError(f"cannot reach {host}:{port}: {why}", hint=_HINT) from None

    def finish(self) -> None:
        """The socket is in use, or closed: no longer a matter of dialling."""
        with self._lock:
            self._attempt = None

    def interrupt(self) -> None:
        """End the attempt under way, if there is one."""
        with self._lock:
            if self._attempt is not None:
                # Ends a connect too; not SSLSocket.shutdown, as in wire.py.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._attempt, socket.SHUT_RDWR)

    def close(self) -> None:
        """Interrupt, and let no further attempt begin."""
        with self._lock:
            self._is_closed = True
        self.interrupt()

    def _connected(self, host: str, port: int) -> socket.socket:
        """A connection to whichever of the host's addresses answers first, in their order."""
        problem = OSError("it has no address")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, kind, proto, _, address in found:
            sock = self._attempting(socket.socket(family, kind, proto))
            try:
                sock.settimeout(_CONNECT_LIMIT_S)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                sock.close()
                problem = error
            else:
                return sock
        raise problem

    def _secured(self, sock: socket.socket, host: str, tls: ssl.SSLContext) -> ssl.SSLSocket:
        sock.settimeout(self._handshake_limit_s)
        secure = tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        try:
            self._attempting(secure)
            secure.do_handshake()
        except OSError:
            secure.close()
            raise
        return secure

    def _attempting(self, sock: socket.socket) -> socket.socket:
        with self._lock:
            self._attempt = sock
            if self._is_closed:
                sock.close()
        return sock
