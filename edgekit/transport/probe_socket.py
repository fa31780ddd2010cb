"""A datagram socket that knows when each packet arrived, and sends trains as fast as it can.

In: packets.  Out: datagrams with the kernel's time of arrival and the count of those that found
the buffer full; how long a train took to send.  Linux gives both; elsewhere this process's clock
stands in, and nothing is known of a full buffer.
"""

import contextlib
import errno
import os
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any

from edgekit.transport.probe_messages import TrainSent
from edgekit.transport.probe_packets import (
    PACKET_CAP_BYTES,
    PACKET_HEAD_BYTES,
    Packet,
    format_packet,
    number_in_place,
)

_BUFFER_BYTES = 4 << 20
_ANCILLARY_BYTES = 128
_SENDING_CAP_S = 3.0
_HELD_UP_S = 0.001
_SEGMENTS_MAX = 16
"""Packets per system call where the kernel cuts them apart itself: mostly 23.5 kB, less than most
token buckets hold, so that a shaper still paces them."""
_CALL_CAP_BYTES = 60_000
_CALLS_MIN = 64
"""A train is offered in at least this many calls: what one call offers may arrive in one clump."""

# Linux values that the socket module does not name.
_SO_TIMESTAMPNS = 35
_SO_RXQ_OVFL = 40
_SOL_UDP, _UDP_SEGMENT = 17, 103
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_TIMESPEC = struct.Struct("@ll")
_CANNOT_SEGMENT = {errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EMSGSIZE}

Address = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Datagram:
    """One datagram as it arrived."""

    data: bytes
    origin: Address
    time_ns: int
    """By one clock per socket; only differences mean something."""
    overflow_count: int
    """How many datagrams had found the buffer of this socket full, up to this one."""


class ProbeSocket:
    """One UDP socket. One thread receives; any thread sends."""

    def __init__(self, family: int) -> None:
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._room = select.poll()
        self._room.register(self._socket, select.POLLOUT)
        self._can_segment = sys.platform == "linux"
        self._enlarge()
        if sys.platform == "linux":
            for option in (_SO_TIMESTAMPNS, _SO_RXQ_OVFL):
                with contextlib.suppress(OSError):
                    self._socket.setsockopt(socket.SOL_SOCKET, option, 1)

    def _enlarge(self) -> None:
        """As much buffer as the system gives: without rights, no more than its maximum."""
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        if sys.platform == "linux":
            for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
                with contextlib.suppress(OSError):
                    self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)

    def bind(self, address: Address) -> None:
        """Take a local address. Raises: OSError."""
        self._socket.bind(address)

    def receive(self, timeout_s: float) -> Datagram | None:
        """The next datagram, or None if none came in time.

        Raises: OSError if the socket was closed, or the network says that the peer is not there.
        """
        if not self._poll.poll(1e3 * timeout_s):
            return None
        try:
            data, ancillary, _, origin = self._socket.recvmsg(
                PACKET_CAP_BYTES + 1, _ANCILLARY_BYTES
            )
        except BlockingIOError:
            return None
        time_ns, overflow_count = 0, 0
        for _, kind, value in ancillary:
            if kind == _SO_TIMESTAMPNS and len(value) == _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack(value)
                time_ns = seconds * 1_000_000_000 + nanoseconds
            elif kind == _SO_RXQ_OVFL:
                overflow_count = int.from_bytes(value, sys.byteorder)
        return Datagram(data, origin, time_ns or time.monotonic_ns(), overflow_count)

    def send(self, data: bytes, address: Address) -> bool:
        """Send one datagram; False if there was no room. Raises: OSError."""
        try:
            self._socket.sendto(data, address)
        except BlockingIOError:
            return False
        return True

    def send_train(
        self, first: Packet, *, packet_count: int, packet_bytes: int, address: Address
    ) -> TrainSent:
        """Send ``packet_count`` packets back to back, numbered on from ``first``.

        Gives up after 3 s; the packets sent by then are the train. The filling is random, so that
        no link compresses it.
        Raises: OSError if the network refuses.
        """
        filling = os.urandom(packet_bytes - PACKET_HEAD_BYTES)
        fitting = min(_SEGMENTS_MAX, _CALL_CAP_BYTES // packet_bytes)
        per_call = max(1, min(fitting, packet_count // _CALLS_MIN))
        batch = bytearray(format_packet(first, filling) * per_call)
        sent_count, held_up = 0, False
        started_s = time.monotonic()
        while sent_count < packet_count and time.monotonic() - started_s < _SENDING_CAP_S:
            count = min(packet_count - sent_count, per_call if self._can_segment else 1)
            for index in range(count):
                number_in_place(batch, index * packet_bytes, first.number + sent_count + index)
            if self._offer(memoryview(batch)[: count * packet_bytes], packet_bytes, address):
                sent_count += count
            elif self._can_segment or count == 1:
                held_up = True
        return TrainSent(
            packet_count=sent_count, sending_s=time.monotonic() - started_s, was_held_up=held_up
        )

    def _offer(self, batch: memoryview, packet_bytes: int, address: Address) -> bool:
        """Send one batch; False, after a moment's wait, if there was no room. Raises: OSError."""
        cut_apart = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("@H", packet_bytes))]
        try:
            is_one = len(batch) == packet_bytes
            self._socket.sendmsg([batch], [] if is_one else cut_apart, 0, address)
        except BlockingIOError:
            self._room.poll(1e3 * _HELD_UP_S)
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                time.sleep(_HELD_UP_S)
                return False
            if self._can_segment and error.errno in _CANNOT_SEGMENT:
                self._can_segment = False
                return False
            raise
        return True

    def close(self) -> None:
        """Give the socket back. Only the receiving thread calls this, when it has ended."""
        self._socket.close()
