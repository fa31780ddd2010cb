"""TLS on the hop: who gets in, what is said to who does not, and both directions at once."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hop_world import (
    PATIENCE_S,
    Authority,
    Downstream,
    Upstream,
    activation,
    answer_to,
    identity,
    wait_until,
)

from edgekit.errors import ConfigError
from edgekit.spec.messages import Detection
from edgekit.transport.hop import TcpHopLink, TcpHopListener
from edgekit.transport.tls import tls_contexts


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def listening(
    stack: contextlib.ExitStack, down: Downstream, tls: ssl.SSLContext | None, credit_count: int = 2
) -> TcpHopListener:
    listener = TcpHopListener(
        "127.0.0.1", 0, on_activation=down.on_activation, tls=tls, credit_count=credit_count
    )
    stack.callback(listener.close)
    listener.serve(identity("edge-b"))
    return listener


def linking(
    stack: contextlib.ExitStack, up: Upstream, listener: TcpHopListener, tls: ssl.SSLContext | None
) -> TcpHopLink:
    link = TcpHopLink(identity("edge-a"), on_answer=up.on_answer, on_state=up.on_state, tls=tls)
    stack.callback(link.close)
    link.set_peer(*listener.address)
    return link


@pytest.mark.integration
def test_both_ends_speak_tls_1_3_only(authority: Authority, stack: contextlib.ExitStack) -> None:
    listener = listening(stack, Downstream(), tls_contexts(*authority.issue("edge-b"))[0])
    client = tls_contexts(*authority.issue("edge-a"))[1]
    with (
        socket.create_connection(listener.address) as raw,
        client.wrap_socket(raw, server_hostname="127.0.0.1") as secure,
    ):
        assert secure.version() == "TLSv1.3"
    client.minimum_version = ssl.TLSVersion.TLSv1_2
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(listener.address) as raw, pytest.raises((ssl.SSLError, OSError)):
        client.wrap_socket(raw, server_hostname="127.0.0.1")


@pytest.mark.integration
def test_a_certificate_of_another_authority_is_refused_on_either_side(
    authority: Authority, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "other-authority")
    own, foreign = authority.issue("edge-b"), stranger.issue("edge-a")
    down, up = Downstream(), Upstream()
    listener = listening(stack, down, tls_contexts(*own)[0])

    distrusting = linking(stack, up, listener, tls_contexts(*foreign)[1])
    assert wait_until(lambda: "its certificate is refused" in distrusting.state), distrusting.state
    distrusting.close()

    # The client trusts us, but shows a certificate that we do not trust.
    distrusted = linking(stack, up, listener, tls_contexts(*foreign[:2], own[2])[1])
    assert wait_until(lambda: "handshake failed" in listener.counters.last_error)
    assert wait_until(lambda: "TLS" in distrusted.state or "broke" in distrusted.state)
    assert not up.states
    assert not down.taken


@pytest.mark.integration
def test_a_client_without_certificate_does_not_get_in(
    authority: Authority, stack: contextlib.ExitStack
) -> None:
    down, up = Downstream(), Upstream()
    listener = listening(stack, down, tls_contexts(*authority.issue("edge-b"))[0])
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.check_hostname = False
    anonymous.load_verify_locations(authority.path)
    linking(stack, up, listener, anonymous)
    assert wait_until(lambda: "handshake failed" in listener.counters.last_error)
    assert not up.states


@pytest.mark.integration
def test_a_device_cannot_borrow_another_devices_name(
    authority: Authority, stack: contextlib.ExitStack
) -> None:
    """A valid certificate is not enough: it must be the one of the device that it says it is."""
    down, up = Downstream(), Upstream()
    listener = listening(stack, down, tls_contexts(*authority.issue("edge-b"))[0])
    link = linking(stack, up, listener, tls_contexts(*authority.issue("edge-c"))[1])
    expected = "edge-b refuses: the peer calls itself 'edge-a', but its certificate names"
    assert wait_until(lambda: expected in link.state), link.state
    assert not up.states


@pytest.mark.integration
def test_a_listener_cannot_borrow_another_devices_name(
    authority: Authority, stack: contextlib.ExitStack
) -> None:
    down, up = Downstream(), Upstream()
    listener = listening(stack, down, tls_contexts(*authority.issue("edge-c"))[0])
    link = linking(stack, up, listener, tls_contexts(*authority.issue("edge-a"))[1])
    assert wait_until(lambda: "the peer calls itself 'edge-b'" in link.state), link.state
    assert not up.states


@pytest.mark.integration
@pytest.mark.parametrize("encrypted", ["link", "listener"])
def test_plain_and_tls_do_not_mix_and_say_so(
    authority: Authority, stack: contextlib.ExitStack, encrypted: str
) -> None:
    server, client = tls_contexts(*authority.issue("edge-b"))
    up = Upstream()
    listener = listening(stack, Downstream(), server if encrypted == "listener" else None)
    link = linking(stack, up, listener, client if encrypted == "link" else None)
    assert wait_until(lambda: listener.counters.last_error and "not known" not in link.state)
    assert not up.states


@pytest.fixture
def overlaps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows whenever two threads are inside the same SSL object, which OpenSSL does not allow."""
    inside: dict[int, str] = {}
    found: list[str] = []

    def watched(name: str) -> Callable[..., int]:
        original = getattr(ssl.SSLSocket, name)

        def call(self: ssl.SSLSocket, *args: object) -> int:
            other = inside.setdefault(id(self), name)
            if other != name:
                found.append(f"{name} during {other}")
            try:
                return int(original(self, *args))
            finally:
                inside.pop(id(self), None)

        return call

    for name in ("recv_into", "send"):
        monkeypatch.setattr(ssl.SSLSocket, name, watched(name))
    return found


@pytest.mark.integration
def test_big_traffic_in_both_directions_at_once_stays_intact(
    authority: Authority, stack: contextlib.ExitStack, overlaps: list[str]
) -> None:
    """A receiver and senders on each side share one SSL object, and neither direction starves."""
    down, up = Downstream(eager=False), Upstream()
    listener = listening(stack, down, tls_contexts(*authority.issue("edge-b"))[0], credit_count=8)
    link = linking(stack, up, listener, tls_contexts(*authority.issue("edge-a"))[1])
    assert link.wait_ready(PATIENCE_S), link.state
    frame_count, rng = 120, np.random.default_rng(1)
    blocks = [rng.standard_normal(100_000).astype(np.float32) for _ in range(4)]
    boxes = tuple(
        Detection(label="person", score=index / 3000, box=(0.0, 1.0, 2.0, float(index)))
        for index in range(3000)
    )

    def answer() -> None:
        for frame in range(frame_count):
            if not wait_until(lambda frame=frame: len(down.taken) > frame):  # type: ignore[misc]
                return
            taken, reply, release = down.taken[frame]
            release()
            reply(answer_to(taken, detections=boxes))

    thread = threading.Thread(target=answer)
    thread.start()
    for frame in range(frame_count):
        link.send(activation(frame, {"x": blocks[frame % 4]}), timeout_s=PATIENCE_S)
    thread.join(60)
    assert wait_until(lambda: len(up.answers) == frame_count)
    assert up.states == [(True, "connected")]
    assert not overlaps
    assert all(answer.detections == boxes for answer in up.answers)
    for taken in down.activations:
        assert np.array_equal(taken.tensors["x"], blocks[taken.frame % 4])


# Building contexts.


def test_missing_files_are_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key, ca = authority.issue("edge-a")
    missing = tmp_path / "nowhere.pem"
    for what, paths in {
        "certificate": (missing, key, ca),
        "key": (certificate, missing, ca),
        "authority": (certificate, key, missing),
    }.items():
        with pytest.raises(ConfigError, match=f"there is no {what} file .*nowhere.pem"):
            tls_contexts(*paths)


def test_a_key_of_another_certificate_is_named(authority: Authority) -> None:
    certificate, _, ca = authority.issue("edge-a")
    _, other_key, _ = authority.issue("edge-b")
    with pytest.raises(ConfigError, match=r"edge-b.key does not belong to .*edge-a.crt"):
        tls_contexts(certificate, other_key, ca)


def test_files_that_are_not_pem_are_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key, ca = authority.issue("edge-a")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    with pytest.raises(ConfigError, match="PEM"):
        tls_contexts(text, key, ca)
    with pytest.raises(ConfigError, match="PEM"):
        tls_contexts(certificate, key, text)


def test_a_key_with_a_password_fails_instead_of_asking(
    authority: Authority, tmp_path: Path
) -> None:
    """An agent has no terminal to ask on."""
    from cryptography.hazmat.primitives import serialization

    certificate, key, ca = authority.issue("edge-a")
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigError, match="unencrypted"):
        tls_contexts(certificate, locked, ca)
