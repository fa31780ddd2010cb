"""Datagrams of a link probe: whatever arrives, nothing but a packet or None comes out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.transport.probe_packets import (
    PACKET_CAP_BYTES,
    PACKET_HEAD_BYTES,
    Packet,
    as_reply,
    format_packet,
    number_in_place,
    parse_packet,
)

u32 = st.integers(0, 2**32 - 1)
packets = st.builds(
    Packet,
    st.sampled_from(["echo", "echo_reply", "train"]),
    st.binary(min_size=8, max_size=8),
    u32,
    u32,
)


@given(packets, st.binary(max_size=PACKET_CAP_BYTES - PACKET_HEAD_BYTES))
def test_a_packet_comes_back_as_it_was_sent(packet: Packet, filling: bytes) -> None:
    data = format_packet(packet, filling)
    assert parse_packet(data) == packet
    assert len(data) == PACKET_HEAD_BYTES + len(filling)


@given(st.binary(max_size=2000))
def test_random_bytes_are_no_packet(data: bytes) -> None:
    """Anybody can send to a UDP port."""
    assert parse_packet(data) is None


@given(packets, st.data())
def test_a_damaged_or_cut_packet_is_none_or_another_packet(
    packet: Packet, data: st.DataObject
) -> None:
    """Never an exception: the thread that reads them has to live."""
    damaged = bytearray(format_packet(packet, bytes(40)))
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    parsed = parse_packet(damaged[: data.draw(st.integers(0, len(damaged)))])
    assert parsed is None or isinstance(parsed, Packet)


def test_a_datagram_beyond_the_cap_is_no_packet() -> None:
    packet = Packet("train", bytes(8), 1, 2)
    assert parse_packet(format_packet(packet, bytes(PACKET_CAP_BYTES))) is None


@given(packets.filter(lambda packet: packet.kind == "echo"), st.binary(max_size=600))
def test_a_reply_is_exactly_as_long_as_its_echo(echo: Packet, filling: bytes) -> None:
    """So that nobody gains by letting us answer a third party."""
    data = format_packet(echo, filling)
    reply = as_reply(data)
    assert len(reply) == len(data)
    assert parse_packet(reply) == Packet("echo_reply", echo.token, echo.series, echo.number)
    assert reply[PACKET_HEAD_BYTES:] == filling


@pytest.mark.parametrize("place", [0, 1, 5])
def test_numbering_in_place_touches_one_packet_only(place: int) -> None:
    """A train's packets are made in one buffer."""
    first = Packet("train", b"token...", 9, 0)
    one = format_packet(first, bytes(10))
    buffer = bytearray(one * 6)
    number_in_place(buffer, place * len(one), 4711)
    for index in range(6):
        parsed = parse_packet(buffer[index * len(one) : (index + 1) * len(one)])
        assert parsed == Packet("train", b"token...", 9, 4711 if index == place else 0)
