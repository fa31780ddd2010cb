"""One connected socket, plain or TLS, for one reading thread and any number of writing threads.

In: a connected socket.  Out: exact reads into the caller's memory, whole writes without copies.
Knows bytes only; what they mean is the business of connection.py.

The socket is non-blocking; waiting happens in poll, outside every lock. An SSL object must not be
entered by two threads at once, so with TLS each single read or write is made under one lock. Both
return at once if they cannot proceed, so neither direction can hold up the other. A read is always
tried before waiting: bytes that OpenSSL has already decrypted would not wake poll.
"""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Sequence

from edgekit.errors import LinkError

_BUFFERS_PER_CALL = 64
_HINT = "wait, it reconnects by itself; if it lasts, look at the peer and the cable"


class Wire:
    """Bytes over one connection. Times out on silence, never on slowness."""

    def __init__(self, sock: socket.socket, *, silence_limit_s: float) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._silence_limit_ms = 1e3 * silence_limit_s
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._ssl_lock: contextlib.AbstractContextManager[object] = (
            threading.Lock() if self._is_tls else contextlib.nullcontext()
        )
        self._writing = threading.Lock()
        self._aborted = threading.Event()
        self.bytes_sent = 0

    def read_some_into(self, view: memoryview) -> int:
        """Fill at least one byte of ``view`` and return how many.

        Raises: LinkError if the peer closed, or sent nothing for the silence limit.
        """
        while True:
            wanted = select.POLLIN
            try:
                with self._ssl_lock:
                    count = self._socket.recv_into(view)
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            except ssl.SSLWantWriteError:
                wanted = select.POLLIN | select.POLLOUT
            except OSError as error:
                raise _lost(error) from None
            else:
                if count:
                    return count
                raise LinkError("the peer closed the connection", hint=_HINT)
            if not self._wait(wanted):
                raise LinkError(
                    f"the peer has been silent for {self._silence_limit_ms / 1e3:g} s", hint=_HINT
                )

    def read_into(self, view: memoryview) -> None:
        """Fill the whole of ``view``. Raises: as ``read_some_into``."""
        while view:
            view = view[self.read_some_into(view) :]

    def write(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send all ``parts`` as one unbroken run of bytes.

        Raises: LinkError if the connection broke, or took no byte for the silence limit; either way
        it is of no more use, because a part may have been sent.
        """
        with self._writing:
            self._write_locked(parts)

    def write_if_idle(self, part: bytes) -> bool:
        """Send one short part unless that would wait. False if it was not sent.

        Raises: LinkError if the connection broke.
        """
        if not self._writing.acquire(blocking=False):
            return False
        try:
            # Writable means that a third of the send buffer is free: a short part fits whole.
            if not self._wait(select.POLLOUT, limit_ms=0):
                return False
            self._write_locked([part])
            return True
        finally:
            self._writing.release()

    def _write_locked(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        pending = [view for part in parts if (view := memoryview(part))]
        while pending:
            try:
                count = self._send(pending)
            except (BlockingIOError, ssl.SSLWantWriteError):
                wanted = select.POLLOUT
            except ssl.SSLWantReadError:
                wanted = select.POLLIN | select.POLLOUT
            except OSError as error:
                self.abort()
                raise _lost(error) from None
            else:
                self.bytes_sent += count
                pending = _after(pending, count)
                continue
            if not self._wait(wanted):
                self.abort()
                raise LinkError(
                    f"the peer took no bytes for {self._silence_limit_ms / 1e3:g} s", hint=_HINT
                )

    def _send(self, pending: list[memoryview]) -> int:
        if self._is_tls:
            with self._ssl_lock:
                return self._socket.send(pending[0])
        return self._socket.sendmsg(pending[:_BUFFERS_PER_CALL])

    def _wait(self, events: int, *, limit_ms: float | None = None) -> bool:
        """False if none of ``events`` (nor an error, nor ``abort``) came within the limit."""
        poll = select.poll()
        try:
            poll.register(self._socket, events)
        except ValueError:
            raise LinkError("the connection was closed", hint=_HINT) from None
        return bool(poll.poll(self._silence_limit_ms if limit_ms is None else limit_ms))

    def abort(self) -> None:
        """End the connection now; a thread inside read or write gets its LinkError. Idempotent."""
        if not self._aborted.is_set():
            self._aborted.set()
            # Not SSLSocket.shutdown: that would take the SSL object away from a running call.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the socket back. Only the reading thread calls this, when it has ended."""
        self.abort()
        with self._writing:
            self._socket.close()


def _after(pending: list[memoryview], count: int) -> list[memoryview]:
    """What is left of ``pending`` once ``count`` bytes of it are sent."""
    for index, view in enumerate(pending):
        if count < len(view):
            return [view[count:], *pending[index + 1 :]]
        count -= len(view)
    return []


def _lost(error: OSError) -> LinkError:
    text = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return LinkError(f"the connection broke: {text or error}", hint=_HINT)


def describe(error: OSError) -> str:
    """One short reason for people: "Connection refused"."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, TimeoutError):
        return "no reply"
    return error.strerror or str(error)
