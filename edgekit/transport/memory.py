"""The hop without a network, for unit tests and for reading: same port, same refusals, no sockets.

In: activations, through the real wire format.  Out: answers; connections that a test can cut.
No clock but the round trip's, no retry timers: a link reconsiders whenever the network changes.
The MQTT counterpart is memory_mqtt.py.
"""

import itertools
import threading
import time
from collections.abc import Callable
from functools import partial

from edgekit.errors import LinkError
from edgekit.transport import frames, headers
from edgekit.transport.codecs import Codec, make_codec
from edgekit.transport.codecs.port import Buffer
from edgekit.transport.handout import hand_out
from edgekit.transport.hop_pace import Pace
from edgekit.transport.mailbox import Mailbox
from edgekit.transport.port import (
    Activation,
    Answer,
    Identity,
    OnActivation,
    OnAnswer,
    OnState,
    Trip,
)

_HOST = "memory"
_HINT = "look at the next device"


class MemoryNetwork:
    """Where links find listeners. One condition guards links and listeners alike."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.listeners: dict[tuple[str, int], MemoryHopListener] = {}
        self.links: list[MemoryHopLink] = []
        self.is_up = True
        self.numbers = itertools.count(1)
        """Ports, and the age of links: the higher, the newer."""

    def cut(self) -> None:
        """Pull every cable: all links lose their connection."""
        with self.changed:
            self.is_up = False
            self.reconsider()

    def restore(self) -> None:
        """Plug the cables in again."""
        with self.changed:
            self.is_up = True
            self.reconsider()

    def reconsider(self) -> None:
        """Let every link look at its peer again; call with ``changed`` held.

        Twice, because a link that joins replaces an older one.
        """
        for link in [*self.links, *self.links]:
            link.reconsider()
        self.changed.notify_all()


class _Joint:
    """One connection: dead as soon as either end has dropped it."""

    def __init__(self, listener: "MemoryHopListener", number: int) -> None:
        self.listener, self.number = listener, number
        self.is_alive = True


class MemoryHopLink:
    """The HopLink of a MemoryNetwork. Its thread calls ``on_answer`` and ``on_state``."""

    def __init__(
        self, network: MemoryNetwork, identity: Identity, *, on_answer: OnAnswer, on_state: OnState
    ) -> None:
        self._network, self._identity = network, identity
        self._codec = make_codec(identity.codec)
        deadline_s = identity.codec.deadline_s
        self._pace = None if deadline_s is None else Pace(deadline_s)
        self._on_answer, self._on_state = on_answer, on_state
        self._mailbox = Mailbox(f"memory-link-{identity.cut}")
        self._peer: tuple[str, int] | None = None
        self._number = 0
        self._joint: _Joint | None = None
        self._sent: dict[tuple[str, str, int], tuple[float, int, float]] = {}
        """When, how many bytes of tensors, and how long it took to code them."""
        self._state = "the address of the next device is not known yet"
        self._is_closed = False
        with network.changed:
            network.links.append(self)

    def set_peer(self, host: str, port: int) -> None:
        """Where the next device listens now. Reconnects if the address changed."""
        with self._network.changed:
            self._peer, self._number = (host, port), next(self._network.numbers)
            self._network.reconsider()

    def send(self, activation: Activation, *, timeout_s: float) -> int:
        """Code the tensors, and send as soon as there is a connection and a credit.

        Returns: bytes that went out. Raises: LinkError if neither came within ``timeout_s``;
        ModelError or ConfigError if the activation cannot be sent.
        """
        started_s = time.monotonic()
        with self._network.changed:
            budget_bytes = self._pace.budget_bytes() if self._pace else None
        encoded = frames.coded(activation, self._codec, budget_bytes=budget_bytes)
        parts = frames.activation_parts(activation, encoded, self._identity)
        encode_s = time.monotonic() - started_s
        with self._network.changed:
            self._network.changed.wait_for(lambda: self._is_ready() or self._is_closed, timeout_s)
            if self._joint is None:
                raise LinkError(f"no hop to the next device: {self._state}", hint=_HINT)
            if not self._is_ready():
                raise LinkError(
                    f"no credit from the next device within {timeout_s:g} s",
                    hint="drop this frame: the next device is busy with earlier ones",
                )
            key = (activation.stream, activation.run, activation.frame)
            self._sent[key] = (time.monotonic(), encoded.header.payload_bytes, encode_s)
            self._joint.listener.take(self._joint, parts, partial(self._answered, self._joint))
        return sum(map(len, parts))

    def wait_ready(self, timeout_s: float) -> bool:
        """True once a frame could be sent at once (connected, credit in hand); else False."""
        with self._network.changed:
            self._network.changed.wait_for(lambda: self._is_ready() or self._is_closed, timeout_s)
            return self._is_ready()

    @property
    def state(self) -> str:
        """ "connected", or one sentence that says what is wrong."""
        return self._state

    @property
    def is_connected(self) -> bool:
        """Whether frames can be sent, credit permitting."""
        return self._joint is not None

    def close(self) -> None:
        """Stop for good. Waiting senders get a LinkError."""
        with self._network.changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._state = "closed"
            if self._joint:
                self._joint.is_alive = False
            self._joint = None
            self._network.links.remove(self)
            self._network.reconsider()
        self._mailbox.close()

    def reconsider(self) -> None:
        """Connect, disconnect or stay, as the network now demands; call with ``changed`` held."""
        if self._is_closed or self._peer is None:
            return
        listener = self._network.listeners.get(self._peer) if self._network.is_up else None
        if listener is None:
            reason = f"cannot reach {self._peer[0]}:{self._peer[1]}: Connection refused"
        else:
            reason = listener.refusal(self._identity, self._number)
        joint = self._joint
        if joint and (not joint.is_alive or joint.listener is not listener or reason):
            joint.is_alive = False
            self._joint = None
            self._sent.clear()
            self._state = reason or "the next device moved"
            self._mailbox.post(partial(self._on_state, False, self._state))
        elif listener and not reason and joint is None:
            self._joint = listener.join(self._number)
            self._state = "connected"
            self._mailbox.post(partial(self._on_state, True, self._state))
        elif reason:
            self._state = reason

    def _is_ready(self) -> bool:
        return self._joint is not None and self._joint.listener.has_room

    def _answered(self, joint: _Joint, parts: list[bytes]) -> None:
        """An answer comes back, on whatever thread replied."""
        header = headers.decode(parts[0][headers.PREFIX_BYTES :])
        assert isinstance(header, headers.AnswerHeader)
        answer = frames.answer(header, parts[1])
        key = (answer.stream, answer.run, answer.frame)
        with self._network.changed:
            sent = self._sent.pop(key, None) if joint.is_alive else None
            if sent is None:
                return
            sent_s, nbytes, encode_s = sent
            round_trip_s = time.monotonic() - sent_s
            if self._pace is not None:
                self._pace.add(nbytes, round_trip_s=round_trip_s, residence_s=answer.residence_s)
        trip = Trip(round_trip_s=round_trip_s, payload_bytes=nbytes, encode_s=encode_s)
        self._mailbox.post(lambda: self._on_answer(answer, trip))


class MemoryHopListener:
    """The HopListener of a MemoryNetwork. Its thread calls ``on_activation``."""

    def __init__(
        self, network: MemoryNetwork, *, on_activation: OnActivation, credit_count: int = 2
    ) -> None:
        self._network, self._on_activation = network, on_activation
        self._credit_count = credit_count
        self._mailbox = Mailbox("memory-listener")
        self._identity: Identity | None = None
        self._codec: Codec | None = None
        self._device = ""
        self._joint: _Joint | None = None
        self._held: set[object] = set()
        with network.changed:
            self._address = (_HOST, next(network.numbers))
            network.listeners[self._address] = self
            network.reconsider()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port by which links find it."""
        return self._address

    def serve(self, identity: Identity | None) -> None:
        """Accept hops that match ``identity`` from now on; None refuses all ("not serving yet").

        Raises: ConfigError if the library of its codec is not installed here.
        """
        codec = make_codec(identity.codec) if identity else None
        with self._network.changed:
            if identity != self._identity:
                self._held.clear()
            self._identity, self._codec = identity, codec
            self._device = identity.device if identity else self._device
            self._network.reconsider()

    def close(self) -> None:
        """Stop for good."""
        with self._network.changed:
            self._network.listeners.pop(self._address, None)
            self._network.reconsider()
        self._mailbox.close()

    @property
    def has_room(self) -> bool:
        """Whether it would take one more frame; call with the network's ``changed`` held."""
        return len(self._held) < self._credit_count

    def refusal(self, identity: Identity, number: int) -> str:
        """The sentence by which it refuses a link, or nothing."""
        reason = headers.refusal(headers.hello(identity), self._identity)
        if not reason and self._joint and self._joint.is_alive and self._joint.number > number:
            reason = "a newer connection took its place"
        return f"{self._device or 'the peer'} refuses: {reason}" if reason else ""

    def join(self, number: int) -> _Joint:
        """A new connection; it replaces the one there was."""
        if self._joint:
            self._joint.is_alive = False
        self._joint = _Joint(self, number)
        return self._joint

    def take(
        self,
        joint: _Joint,
        parts: list[Buffer],
        answered: Callable[[list[bytes]], None],
    ) -> None:
        """One framed activation arrives; call with the network's ``changed`` held."""
        header = headers.decode(parts[0][headers.PREFIX_BYTES :])
        assert isinstance(header, headers.ActivationHeader)
        assert self._identity is not None and self._codec is not None
        codec = self._codec
        frames.check_activation(header, self._identity, codec, cap_bytes=frames.PAYLOAD_CAP_BYTES)
        buffers = frames.empty_buffers(header.coded)
        for view, part in zip(buffers, parts[1:], strict=True):
            view[:] = part
        frame = object()
        self._held.add(frame)

        def reply(answer: Answer) -> None:
            if joint.is_alive:
                answered(frames.answer_parts(answer))

        def release() -> None:
            with self._network.changed:
                self._held.discard(frame)
                self._network.changed.notify_all()

        self._mailbox.post(
            lambda: hand_out(
                header,
                buffers,
                codec,
                self._on_activation,
                device=self._device,
                reply=reply,
                release=release,
            )
        )

    def settle(self, timeout_s: float = 1.0) -> bool:
        """True once every activation sent so far has been handed out."""
        return self._mailbox.settle(timeout_s)
