"""What the hop tests share: identities, activations, recorders, certificates."""

import contextlib
import datetime
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgekit.spec.codec import RAW, CodecSpec
from edgekit.spec.tensors import Array
from edgekit.transport import frames
from edgekit.transport.codecs import make_codec
from edgekit.transport.codecs.port import Buffer
from edgekit.transport.port import (
    Activation,
    Answer,
    HopLink,
    HopListener,
    Identity,
    OnActivation,
    Reply,
    Trip,
)

PATIENCE_S = 10.0
"""How long a test waits for what must happen; far more than it takes."""


def identity(device: str = "edge-a", **changes: object) -> Identity:
    values: dict[str, object] = {
        "device": device, "fleet": "yard", "deployment": "d1", "epoch": 1, "cut": 0, **changes
    }  # fmt: skip
    return Identity(**values)  # type: ignore[arg-type]


def activation(frame: int = 0, tensors: dict[str, Array] | None = None) -> Activation:
    return Activation(
        stream="main",
        run="r1",
        frame=frame,
        capture_ns=123_456_789,
        source_height_px=480,
        source_width_px=640,
        tensors=tensors or {"x": np.arange(12, dtype=np.float32).reshape(3, 4)},
    )


def framed(sent: Activation, who: Identity | None = None) -> list[Buffer]:
    """``sent`` as a link with this identity writes it."""
    who = who or identity("edge-a")
    return frames.activation_parts(sent, frames.coded(sent, make_codec(who.codec)), who)


def answer_to(taken: Activation, **changes: object) -> Answer:
    values: dict[str, object] = {
        "stream": taken.stream, "run": taken.run, "frame": taken.frame,
        "capture_ns": taken.capture_ns, **changes,
    }  # fmt: skip
    return Answer(**values)  # type: ignore[arg-type]


def wait_until(condition: Callable[[], object], limit_s: float = PATIENCE_S) -> bool:
    """Whether ``condition`` became true in time."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.005)
    return True


@dataclass
class Upstream:
    """Records what a link reports."""

    answers: list[Answer] = field(default_factory=list)
    trips: list[Trip] = field(default_factory=list)
    states: list[tuple[bool, str]] = field(default_factory=list)

    def on_answer(self, answer: Answer, trip: Trip) -> None:
        self.trips.append(trip)
        self.answers.append(answer)

    def on_state(self, is_connected: bool, sentence: str) -> None:
        self.states.append((is_connected, sentence))


@dataclass
class Downstream:
    """Records what a listener hands out; answers and releases at once if it is ``eager``."""

    eager: bool = True
    taken: list[tuple[Activation, Reply, Callable[[], None]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def on_activation(self, taken: Activation, reply: Reply, release: Callable[[], None]) -> None:
        with self.lock:
            self.taken.append((taken, reply, release))
        if self.eager:
            release()
            reply(answer_to(taken))

    @property
    def activations(self) -> list[Activation]:
        return [taken for taken, _, _ in self.taken]


class Authority:
    """Makes device certificates for TLS tests."""

    def __init__(self, folder: Path, name: str = "yard-authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._certificate(self._name, self._key, is_authority=True)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, device: str) -> tuple[Path, Path, Path]:
        """Paths of the certificate, the key and the authority, for ``tls_contexts``."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
        certificate = self._certificate(name, key, is_authority=False)
        paths = self._folder / f"{device}.crt", self._folder / f"{device}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return *paths, self.path

    def _certificate(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )


@dataclass
class World:
    """Makes ends of one kind and closes them after the test."""

    new_link: Callable[[Identity, Upstream], HopLink]
    new_listener: Callable[[OnActivation, int], HopListener]
    stack: contextlib.ExitStack

    def link(self, up: Upstream, *, who: Identity | None = None) -> HopLink:
        link = self.new_link(who or identity("edge-a"), up)
        self.stack.callback(link.close)
        return link

    def listener(self, down: Downstream, *, credit_count: int = 2) -> HopListener:
        listener = self.new_listener(down.on_activation, credit_count)
        self.stack.callback(listener.close)
        return listener

    def pair(
        self, up: Upstream, down: Downstream, *, credit_count: int = 2, codec: CodecSpec = RAW
    ) -> tuple[HopLink, HopListener]:
        """A connected link and listener."""
        listener = self.listener(down, credit_count=credit_count)
        listener.serve(identity("edge-b", codec=codec))
        link = self.link(up, who=identity("edge-a", codec=codec))
        link.set_peer(*listener.address)
        assert link.wait_ready(PATIENCE_S), link.state
        return link, listener
