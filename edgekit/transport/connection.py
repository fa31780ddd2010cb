"""A wire that speaks messages: framing, heartbeats, closing words. Both ends of a hop use it.

In: a Wire.  Out: messages in order; Ping and Pong are dealt with here and never surface.
"""

import contextlib
import threading
import time
from collections.abc import Sequence

from edgekit.errors import ConfigError, LinkError
from edgekit.transport import headers
from edgekit.transport.wire import Wire

HEARTBEAT_S = 0.5
SILENCE_LIMIT_S = 1.5
_READ_AHEAD_BYTES = 4096


class Connection:
    """Messages over one wire. One thread receives; any thread sends."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._buffer = bytearray(headers.PREFIX_BYTES + headers.HEADER_CAP_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._end_reason: LinkError | None = None
        self._ending = threading.Lock()
        self.round_trip_s = 0.0
        """Of the last Ping and Pong: the link alone, without a frame."""

    def send(self, message: headers.Message) -> None:
        """Send one header without payload. Raises: LinkError if the connection is gone."""
        self._wire.write([headers.encode(message)])

    def send_parts(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send one framed message with its payload. Raises: LinkError if the connection is gone."""
        self._wire.write(parts)

    def beat(self) -> None:
        """Send a Ping, unless other bytes are already on their way: those prove life as well."""
        with contextlib.suppress(LinkError):
            self._wire.write_if_idle(headers.encode(headers.Ping(stamp_ns=time.monotonic_ns())))

    def receive(self) -> headers.Message:
        """The next message that is neither Ping nor Pong.

        Raises: LinkError if the connection is gone, silent or speaks nonsense; TrustError if it
        announces more than a cap.
        """
        while True:
            message = self._next()
            if isinstance(message, headers.Ping):
                pong = headers.encode(headers.Pong(stamp_ns=message.stamp_ns))
                self._wire.write_if_idle(pong)
            elif isinstance(message, headers.Pong):
                self.round_trip_s = (time.monotonic_ns() - message.stamp_ns) / 1e9
            else:
                return message

    def receive_into(self, views: Sequence[memoryview]) -> None:
        """Fill ``views`` with the payload of the message just received. Raises: LinkError."""
        for view in views:
            ahead = min(len(view), self._end - self._start)
            view[:ahead] = self._view[self._start : self._start + ahead]
            self._start += ahead
            if ahead < len(view):
                self._wire.read_into(view[ahead:])

    def _next(self) -> headers.Message:
        self._fill(headers.PREFIX_BYTES)
        body = self._start + headers.PREFIX_BYTES
        length = headers.header_length(self._view[self._start : body])
        self._fill(headers.PREFIX_BYTES + length)
        body = self._start + headers.PREFIX_BYTES
        message = headers.decode(self._view[body : body + length])
        self._start = body + length
        return message

    def _fill(self, need: int) -> None:
        """Have ``need`` unread bytes in the buffer; read a little ahead, to save calls."""
        have = self._end - self._start
        if have >= need:
            return
        if self._start and (have == 0 or self._start + need > len(self._buffer)):
            self._buffer[:have] = self._buffer[self._start : self._end]
            self._start, self._end = 0, have
        while (have := self._end - self._start) < need:
            room = self._end + max(need - have, _READ_AHEAD_BYTES)
            self._end += self._wire.read_some_into(self._view[self._end : room])

    def end(self, reason: LinkError, *, say: str = "") -> None:
        """Close for ``reason``; the first reason given stays. ``say`` is told to the peer."""
        with self._ending:
            if self._end_reason is not None:
                return
            self._end_reason = reason
        if say:
            with contextlib.suppress(LinkError):
                self._wire.write_if_idle(headers.encode(headers.Bye(reason=sentence(say))))
        self._wire.abort()

    @property
    def end_reason(self) -> LinkError | None:
        """Why this side ended the connection, if it was this side."""
        return self._end_reason

    def close(self) -> None:
        """Give the socket back; only the receiving thread calls this, at its end."""
        self._wire.close()


def sentence(text: str) -> str:
    """``text`` from this or the other side, short enough for a header and fit for one log line."""
    return "".join(char if char.isprintable() else "?" for char in text)[: headers.REASON_MAX_CHARS]


def check_times(heartbeat_s: float, silence_limit_s: float) -> None:
    """Raises: ConfigError unless at least two heartbeats fit into the silence limit."""
    if not 0 < 2 * heartbeat_s <= silence_limit_s:
        raise ConfigError(
            f"heartbeat_s {heartbeat_s} and silence_limit_s {silence_limit_s} do not fit",
            hint=f"use {HEARTBEAT_S} and {SILENCE_LIMIT_S}",
        )
