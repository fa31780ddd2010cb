"""The control connection of a link probe: what is accepted, what is refused, and nothing else."""

import socket
import struct
import threading

import msgspec
import pytest
from hop_world import PATIENCE_S
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import LinkError
from edgekit.transport import probe_messages as messages
from edgekit.transport.probe_messages import Control, Message, RefusedError, decode, encode
from edgekit.transport.wire import Wire

MESSAGES: list[Message] = [
    messages.Hello(protocol=1, name="edge-a"),
    messages.Welcome(name="edge-b", token=b"12345678"),
    messages.refuse("busy"),
    messages.Bye(),
    messages.Ready(),
    messages.Ping(number=7),
    messages.Pong(number=7),
    messages.TrainOut(series=1, packet_count=16, packet_bytes=1472),
    messages.TrainBack(series=1, packet_count=16, packet_bytes=1472),
    messages.TrainSent(packet_count=16, sending_s=0.1, was_held_up=True),
    messages.TrainReport(received_count=9, overflow_count=1, span_s=0.2, packets_per_s=80.0),
    messages.BulkOut(),
    messages.BulkBack(duration_s=1.0, unsent_bytes=65536),
    messages.BulkReport(received_bytes=10**12, span_s=1.0, bytes_per_s=1e6, waited_s=0.1),
    messages.BulkSent(waited_s=0.0),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_comes_back_as_it_was_sent(message: Message) -> None:
    assert decode(encode(message)[2:]) == message


@given(st.binary(max_size=300))
def test_random_bytes_are_a_link_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(LinkError, match="malformed"):
        decode(data)


@given(st.sampled_from(MESSAGES), st.data())
def test_a_damaged_message_is_refused_or_still_valid(message: Message, data: st.DataObject) -> None:
    damaged = bytearray(encode(message)[2:])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(damaged)
    except LinkError as error:
        assert error.hint


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "trainback", "series": 1, "packet_count": 8193, "packet_bytes": 1472},
        {"kind": "trainback", "series": 1, "packet_count": 16, "packet_bytes": 8973},
        {"kind": "trainback", "series": 1, "packet_count": 16, "packet_bytes": 8},
        {"kind": "trainout", "series": 1, "packet_count": 1, "packet_bytes": 1472},
        {"kind": "trainout", "series": -1, "packet_count": 16, "packet_bytes": 1472},
        {"kind": "bulkback", "duration_s": 10.5, "unsent_bytes": 65536},
        {"kind": "bulkback", "duration_s": float("nan"), "unsent_bytes": 65536},
        {"kind": "bulkback", "duration_s": 0.0, "unsent_bytes": 65536},
        {"kind": "bulkback", "duration_s": 1.0, "unsent_bytes": 2**40},
        {"kind": "trainsent", "packet_count": 1, "sending_s": float("inf"), "was_held_up": False},
        {"kind": "bulkreport", "received_bytes": 1, "span_s": 1.0, "bytes_per_s": float("nan")},
        {"kind": "welcome", "name": "b", "token": b"short"},
        {"kind": "hello", "protocol": 1, "name": "x" * 401},
        {"kind": "shutdown"},
    ],
)
def test_nothing_beyond_a_cap_is_ever_obeyed(fields: dict[str, object]) -> None:
    """These numbers are all that stands between a peer and our link, memory and time."""
    with pytest.raises(LinkError, match="malformed"):
        decode(msgspec.msgpack.encode(fields))


def test_a_refusal_of_any_length_and_content_can_be_sent() -> None:
    reason = "a\nlong\x00 story " * 200
    refusal = decode(encode(messages.refuse(reason))[2:])
    assert isinstance(refusal, messages.Refuse)
    assert refusal.reason.isprintable()


def control(sock: socket.socket) -> Control:
    return Control(Wire(sock, silence_limit_s=PATIENCE_S), sock)


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=8),
    st.lists(st.integers(1, 40), min_size=1, max_size=9),
    st.binary(max_size=50),
)
def test_messages_survive_any_chopping_and_leave_what_follows(
    sent: list[Message], sizes: list[int], rest: bytes
) -> None:
    """Blocks of a bulk transfer follow a message on the same connection."""
    ours, theirs = socket.socketpair()
    stream = b"".join(map(encode, sent)) + rest

    def chop() -> None:
        start = 0
        for index in range(len(stream)):
            size = sizes[index % len(sizes)]
            theirs.sendall(stream[start : start + size])
            start += size
            if start >= len(stream):
                return

    thread = threading.Thread(target=chop)
    thread.start()
    reader = control(ours)
    assert [reader.receive() for _ in sent] == sent
    taken = bytearray(len(rest))
    reader.wire.read_into(memoryview(taken))
    assert taken == rest
    thread.join(PATIENCE_S)
    reader.wire.close()
    theirs.close()


@pytest.mark.parametrize("length", [0, messages.MESSAGE_CAP_BYTES + 1, 65535])
def test_a_length_beyond_the_cap_is_never_trusted(length: int) -> None:
    """What another service on that port says first looks like a length."""
    ours, theirs = socket.socketpair()
    theirs.sendall(struct.pack(">H", length))
    reader = control(ours)
    with pytest.raises(LinkError, match=str(length)):
        reader.receive()
    reader.wire.close()
    theirs.close()


def test_expect_tells_a_refusal_from_a_wrong_message() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(encode(messages.refuse("busy")) + encode(messages.Bye()))
    reader = control(ours)
    with pytest.raises(RefusedError, match="busy"):
        reader.expect(messages.Ready)
    with pytest.raises(LinkError, match="Bye instead of Ready"):
        reader.expect(messages.Ready)
    reader.wire.close()
    theirs.close()
