"""The hop when things go wrong: killed and stopped peers, garbage, floods, silence."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hop_world import PATIENCE_S, Downstream, Upstream, activation, framed, identity, wait_until

from edgekit.errors import ConfigError, LinkError
from edgekit.spec.codec import RAW
from edgekit.spec.tensors import TensorSpec
from edgekit.transport import headers
from edgekit.transport.codecs.port import CodedHeader, CodedTensor
from edgekit.transport.hop import TcpHopLink, TcpHopListener

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent


class Peer:
    """hop_peer.py as a process."""

    def __init__(self, port: int = 0) -> None:
        paths = [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "hop_peer.py"), str(port)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def linked(stack: contextlib.ExitStack, up: Upstream, port: int) -> TcpHopLink:
    link = TcpHopLink(identity("edge-a"), on_answer=up.on_answer, on_state=up.on_state)
    stack.callback(link.close)
    link.set_peer("127.0.0.1", port)
    return link


def listening(stack: contextlib.ExitStack, down: Downstream, **options: object) -> TcpHopListener:
    listener = TcpHopListener("127.0.0.1", 0, on_activation=down.on_activation, **options)  # type: ignore[arg-type]
    stack.callback(listener.close)
    listener.serve(identity("edge-b"))
    return listener


def goes_through(link: TcpHopLink, up: Upstream, frame: int) -> bool:
    link.send(activation(frame), timeout_s=PATIENCE_S)
    return wait_until(lambda: any(answer.frame == frame for answer in up.answers))


@pytest.mark.parametrize("same_port", [True, False], ids=["same port", "another port"])
def test_a_killed_peer_is_noticed_and_its_restart_resumes_the_stream(
    stack: contextlib.ExitStack, same_port: bool
) -> None:
    """Twice, because the second loss must be told like the first; no restart of the link."""
    up, peer = Upstream(), Peer()
    link = linked(stack, up, peer.port)
    for round_number in range(2):
        assert goes_through(link, up, frame=round_number)
        peer.kill()
        assert wait_until(lambda: not link.is_connected)
        with pytest.raises(LinkError, match="no hop to the next device"):
            link.send(activation(99), timeout_s=0.01)
        assert wait_until(lambda: "cannot reach 127.0.0.1" in link.state), link.state
        peer = Peer(peer.port if same_port else 0)
        stack.callback(peer.kill)
        link.set_peer("127.0.0.1", peer.port)
    assert goes_through(link, up, frame=5)
    assert [connected for connected, _ in up.states] == [True, False, True, False, True]


def test_a_stopped_peer_is_noticed_by_its_silence(stack: contextlib.ExitStack) -> None:
    """Its kernel still acknowledges every byte: only heartbeats tell."""
    up, peer = Upstream(), Peer()
    stack.callback(peer.kill)
    link = linked(stack, up, peer.port)
    assert goes_through(link, up, frame=0)
    peer.process.send_signal(signal.SIGSTOP)
    assert wait_until(lambda: not link.is_connected)
    assert wait_until(lambda: len(up.states) == 2)
    assert up.states[1] == (False, "the peer has been silent for 1.5 s")
    peer.process.send_signal(signal.SIGCONT)
    assert link.wait_ready(PATIENCE_S)
    assert goes_through(link, up, frame=1)


def test_a_sender_stuck_in_a_stopped_peer_gets_an_error(stack: contextlib.ExitStack) -> None:
    """A frame larger than the kernel's buffers, half of it sent."""
    up, peer = Upstream(), Peer()
    stack.callback(peer.kill)
    link = linked(stack, up, peer.port)
    assert goes_through(link, up, frame=0)
    peer.process.send_signal(signal.SIGSTOP)
    huge = {"x": np.zeros(16_000_000, np.float32)}
    with pytest.raises(LinkError, match="the frame was not sent"):
        link.send(activation(1, huge), timeout_s=1)
    peer.process.send_signal(signal.SIGCONT)
    assert link.wait_ready(PATIENCE_S)
    assert goes_through(link, up, frame=2)


def test_silence_is_not_slowness(stack: contextlib.ExitStack) -> None:
    """A frame that takes far longer than the silence limit to arrive keeps its connection."""
    down = Downstream()
    listener = listening(stack, down, heartbeat_s=0.05, silence_limit_s=0.2)
    with socket.create_connection(listener.address) as sock:
        greet(sock)
        parts = b"".join(framed(activation(3)))
        pause = threading.Event()
        for byte in range(0, len(parts), 16):
            pause.wait(0.03)
            sock.sendall(parts[byte : byte + 16])
        assert wait_until(lambda: down.taken)


def test_an_idle_connection_lives(stack: contextlib.ExitStack) -> None:
    """Heartbeats in both directions; nothing else travels for many silence limits."""
    up, down = Upstream(), Downstream()
    listener = listening(stack, down, heartbeat_s=0.05, silence_limit_s=0.3)
    link = TcpHopLink(
        identity(), on_answer=up.on_answer, on_state=up.on_state,
        heartbeat_s=0.05, silence_limit_s=0.3,
    )  # fmt: skip
    stack.callback(link.close)
    link.set_peer(*listener.address)
    assert link.wait_ready(PATIENCE_S)
    assert not wait_until(lambda: len(up.states) > 1, limit_s=1.5)
    assert link.round_trip_s > 0


# Bytes that no link would send.


def frame_of(message: headers.Message) -> bytes:
    return headers.encode(message)


def read_message(sock: socket.socket) -> headers.Message:
    """The next message that is no heartbeat."""
    while True:
        length = headers.header_length(sock.recv(4, socket.MSG_WAITALL))
        message = headers.decode(sock.recv(length, socket.MSG_WAITALL))
        if not isinstance(message, headers.Ping):
            return message


def greet(sock: socket.socket) -> headers.Message:
    sock.settimeout(PATIENCE_S)
    sock.sendall(frame_of(headers.hello(identity("edge-a"))))
    return read_message(sock)


def say_and_hang_up(sock: socket.socket, speech: bytes) -> None:
    """Send, close our side, and wait until the listener has closed its own."""
    sock.settimeout(PATIENCE_S)
    # It may hang up on us while we speak.
    with contextlib.suppress(OSError):
        sock.sendall(speech)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass


def overfull_activation(**changes: object) -> bytes:
    prefixed = framed(activation())[0]
    header = headers.decode(prefixed[4:])
    assert isinstance(header, headers.ActivationHeader)
    return frame_of(msgspec.structs.replace(header, **changes))


GARBAGE = {
    "random bytes": np.random.default_rng(3).bytes(5000),
    "http": b"GET / HTTP/1.1\r\nHost: edge-b\r\n\r\n",
    "tls": bytes.fromhex("16030100f5010000f10303") + bytes(200),
    "nothing": b"",
    "half a length": b"\0\0",
    "huge length": struct.pack(">I", 2**31) + b"x" * 100,
    "zero length": bytes(4),
    "half a header": struct.pack(">I", 500) + b"\x81",
    "no hello": frame_of(headers.Credit(count=3)),
}
HUGE = CodedTensor(spec=TensorSpec(name="x", dtype="uint8", shape=(2**40,)), nbytes=2**40)


def coded(**changes: object) -> CodedHeader:
    header = CodedHeader(codec=RAW.name, digest=RAW.digest, tensors=())
    return msgspec.structs.replace(header, **changes)


AFTER_HELLO = {
    "random bytes": np.random.default_rng(4).bytes(5000),
    "second hello": frame_of(headers.hello(identity("edge-a"))),
    "half a frame": b"".join(framed(activation()))[:-5],
    "huge tensor": overfull_activation(coded=coded(tensors=(HUGE,))),
    "other epoch": overfull_activation(epoch=9),
    "other codec": overfull_activation(coded=coded(codec="zip")),
    "an answer": frame_of(headers.AnswerHeader(stream="s", run="r", frame=1, capture_ns=1)),
}  # fmt: skip


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_before_the_handshake_leaves_the_listener_serving(
    stack: contextlib.ExitStack, name: str
) -> None:
    """A port scanner must not disturb the stream that runs."""
    up, down = Upstream(), Downstream()
    listener = listening(stack, down)
    link = linked(stack, up, listener.address[1])
    assert goes_through(link, up, frame=0)
    with socket.create_connection(listener.address) as sock:
        say_and_hang_up(sock, GARBAGE[name])
    assert goes_through(link, up, frame=1)
    assert len(up.states) == 1


@pytest.mark.parametrize("name", AFTER_HELLO)
def test_garbage_after_the_handshake_ends_that_connection_only(
    stack: contextlib.ExitStack, name: str
) -> None:
    down = Downstream()
    listener = listening(stack, down, max_payload_bytes=2**20)
    with socket.create_connection(listener.address) as sock:
        assert isinstance(greet(sock), headers.Welcome)
        say_and_hang_up(sock, AFTER_HELLO[name])
    assert not down.taken
    assert listener.counters.last_error
    up = Upstream()
    assert goes_through(linked(stack, up, listener.address[1]), up, frame=1)


def test_a_refused_frame_is_named_to_its_sender(stack: contextlib.ExitStack) -> None:
    listener = listening(stack, Downstream())
    with socket.create_connection(listener.address) as sock:
        greet(sock)
        sock.sendall(AFTER_HELLO["other epoch"])
        goodbye = read_message(sock)
    assert isinstance(goodbye, headers.Bye)
    assert "frame 0 of stream 'main' is refused: serving epoch 1 of d1, not 9" in goodbye.reason


def test_a_sender_that_ignores_its_credit_is_cut_off(stack: contextlib.ExitStack) -> None:
    """The bound on the queue holds whatever the other end does."""
    down = Downstream(eager=False)
    listener = listening(stack, down, credit_count=2)
    frame = b"".join(framed(activation()))
    with socket.create_connection(listener.address) as sock:
        welcome = greet(sock)
        assert welcome == headers.Welcome(device="edge-b", credit=2)
        sock.sendall(frame * 5)
        goodbye = read_message(sock)
    assert isinstance(goodbye, headers.Bye)
    assert "came without credit" in goodbye.reason
    assert len(down.taken) == 2


def test_silent_strangers_do_not_keep_a_neighbour_out(stack: contextlib.ExitStack) -> None:
    listener = listening(stack, Downstream())
    for _ in range(60):
        stranger = stack.enter_context(socket.socket())
        stranger.connect(listener.address)
    up = Upstream()
    assert goes_through(linked(stack, up, listener.address[1]), up, frame=0)


@pytest.mark.parametrize("speech", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", bytes(40)])
def test_a_link_to_something_else_says_so_and_keeps_trying(
    stack: contextlib.ExitStack, speech: bytes
) -> None:
    up = Upstream()
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    accepted = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = server.accept()
                accepted.append(sock)
                sock.sendall(speech)
                sock.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    link = linked(stack, up, server.getsockname()[1])
    assert wait_until(lambda: len(accepted) >= 3)
    assert not up.states
    assert link.state != "connected"
    link.close()
    server.shutdown(socket.SHUT_RDWR)
    thread.join(PATIENCE_S)


def test_an_answer_nobody_asked_for_is_ignored(
    stack: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    up = Upstream()
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    link = linked(stack, up, server.getsockname()[1])
    sock = stack.enter_context(server.accept()[0])
    assert isinstance(read_message(sock), headers.Hello)
    sock.sendall(frame_of(headers.Welcome(device="edge-b", credit=1)))
    assert link.wait_ready(PATIENCE_S)
    sock.sendall(frame_of(headers.AnswerHeader(stream="s", run="r", frame=42, capture_ns=1)))
    assert wait_until(lambda: "frame 42" in caplog.text)
    assert link.is_connected
    assert not up.answers


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a\0b", "x" * 300])
def test_an_impossible_host_is_a_state_not_a_crash(stack: contextlib.ExitStack, host: str) -> None:
    """Addresses come from retained messages; a bad one must not end the link."""
    up, down = Upstream(), Downstream()
    link = linked(stack, up, 1)
    link.set_peer(host, 5000)
    assert wait_until(lambda: "cannot reach" in link.state and ":5000" in link.state), link.state
    link.set_peer(*listening(stack, down).address)
    assert goes_through(link, up, frame=0)


def test_every_address_of_a_host_is_tried(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "localhost" may mean ::1 first, while the listener is on 127.0.0.1."""
    up, down = Upstream(), Downstream()
    port = listening(stack, down).address[1]
    dead = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))
    alive = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [dead, alive])
    assert goes_through(linked(stack, up, port), up, frame=0)


def test_hearing_the_address_again_ends_the_back_off(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next device's status says that it is back: no reason to wait any longer."""
    monkeypatch.setattr("edgekit.transport.hop_link._BACKOFF_FIRST_S", 60.0)
    monkeypatch.setattr("edgekit.transport.hop_link._BACKOFF_CAP_S", 60.0)
    up, down = Upstream(), Downstream()
    listener = TcpHopListener("127.0.0.1", 0, on_activation=down.on_activation)
    stack.callback(listener.close)
    link = linked(stack, up, listener.address[1])
    assert wait_until(lambda: "not serving" in link.state)
    assert not link.wait_ready(0.3)
    listener.serve(identity("edge-b"))
    link.set_peer(*listener.address)
    assert link.wait_ready(PATIENCE_S)


def test_a_port_that_is_none_is_refused_at_once(stack: contextlib.ExitStack) -> None:
    link = linked(stack, Upstream(), 1)
    with pytest.raises(ConfigError, match="not a TCP address"):
        link.set_peer("127.0.0.1", 70000)


def test_a_port_in_use_is_a_config_error_that_names_it(stack: contextlib.ExitStack) -> None:
    listener = listening(stack, Downstream())
    port = listener.address[1]
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
        TcpHopListener("127.0.0.1", port, on_activation=Downstream().on_activation)


def test_times_that_cannot_work_are_refused() -> None:
    up = Upstream()
    with pytest.raises(ConfigError, match="heartbeat_s 1"):
        TcpHopLink(
            identity(), on_answer=up.on_answer, on_state=up.on_state,
            heartbeat_s=1, silence_limit_s=1.5,
        )  # fmt: skip


def test_closing_during_a_hanging_connect_is_quick(stack: contextlib.ExitStack) -> None:
    """An address that swallows packets: the thread must not outlive close by more than a second."""
    before = set(threading.enumerate())
    link = linked(stack, Upstream(), 1)
    link.set_peer("192.0.2.1", 5000)
    assert not link.wait_ready(0.2)
    link.close()
    assert wait_until(lambda: set(threading.enumerate()) <= before, limit_s=2.0)
