"""Datagrams of a link probe: echoes that measure the round trip, trains that measure bandwidth.

In: untrusted bytes, or a packet's fields.  Out: the other one; None for bytes that are no packet.
Pure: no socket, clock or thread.  Called by probe and probe_responder.

::

    magic 4 | kind 1 | zero 3 | token 8 | series 4 | number 4 | filling        (big-endian)

The token comes from the control connection (probe_messages.py): a datagram without the token of an
open session is never answered, so a forged sender address gains nothing.
"""

import struct
from dataclasses import dataclass
from typing import Literal

PACKET_HEAD_BYTES = 24
PACKET_CAP_BYTES = 8972
"""Payload of the largest datagram: one jumbo frame. A train takes what one frame of its path holds,
usually 1472, never a fragment."""
TOKEN_BYTES = 8

Kind = Literal["echo", "echo_reply", "train"]

_HEAD = struct.Struct(">4sB3s8sII")
_MAGIC = b"EKlp"
_KINDS: dict[int, Kind] = {1: "echo", 2: "echo_reply", 3: "train"}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_NUMBER_OFFSET = PACKET_HEAD_BYTES - 4
_NUMBER = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Packet:
    """The head of one datagram."""

    kind: Kind
    token: bytes
    series: int
    """Which train or row of echoes it belongs to."""
    number: int
    """Its place in the series, from 0."""


def parse_packet(data: bytes | bytearray | memoryview) -> Packet | None:
    """The head of a datagram, or None if it is none of ours."""
    if not PACKET_HEAD_BYTES <= len(data) <= PACKET_CAP_BYTES:
        return None
    magic, kind_number, zero, token, series, number = _HEAD.unpack_from(data)
    kind = _KINDS.get(kind_number)
    if magic != _MAGIC or zero != bytes(3) or kind is None:
        return None
    return Packet(kind, token, series, number)


def format_packet(packet: Packet, filling: bytes = b"") -> bytes:
    """The datagram with this head."""
    head = _HEAD.pack(
        _MAGIC, _NUMBERS[packet.kind], bytes(3), packet.token, packet.series, packet.number
    )
    return head + filling


def as_reply(echo: bytes) -> bytes:
    """The answer to an echo: the same bytes, marked as a reply. Never longer than the echo."""
    return echo[:4] + bytes([_NUMBERS["echo_reply"]]) + echo[5:]


def number_in_place(buffer: bytearray, offset: int, number: int) -> None:
    """Overwrite the number of the packet that begins at ``offset`` of ``buffer``."""
    _NUMBER.pack_into(buffer, offset + _NUMBER_OFFSET, number)
