"""Who is probing now, and what becomes of a datagram: an echo, part of a train, or nothing.

In: sessions that were opened over TCP; datagrams.  Out: echoes to their senders, packets to trains.
Nobody without an open session gets an answer, and no answer is longer than what it answers.
"""

import contextlib
import secrets
import threading
import time
from dataclasses import dataclass

from edgekit.transport.probe_packets import TOKEN_BYTES, as_reply, parse_packet
from edgekit.transport.probe_socket import Address, Datagram, ProbeSocket
from edgekit.transport.probe_train import TrainIntake
from edgekit.transport.wire import describe

ECHOES_PER_S = 1000.0
_LOOK_S = 0.2


@dataclass(slots=True)
class ResponderCounters:
    """Running totals of a responder, for people and tests."""

    sessions: int = 0
    refused: int = 0
    """Connections turned away, and sessions that ended with an error."""
    echoes: int = 0
    trains: int = 0
    bulks: int = 0
    malformed: int = 0
    """Datagrams that are no probe packets."""
    foreign: int = 0
    """Well-formed datagrams of no open session, or from another address than its own."""
    limited: int = 0
    """Echoes beyond the rate limit, not answered."""
    last_error: str = ""


class Session:
    """One prober, from its greeting to its end."""

    def __init__(self, name: str, host: str) -> None:
        self.name, self.host = name, host
        self.token = secrets.token_bytes(TOKEN_BYTES)
        self.address: Address | None = None
        """From where its last echo came: there its trains go."""
        self.intake: TrainIntake | None = None
        self.echo_count = self.train_count = self.bulk_count = 0
        self._allowance, self._seen_s = ECHOES_PER_S, time.monotonic()

    def may_echo(self) -> bool:
        """Whether one more echo is within the limit. Called by the datagram thread only."""
        now_s = time.monotonic()
        more = (now_s - self._seen_s) * ECHOES_PER_S
        self._allowance, self._seen_s = min(ECHOES_PER_S, self._allowance + more), now_s
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.host}): {self.echo_count} echoes, {self.train_count} trains, "
            f"{self.bulk_count} bulk transfers"
        )


class SessionTable:
    """The open sessions of one responder, and the thread that serves their datagrams."""

    def __init__(self, sock: ProbeSocket) -> None:
        self._socket = sock
        self.counters = ResponderCounters()
        self._sessions: dict[bytes, Session] = {}

    def open(self, name: str, host: str) -> Session:
        """A new session of the prober at ``host``."""
        session = Session(name, host)
        self._sessions[session.token] = session
        self.counters.sessions += 1
        return session

    def close(self, session: Session) -> None:
        """Its datagrams are foreign from now on."""
        self._sessions.pop(session.token, None)

    def run(self, closing: threading.Event) -> None:
        """Serve datagrams until ``closing``, then give the socket back."""
        while not closing.is_set():
            try:
                datagram = self._socket.receive(_LOOK_S)
            except OSError as error:  # such as out of memory: it may pass
                self.counters.last_error = describe(error)
                closing.wait(_LOOK_S)
                continue
            if datagram is not None:
                self.take(datagram)
        self._socket.close()

    def take(self, datagram: Datagram) -> None:
        """One datagram, from whomever."""
        packet = parse_packet(datagram.data)
        if packet is None:
            self.counters.malformed += 1
            return
        session = self._sessions.get(packet.token)
        if session is None or session.host != datagram.origin[0]:
            self.counters.foreign += 1
            return
        intake = session.intake
        if packet.kind == "echo":
            self._echo(session, datagram)
        elif packet.kind == "train" and intake is not None and intake.series == packet.series:
            intake.take(packet.number, datagram)

    def _echo(self, session: Session, datagram: Datagram) -> None:
        session.address = datagram.origin
        if not session.may_echo():
            self.counters.limited += 1
            return
        with contextlib.suppress(OSError):  # a lost echo is what the prober counts anyway
            self._socket.send(as_reply(datagram.data), datagram.origin)
        session.echo_count += 1
        self.counters.echoes += 1
