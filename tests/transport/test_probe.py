"""A link probe over real sockets: what is measured, who is answered, what a stranger can do."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hop_world import Authority, wait_until

from edgekit.errors import ConfigError, LinkError, TrustError
from edgekit.transport import probe_messages as messages
from edgekit.transport.probe import ProbeSession
from edgekit.transport.probe_messages import Control, RefusedError
from edgekit.transport.probe_packets import Packet, format_packet
from edgekit.transport.probe_remote import RemoteLinkProbe
from edgekit.transport.probe_responder import ProbeResponder
from edgekit.transport.probe_sessions import ECHOES_PER_S, SessionTable
from edgekit.transport.tls import tls_contexts
from edgekit.transport.wire import Wire

pytestmark = pytest.mark.integration


@pytest.fixture
def responder() -> Iterator[ProbeResponder]:
    there = ProbeResponder("127.0.0.1", 0, name="there")
    yield there
    there.close()


def session_with(responder: ProbeResponder, **options: object) -> ProbeSession:
    return ProbeSession(*responder.address, name="here", **options)  # type: ignore[arg-type]


@contextlib.contextmanager
def raw_session(responder: ProbeResponder) -> Iterator[tuple[Control, bytes]]:
    """A greeted control connection whose owner may then misbehave, and its token."""
    sock = socket.create_connection(responder.address)
    control = Control(Wire(sock, silence_limit_s=5), sock)
    control.send(messages.Hello(protocol=messages.PROTOCOL, name="raw"))
    yield control, control.expect(messages.Welcome).token
    control.wire.close()


@contextlib.contextmanager
def stranger(responder: ProbeResponder) -> Iterator[socket.socket]:
    """A UDP socket that talks to the responder."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(responder.address)
        sock.settimeout(0.2)
        yield sock


# What is measured.


def test_echoes_come_back_by_this_ends_clock(responder: ProbeResponder) -> None:
    with session_with(responder) as session:
        echoes = session.measure_echoes(20, interval_s=0.002)
    assert (session.peer_name, echoes.sent_count, echoes.loss) == ("there", 20, 0.0)
    assert len(echoes.round_trips_s) == 20
    assert all(0 < trip_s < 5 for trip_s in echoes.round_trips_s)


def test_trains_arrive_whole_in_both_directions(responder: ProbeResponder) -> None:
    """On the loopback no sender is as fast as the link, so they may well tell nothing."""
    with session_with(responder) as session:
        session.measure_echoes(2, interval_s=0.002)
        for send in (session.send_train, session.take_train):
            train = send(100)
            assert train.sending.packet_count == 100
            assert train.report.received_count + train.report.overflow_count == 100
            assert train.report.span_s > 0
    assert responder.counters.trains == 2


def test_bulk_transfers_end_in_time_in_both_directions(responder: ProbeResponder) -> None:
    with session_with(responder) as session:
        for send in (session.send_bulk, session.take_bulk):
            bulk = send(0.2)
            assert bulk.report.received_bytes >= 2 * 16 * 1024
            assert bulk.bandwidth_bytes_per_s > 1e6
            assert bulk.waiting_share >= 0
        assert session.measure_pings(3).loss == 0
    assert responder.counters.bulks == 2


def test_a_train_back_needs_an_echo_first(responder: ProbeResponder) -> None:
    """The responder does not guess where datagrams of a session are wanted."""
    with session_with(responder) as session:
        with pytest.raises(RefusedError, match="no datagram of this session"):
            session.take_train(16)
        assert session.measure_pings(1).loss == 0, "a refusal does not end the session"


def test_a_session_measures_over_tls(tmp_path: Path) -> None:
    """The hop is encrypted where certificates are given; so are its measurements."""
    authority = Authority(tmp_path)
    server = tls_contexts(*authority.issue("there"))[0]
    client = tls_contexts(*authority.issue("here"))[1]
    there = ProbeResponder("127.0.0.1", 0, name="there", tls=server)
    try:
        with session_with(there, tls=client) as session:
            assert session.measure_echoes(5, interval_s=0.002).loss == 0
            assert session.send_train(50).report.received_count > 0
            assert session.send_bulk(0.1).bandwidth_bytes_per_s > 0
            assert session.take_bulk(0.1).bandwidth_bytes_per_s > 0
        with pytest.raises((LinkError, TrustError), match="calls itself"):
            ProbeSession(*there.address, name="somebody-else", tls=client)
        with pytest.raises(LinkError, match="does not answer as a link responder"):
            session_with(there)
    finally:
        there.close()


def test_an_ipv6_responder_is_probed_alike() -> None:
    try:
        there = ProbeResponder("::1", 0, name="there")
    except ConfigError as error:
        pytest.skip(str(error))
    try:
        with session_with(there) as session:
            assert session.measure_echoes(5, interval_s=0.002).loss == 0
            assert session.send_train(50).report.received_count > 0
            assert session.take_train(50).report.received_count > 0
    finally:
        there.close()


def test_where_datagrams_do_not_pass_round_trips_come_over_tcp(
    responder: ProbeResponder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall that lets TCP through and UDP not."""
    monkeypatch.setattr(SessionTable, "take", lambda table, datagram: None)
    sample = RemoteLinkProbe(*responder.address, name="here").look(train_bytes=10_000)
    assert len(sample.round_trips_s) == sample.echo_count
    assert sample.bandwidth_bytes_per_s == 0.0


def test_a_look_follows_the_responder_to_another_address(responder: ProbeResponder) -> None:
    """Addresses change; a pipeline hears of it by MQTT."""
    probe = RemoteLinkProbe("127.0.0.1", 1, name="here")
    with pytest.raises(LinkError):
        probe.look(train_bytes=10_000)
    assert probe.ends == ("here", "127.0.0.1")
    probe.set_peer(*responder.address)
    sample = probe.look(train_bytes=30_000)
    assert probe.ends == ("here", "there")
    assert len(sample.round_trips_s) == 5
    # At least eight frames, and those of the loopback are large.
    assert 30_000 < sample.sent_bytes < 100_000


# Errors that say what to do.


def test_a_port_where_nothing_listens_names_the_command_to_start() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(LinkError, match=f"nothing listens on 127.0.0.1:{port}") as caught:
        ProbeSession("127.0.0.1", port, name="here")
    assert "edgekit link --serve" in caught.value.hint


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 300, "bad\x00name", ""])
def test_a_host_that_cannot_be_found_is_a_link_error(host: str) -> None:
    with pytest.raises(LinkError):
        ProbeSession(host, 7605 if host else 0, name="here")


@pytest.mark.parametrize("banner", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00\x01x", b""])
def test_another_service_on_the_port_is_told_apart(banner: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            sock, _ = server.accept()
            sock.sendall(banner)
            sock.close()

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(LinkError, match="does not answer as a link responder"):
            ProbeSession(*server.getsockname(), name="here")
        thread.join()


def test_a_responder_of_another_version_says_so(responder: ProbeResponder) -> None:
    sock = socket.create_connection(responder.address)
    control = Control(Wire(sock, silence_limit_s=5), sock)
    control.send(messages.Hello(protocol=99, name="future"))
    with pytest.raises(RefusedError, match="probe protocol 1, not 99"):
        control.expect(messages.Welcome)
    control.wire.close()


def test_a_responder_that_dies_in_a_measurement_is_one_clear_error(
    responder: ProbeResponder,
) -> None:
    with session_with(responder) as session:
        threading.Timer(0.2, responder.close).start()
        with pytest.raises(LinkError, match="was lost during a bulk transfer") as caught:
            session.send_bulk(5.0)
    assert "check the cable" in caught.value.hint


def test_two_responders_cannot_share_a_port(responder: ProbeResponder) -> None:
    with pytest.raises(ConfigError, match="cannot listen on") as caught:
        ProbeResponder(*responder.address, name="second")
    assert "--port" in caught.value.hint


def test_a_port_taken_for_udp_alone_is_refused_and_tcp_given_back() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = taken.getsockname()
        with pytest.raises(ConfigError, match="TCP and UDP"):
            ProbeResponder(*address, name="there")
    ProbeResponder(*address, name="there").close()


def test_a_responder_can_be_closed_twice_and_its_port_used_again() -> None:
    first = ProbeResponder("127.0.0.1", 0, name="first")
    first.close()
    first.close()
    assert wait_until(lambda: not any(t.name == "probe-datagrams" for t in threading.enumerate()))
    second = ProbeResponder("127.0.0.1", first.address[1], name="second")
    with session_with(second) as session:
        assert session.peer_name == "second"
    second.close()


# What a stranger can do.


def test_junk_is_counted_and_never_answered(responder: ProbeResponder) -> None:
    with stranger(responder) as sock:
        for data in (b"", b"x", bytes(24), b"GET / HTTP/1.1\r\n\r\n", bytes(8973), bytes(9500)):
            sock.send(data)
        assert wait_until(lambda: responder.counters.malformed == 6)
        with pytest.raises(TimeoutError):
            sock.recv(100)


def test_a_datagram_without_an_open_sessions_token_is_never_answered(
    responder: ProbeResponder,
) -> None:
    """Else a forged sender could point our answers at a third party."""
    with raw_session(responder) as (control, token), stranger(responder) as sock:
        sock.send(format_packet(Packet("echo", bytes(8), 1, 0)))
        assert wait_until(lambda: responder.counters.foreign == 1)
        sock.send(format_packet(Packet("echo", token, 1, 0)))
        assert len(sock.recv(100)) == 24
        control.wire.close()
        assert wait_until(lambda: responder.counters.last_error)
        sock.send(format_packet(Packet("echo", token, 1, 0)))
        assert wait_until(lambda: responder.counters.foreign == 2), "the session has ended"
        with pytest.raises(TimeoutError):
            sock.recv(100)


def test_a_token_is_worth_nothing_at_another_address(responder: ProbeResponder) -> None:
    """Whoever overhears a token still cannot aim our packets elsewhere."""
    elsewhere = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with raw_session(responder) as (_, token), elsewhere as sock:
        sock.bind(("127.0.0.2", 0))
        sock.sendto(format_packet(Packet("echo", token, 1, 0)), responder.address)
        assert wait_until(lambda: responder.counters.foreign == 1)
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(100)


def test_echoes_beyond_the_limit_are_not_answered(responder: ProbeResponder) -> None:
    """A prober may not make the responder busy."""
    with raw_session(responder) as (_, token), stranger(responder) as sock:
        started_s = time.monotonic()
        sent = 3 * int(ECHOES_PER_S)
        for number in range(sent):
            sock.send(format_packet(Packet("echo", token, 1, number)))
        counters = responder.counters
        wait_until(lambda: counters.echoes + counters.limited >= sent, 1.0)
        passed_s = time.monotonic() - started_s
        assert counters.limited > 0
        assert counters.echoes <= ECHOES_PER_S * (1 + passed_s)


@pytest.mark.parametrize(
    "message", [messages.Ready(), messages.Hello(protocol=1, name="again"), messages.Pong(number=1)]
)
def test_a_message_out_of_turn_ends_the_session_only(
    responder: ProbeResponder, message: messages.Message
) -> None:
    with raw_session(responder) as (control, _):
        control.send(message)
        with pytest.raises(LinkError, match="closed"):
            control.receive()
    with session_with(responder) as session:
        assert session.measure_pings(1).loss == 0


def test_only_one_measurement_runs_at_a_time(responder: ProbeResponder) -> None:
    """Two at once would each see half of the link."""
    with raw_session(responder) as (slow, _), session_with(responder) as session:
        slow.send(messages.BulkOut())
        slow.expect(messages.Ready)  # and never a block
        with pytest.raises(RefusedError, match="busy with the measurement of another prober"):
            session.send_train(16)
        slow.wire.close()
        assert session.send_train(16).report.received_count > 0


def test_connections_beyond_the_limit_are_closed_and_later_ones_served(
    responder: ProbeResponder,
) -> None:
    idle = [socket.create_connection(responder.address) for _ in range(16)]
    with pytest.raises(LinkError, match="does not answer"):
        session_with(responder)
    for sock in idle:
        sock.close()
    assert wait_until(lambda: responder.counters.refused >= 17)
    with session_with(responder) as session:
        assert session.measure_pings(1).loss == 0


def test_a_session_that_ended_is_told_in_one_line() -> None:
    lines: list[str] = []
    there = ProbeResponder("127.0.0.1", 0, name="there", on_session=lines.append)
    with session_with(there) as session:
        session.measure_echoes(3, interval_s=0.001)
        session.send_train(16)
    assert wait_until(lambda: lines)
    assert lines == ["here (127.0.0.1): 3 echoes, 1 trains, 0 bulk transfers"]
    there.close()
