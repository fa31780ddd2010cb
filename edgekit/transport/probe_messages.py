"""The control connection of a link probe: who asks for which measurement, and what it gave.

In: a message, or untrusted bytes from the peer.  Out: the other one, or a named refusal.
A message is a msgpack map, told apart by its ``kind``, after its length as 2 big-endian bytes. The
prober asks, the responder answers; all numbers that could cost the responder are capped here.

::

    prober                                      responder
    Hello                                    -> Welcome (token)  or  Refuse, here and below
    TrainOut   -> Ready;   datagrams ...        TrainSent -> TrainReport
    TrainBack                                -> datagrams ..., TrainSent
    BulkOut    -> Ready;   blocks ...        -> BulkReport
    BulkBack                                 -> Ready; blocks ..., BulkSent
    Ping                                     -> Pong
    Bye
"""

import contextlib
import socket
import struct
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from edgekit.errors import LinkError
from edgekit.transport.connection import sentence
from edgekit.transport.headers import REASON_MAX_CHARS
from edgekit.transport.probe_packets import PACKET_CAP_BYTES, PACKET_HEAD_BYTES, TOKEN_BYTES
from edgekit.transport.wire import Wire

PROTOCOL = 1
"""Version of this format and of probe_packets. Ends that differ refuse each other."""
TRAIN_CAP_COUNT = 8192
BULK_CAP_S = 10.0
UNSENT_MIN_BYTES, UNSENT_CAP_BYTES = 64 * 1024, 4 << 20
MESSAGE_CAP_BYTES = 4096
_SAME = "run the same edgekit at both ends, and check that the port is a link responder's"

_PREFIX = struct.Struct(">H")
_Text = Annotated[str, Meta(max_length=REASON_MAX_CHARS)]
_U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_TrainCount = Annotated[int, Meta(ge=2, le=TRAIN_CAP_COUNT)]
_PacketBytes = Annotated[int, Meta(ge=PACKET_HEAD_BYTES, le=PACKET_CAP_BYTES)]
_Seconds = Annotated[float, Meta(ge=0.0, le=3600.0)]
_Rate = Annotated[float, Meta(ge=0.0, le=1e14)]


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower):
    """What every message shares. Unknown fields pass: a later version must be able to greet."""


class Hello(_Message, frozen=True, kw_only=True):
    """First message of the prober."""

    protocol: int
    name: _Text


class Welcome(_Message, frozen=True, kw_only=True):
    """The session is open; ``token`` marks its datagrams."""

    name: _Text
    token: Annotated[bytes, Meta(min_length=TOKEN_BYTES, max_length=TOKEN_BYTES)]


class Refuse(_Message, frozen=True, kw_only=True):
    """The responder does not do that, now or at all."""

    reason: _Text


class Bye(_Message, frozen=True, kw_only=True):
    """The prober is done."""


class Ready(_Message, frozen=True, kw_only=True):
    """Go on: what was announced may come."""


class Ping(_Message, frozen=True, kw_only=True):
    """A round trip over the control connection, where datagrams do not pass."""

    number: _U32


class Pong(_Message, frozen=True, kw_only=True):
    """Ping's number, sent back."""

    number: _U32


class TrainOut(_Message, frozen=True, kw_only=True):
    """A train from the prober will come."""

    series: _U32
    packet_count: _TrainCount
    packet_bytes: _PacketBytes


class TrainBack(_Message, frozen=True, kw_only=True):
    """Send a train to the address from which this session's last echo came."""

    series: _U32
    packet_count: _TrainCount
    packet_bytes: _PacketBytes


class TrainSent(_Message, frozen=True, kw_only=True):
    """All packets of the train were handed to the network, in ``sending_s`` by its clock."""

    packet_count: _Count
    sending_s: _Seconds
    was_held_up: bool
    """Whether the network took packets more slowly than the sender offered them."""


class TrainReport(_Message, frozen=True, kw_only=True):
    """What arrived of a train, by the receiver's clock alone."""

    received_count: _Count
    overflow_count: _Count
    """Packets that crossed the link and found the receiver's buffer full."""
    span_s: _Seconds
    """From the first to the last arrival."""
    packets_per_s: _Rate
    """Steady rate on the link; 0 if too few arrived to tell."""


class BulkOut(_Message, frozen=True, kw_only=True):
    """Blocks from the prober will come on this connection."""


class BulkBack(_Message, frozen=True, kw_only=True):
    """Send blocks on this connection for this long."""

    duration_s: Annotated[float, Meta(gt=0.0, le=BULK_CAP_S)]
    unsent_bytes: Annotated[int, Meta(ge=UNSENT_MIN_BYTES, le=UNSENT_CAP_BYTES)]
    """How much may wait in the sender's system."""


class BulkReport(_Message, frozen=True, kw_only=True):
    """What arrived of a bulk transfer, by the receiver's clock alone."""

    received_bytes: Annotated[int, Meta(ge=0, le=2**62)]
    span_s: _Seconds
    bytes_per_s: _Rate
    """Payload after slow start; 0 if too little arrived to tell."""
    waited_s: _Seconds = 0.0
    """How long the receiving thread was ready and got no processor core."""


class BulkSent(_Message, frozen=True, kw_only=True):
    """All blocks were sent."""

    waited_s: _Seconds = 0.0
    """How long the sending thread was ready and got no processor core."""


Message = (
    Hello | Welcome | Refuse | Bye | Ready | Ping | Pong | TrainOut | TrainBack | TrainSent
    | TrainReport | BulkOut | BulkBack | BulkReport | BulkSent
)  # fmt: skip
M = TypeVar("M", bound=_Message)

_DECODER: "msgspec.msgpack.Decoder[Message]" = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Length and message."""
    body = msgspec.msgpack.encode(message)
    return _PREFIX.pack(len(body)) + body


def decode(body: bytes | bytearray | memoryview) -> Message:
    """The message. Raises: LinkError if the bytes are not a valid one."""
    try:
        message: Message = _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise LinkError(f"the peer sent a malformed probe message: {error}", hint=_SAME) from None
    return message


def refuse(reason: str) -> Refuse:
    """A refusal in one line that fits its field."""
    return Refuse(reason=sentence(reason))


class RefusedError(LinkError):
    """The responder said no: the link works, but this measurement cannot be had now."""


class Control:
    """Messages over one wire, one at a time; never reads ahead, so blocks may follow a message."""

    def __init__(self, wire: Wire, sock: socket.socket) -> None:
        self.wire = wire
        self._socket = sock
        self._buffer = memoryview(bytearray(MESSAGE_CAP_BYTES))

    def limit_unsent(self, limit_bytes: int) -> None:
        """Let no more than this wait in the system, so that a bulk transfer ends when it should.

        Enough for 50 ms keeps the link busy; where the system has no such limit its own holds.
        """
        lowat = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if lowat is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, lowat, limit_bytes)

    def send(self, message: Message) -> None:
        """Raises: LinkError if the connection is gone."""
        self.wire.write([encode(message)])

    def receive(self) -> Message:
        """The next message. Raises: LinkError if the peer is gone, silent or speaks nonsense."""
        prefix = self._buffer[: _PREFIX.size]
        self.wire.read_into(prefix)
        length: int = _PREFIX.unpack(prefix)[0]
        if not 0 < length <= MESSAGE_CAP_BYTES:
            raise LinkError(
                f"the peer announces a message of {length} bytes, the cap is {MESSAGE_CAP_BYTES}",
                hint=_SAME,
            )
        body = self._buffer[:length]
        self.wire.read_into(body)
        return decode(body)

    def expect(self, kind: type[M]) -> M:
        """The next message, of this kind. Raises: LinkError if it is a refusal or another one."""
        message = self.receive()
        if isinstance(message, kind):
            return message
        if isinstance(message, Refuse):
            raise RefusedError(f"the responder refuses: {message.reason}", hint="try again later")
        raise LinkError(
            f"the peer sent {type(message).__name__} instead of {kind.__name__}", hint=_SAME
        )
