"""Reach a link responder: resolve, connect, shake hands, greet.

In: host and port.  Out: an open session's wire and token, or a LinkError with what to try.
"""

import socket
import ssl
from dataclasses import dataclass

from edgekit.errors import LinkError
from edgekit.transport import probe_messages as messages
from edgekit.transport.probe_messages import Control
from edgekit.transport.probe_socket import Address
from edgekit.transport.tls import check_peer_name
from edgekit.transport.wire import Wire, describe

PROBE_PORT = 7605
"""Where a responder listens unless told otherwise, TCP and UDP."""
_CONNECT_LIMIT_S = 3.0
_SILENCE_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSession:
    """A session that a responder has welcomed."""

    control: Control
    peer_name: str
    token: bytes
    address: Address
    """Of the responder, as the system writes it."""
    family: int
    segment_bytes: int
    """Payload of one full TCP segment on this path; 0 if the system does not tell."""


def open_session(
    host: str, port: int, *, name: str, tls: ssl.SSLContext | None = None
) -> OpenSession:
    """Greet the responder at ``host``. Raises: LinkError or TrustError with what to try."""
    sock = _connected(host, port)
    try:
        if tls is not None:
            sock = _secured(sock, host, port, tls)
        wire = Wire(sock, silence_limit_s=_SILENCE_LIMIT_S)
    except BaseException:
        sock.close()
        raise
    try:
        control = Control(wire, sock)
        welcome = _welcome(control, name, host, port)
        check_peer_name(sock, welcome.name)
    except BaseException:
        wire.close()
        raise
    return OpenSession(
        control=control,
        peer_name=welcome.name,
        token=welcome.token,
        address=tuple(sock.getpeername()),
        family=sock.family,
        segment_bytes=_segment_bytes(sock),
    )


def _connected(host: str, port: int) -> socket.socket:
    place = f"{host}:{port}"
    try:
        sock = socket.create_connection((host, port), timeout=_CONNECT_LIMIT_S)
    except (socket.gaierror, UnicodeError, OverflowError) as error:
        why = error.strerror if isinstance(error, socket.gaierror) else "not a host and port"
        raise LinkError(
            f"cannot find {place}: {why}", hint="check the name, or give the address"
        ) from None
    except ConnectionRefusedError:
        raise LinkError(
            f"nothing listens on {place}",
            hint=f"start it there: edgekit link --serve --port {port}",
        ) from None
    except OSError as error:
        raise LinkError(
            f"cannot reach {place}: {describe(error)}",
            hint=f"check address and cable, and that no firewall blocks TCP and UDP port {port}",
        ) from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _secured(sock: socket.socket, host: str, port: int, tls: ssl.SSLContext) -> socket.socket:
    try:
        return tls.wrap_socket(sock, server_hostname=host)
    except (OSError, ValueError) as error:
        why = describe(error) if isinstance(error, OSError) else str(error)
        raise LinkError(
            f"{host}:{port} does not shake hands: {why}",
            hint="give certificates of one authority at both ends, or at neither",
        ) from None


def _welcome(control: Control, name: str, host: str, port: int) -> messages.Welcome:
    try:
        control.send(messages.Hello(protocol=messages.PROTOCOL, name=name))
        return control.expect(messages.Welcome)
    except messages.RefusedError:
        raise
    except LinkError as error:
        raise LinkError(
            f"{host}:{port} does not answer as a link responder: {error.what}",
            hint="check that `edgekit link --serve` runs there, with certificates as here "
            "or without as here",
        ) from None


def _segment_bytes(sock: socket.socket) -> int:
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    except OSError:
        return 0
