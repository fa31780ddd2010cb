"""A cable of adjustable speed: passes bytes on between a client and a server, no faster than told.

Small buffers on both sides, so that whoever sends feels the speed soon, as on a radio link.
"""

import contextlib
import socket
import threading
import time

_BUFFER_BYTES = 16 * 1024
_CHUNK_BYTES = 4096


class Throttle:
    """Listens on ``address``; what comes there goes to ``target`` at ``bytes_per_s``, and back."""

    def __init__(self, target: tuple[str, int], bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.passed_bytes = 0
        self._target = target
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self.address: tuple[str, int] = self._server.getsockname()[:2]
        threading.Thread(target=self._accept, name="throttle", daemon=True).start()

    def close(self) -> None:
        """Cut the cable."""
        for sock in [self._server, *self._sockets]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._target)
                far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
                for sock in (near, far):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [near, far]
                for source, sink, is_slow in ((near, far, True), (far, near, False)):
                    threading.Thread(
                        target=self._pass, args=(source, sink, is_slow), daemon=True
                    ).start()

    def _pass(self, source: socket.socket, sink: socket.socket, is_slow: bool) -> None:
        due_s = time.monotonic()
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                if is_slow:
                    due_s = max(due_s, time.monotonic()) + len(data) / self.bytes_per_s
                    time.sleep(max(0.0, due_s - time.monotonic()))
                    self.passed_bytes += len(data)
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
