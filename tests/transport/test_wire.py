"""Bytes over one socket: exact, whole, without copies, and never waiting for ever."""

import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hop_world import PATIENCE_S
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import LinkError, TrustError
from edgekit.transport import headers
from edgekit.transport.connection import Connection
from edgekit.transport.wire import Wire


@pytest.fixture
def ends() -> Iterator[tuple[Wire, Wire]]:
    left, right = (Wire(sock, silence_limit_s=0.2) for sock in socket.socketpair())
    yield left, right
    left.close()
    right.close()


def test_many_parts_larger_than_the_buffers_arrive_whole(ends: tuple[Wire, Wire]) -> None:
    """Partial sends, hundreds of parts, empty ones among them."""
    rng = np.random.default_rng(5)
    parts: list[bytes | memoryview] = [
        rng.bytes(int(size)) for size in [0, 1, 3_000_000, 0, 70_000, *rng.integers(0, 900, 300)]
    ]
    whole = b"".join(parts)
    taken = bytearray(len(whole))
    reader = threading.Thread(target=ends[1].read_into, args=(memoryview(taken),))
    reader.start()
    ends[0].write(parts)
    reader.join(PATIENCE_S)
    assert taken == whole
    assert ends[0].bytes_sent == len(whole)


def test_writers_do_not_interleave(ends: tuple[Wire, Wire]) -> None:
    """Answers, credits and heartbeats come from different threads."""
    size, count = 200_000, 8
    threads = [
        threading.Thread(target=ends[0].write, args=([bytes([n]) * (size // 2)] * 2,))
        for n in range(count)
    ]
    for thread in threads:
        thread.start()
    taken = bytearray(size * count)
    ends[1].read_into(memoryview(taken))
    for thread in threads:
        thread.join(PATIENCE_S)
    runs = [taken[start : start + size] for start in range(0, len(taken), size)]
    assert sorted(run[0] for run in runs) == list(range(count))
    assert all(run == bytes([run[0]]) * size for run in runs)


def test_silence_ends_a_read(ends: tuple[Wire, Wire]) -> None:
    with pytest.raises(LinkError, match=r"silent for 0\.2 s"):
        ends[0].read_into(memoryview(bytearray(1)))


def test_a_peer_that_takes_nothing_ends_a_write(ends: tuple[Wire, Wire]) -> None:
    with pytest.raises(LinkError, match=r"took no bytes for 0\.2 s"):
        ends[0].write([bytes(50_000_000)])
    with pytest.raises(LinkError):
        ends[0].write([b"the frame before was cut: nothing may follow"])


def test_a_heartbeat_never_waits_behind_a_full_buffer(ends: tuple[Wire, Wire]) -> None:
    """It would say "I am alive" late, or block the thread that beats for others."""
    while ends[0].write_if_idle(bytes(10_000)):
        pass
    assert not ends[0].write_if_idle(b"beat")


def test_abort_wakes_reader_and_writer() -> None:
    ours, theirs = socket.socketpair()
    wire = Wire(ours, silence_limit_s=60)
    errors: list[LinkError] = []

    def caught(call: object, *args: object) -> None:
        try:
            call(*args)  # type: ignore[operator]
        except LinkError as error:
            errors.append(error)

    threads = [
        threading.Thread(target=caught, args=(wire.read_into, memoryview(bytearray(1)))),
        threading.Thread(target=caught, args=(wire.write, [bytes(50_000_000)])),
    ]
    for thread in threads:
        thread.start()
    threads[0].join(0.1)
    wire.abort()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(errors) == 2
    wire.close()
    wire.close()
    with pytest.raises(LinkError):
        wire.write([b"x"])
    theirs.close()


messages = st.lists(
    st.one_of(
        st.builds(headers.Ping, stamp_ns=st.integers(-(2**60), 2**60)),
        st.builds(headers.Credit, count=st.integers(1, 100)),
        st.builds(headers.Bye, reason=st.text(max_size=100)),
    ),
    max_size=12,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages, st.lists(st.integers(1, 400), min_size=1, max_size=30), st.binary(max_size=9000))
def test_messages_and_payloads_survive_any_chopping(
    sent: list[headers.Message], sizes: list[int], payload: bytes
) -> None:
    """However TCP cuts the stream, the same messages come out, pings answered in between."""
    ours, theirs = socket.socketpair()
    connection = Connection(Wire(ours, silence_limit_s=5))
    last = headers.Bye(reason="end")
    stream = b"".join(map(headers.encode, [*sent, last])) + payload

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
    taken = []
    while not taken or taken[-1] != last:
        taken.append(connection.receive())
    body = bytearray(len(payload))
    connection.receive_into([memoryview(body)])
    thread.join(PATIENCE_S)
    expected = [message for message in sent if not isinstance(message, headers.Ping)]
    assert taken[:-1] == expected[: len(taken) - 1]
    if last not in expected:
        assert taken == [*expected, last]
        assert body == payload
    connection.close()
    theirs.close()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=300), messages.map(lambda m: b"".join(map(headers.encode, m)))
        ),
        max_size=4,
    )
)
def test_whatever_a_stranger_sends_ends_in_a_named_error(speech: list[bytes]) -> None:
    """Never another exception, never an endless wait, never more memory than the header cap."""
    ours, theirs = socket.socketpair()
    connection = Connection(Wire(ours, silence_limit_s=5))
    theirs.sendall(b"".join(speech))
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises((LinkError, TrustError)):
        for _ in range(10_000):
            connection.receive()
    connection.close()
    theirs.close()
