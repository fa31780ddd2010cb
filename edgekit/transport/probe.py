"""The near end of a link probe: measures the link to a responder, both ways.

In: a responder's address.  Out: round trips, trains and bulk transfers as measured; LinkErrors.

Clocks: round trips by this end's clock; the spacing of a train by the clock of the end it arrives
at. No clock of one end is ever subtracted from the other's.

Bandwidth always means payload bytes per second of one TCP connection, as a hop would get. A train
is made of full frames, and a full frame of TCP carries 24 bytes less than one of UDP (20 + 12
bytes of header instead of 8), so a train's pace in packets is multiplied by packet size - 24: that
holds whatever else the link adds to each frame.
"""

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgekit.errors import EdgeKitError, LinkError
from edgekit.transport import probe_messages as messages
from edgekit.transport.probe_bulk import receive_bulk, send_bulk
from edgekit.transport.probe_dial import open_session
from edgekit.transport.probe_messages import (
    BulkReport,
    BulkSent,
    RefusedError,
    TrainReport,
    TrainSent,
)
from edgekit.transport.probe_packets import (
    PACKET_CAP_BYTES,
    PACKET_HEAD_BYTES,
    Kind,
    Packet,
    format_packet,
    parse_packet,
)
from edgekit.transport.probe_socket import Datagram, ProbeSocket
from edgekit.transport.probe_train import TrainIntake
from edgekit.transport.wire import describe

ECHO_BYTES = 64
_TCP_EXTRA_BYTES = 24
_PACKET_BYTES, _PACKET_MIN_BYTES = 1472, 512
_PATIENCE_S = 1.0
_LOOK_S = 0.02
_SENDER_SHARE = 0.85
_UNSENT_S, _UNSENT_BYTES = 0.05, 512 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Echoes:
    """A row of echoes."""

    round_trips_s: tuple[float, ...]
    sent_count: int

    @property
    def loss(self) -> float:
        """Share that did not come back within a second of the last."""
        return 1 - len(self.round_trips_s) / self.sent_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """One packet train: how it left and how it arrived."""

    packet_bytes: int
    sending: TrainSent
    report: TrainReport

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """TCP payload per second of a link with this spacing; 0.0 if it cannot be told."""
        return self.report.packets_per_s * (self.packet_bytes - _TCP_EXTRA_BYTES)

    @property
    def is_conclusive(self) -> bool:
        """Whether the link set the spacing, rather than a sender that was no faster."""
        if not self.report.packets_per_s:
            return False
        offered = self.sending.packet_count / max(self.sending.sending_s, 1e-9)
        return self.sending.was_held_up or self.report.packets_per_s < _SENDER_SHARE * offered


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """One bulk transfer."""

    sent: BulkSent
    report: BulkReport

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """TCP payload per second after slow start; 0.0 if it cannot be told."""
        return self.report.bytes_per_s

    @property
    def waiting_share(self) -> float:
        """Share of the time in which one of the computers was too busy for it (0..1 or so)."""
        return max(self.sent.waited_s, self.report.waited_s) / max(self.report.span_s, 1e-9)


class ProbeSession:
    """One session with a responder; one measurement at a time. A context manager.

    Every method raises LinkError if the link broke or the responder refused.
    """

    def __init__(
        self, host: str, port: int, *, name: str, tls: ssl.SSLContext | None = None
    ) -> None:
        self._place = f"{host}:{port}"
        self._session = open_session(host, port, name=name, tls=tls)
        self._control = self._session.control
        self._socket = ProbeSocket(self._session.family)
        self._series = 0
        segment_bytes = self._session.segment_bytes
        fitting = segment_bytes + _TCP_EXTRA_BYTES if segment_bytes else _PACKET_BYTES
        self.packet_bytes = max(_PACKET_MIN_BYTES, min(PACKET_CAP_BYTES, fitting))
        """Payload of one packet of a train: one full frame of this path."""

    def __enter__(self) -> "ProbeSession":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Say good-bye and give the sockets back."""
        with contextlib.suppress(LinkError):
            self._control.wire.write_if_idle(messages.encode(messages.Bye()))
        self._control.wire.close()
        self._socket.close()

    @property
    def peer_name(self) -> str:
        """What the responder calls itself."""
        return self._session.peer_name

    @contextlib.contextmanager
    def _measuring(self, what: str) -> Iterator[None]:
        """Say in every error what was being measured."""
        try:
            yield
        except RefusedError as error:
            raise RefusedError(f"{self._place}, {what}: {error.what}", hint=error.hint) from None
        except (LinkError, OSError) as error:
            why = describe(error) if isinstance(error, OSError) else error.what
            raise LinkError(
                f"the link to {self._place} was lost during {what}: {why}",
                hint="check the cable and that the responder still runs, then probe again",
            ) from None

    # Round trips.

    def measure_echoes(
        self, count: int, *, interval_s: float, progress: Callable[[int], None] = lambda done: None
    ) -> Echoes:
        """Round trips of ``count`` small datagrams, one every ``interval_s``, answered or not.

        Later than a second after the last one was sent counts as lost.
        """
        with self._measuring("echoes"):
            return self._echoes(count, interval_s, progress)

    def _echoes(self, count: int, interval_s: float, progress: Callable[[int], None]) -> Echoes:
        self._series += 1
        sent_ns: list[int] = []
        round_trips_s: dict[int, float] = {}
        due_s = time.perf_counter()
        while len(round_trips_s) < count:
            now_s = time.perf_counter()
            if len(sent_ns) < count and now_s >= due_s:
                self._send_echo(sent_ns)
                due_s += interval_s if len(sent_ns) < count else _PATIENCE_S
                progress(len(sent_ns))
            elif now_s >= due_s:
                break
            datagram = self._socket.receive(max(0.0, due_s - time.perf_counter()))
            arrived_ns = time.perf_counter_ns()
            packet = self._own(datagram, "echo_reply")
            if packet and packet.number < len(sent_ns):
                trip_s = (arrived_ns - sent_ns[packet.number]) / 1e9
                round_trips_s.setdefault(packet.number, trip_s)
        return Echoes(round_trips_s=tuple(round_trips_s.values()), sent_count=count)

    def _send_echo(self, sent_ns: list[int]) -> None:
        packet = Packet("echo", self._session.token, self._series, len(sent_ns))
        data = format_packet(packet, bytes(ECHO_BYTES - PACKET_HEAD_BYTES))
        sent_ns.append(time.perf_counter_ns())
        with contextlib.suppress(PermissionError):  # a firewall on this device: lost, not broken
            self._socket.send(data, self._session.address)

    def _own(self, datagram: Datagram | None, kind: Kind) -> Packet | None:
        """The packet, if it belongs to the series under way.

        The token says so, not the address: a host with several may answer from another one.
        """
        packet = parse_packet(datagram.data) if datagram else None
        own = (kind, self._session.token, self._series)
        return packet if packet and (packet.kind, packet.token, packet.series) == own else None

    def measure_pings(self, count: int) -> Echoes:
        """Round trips over the control connection, for where datagrams do not pass. No loss."""
        round_trips_s = []
        with self._measuring("pings"):
            for number in range(count):
                started_s = time.perf_counter()
                self._control.send(messages.Ping(number=number))
                self._control.expect(messages.Pong)
                round_trips_s.append(time.perf_counter() - started_s)
        return Echoes(round_trips_s=tuple(round_trips_s), sent_count=count)

    # Trains.

    def send_train(self, packet_count: int) -> Train:
        """A train from here to the responder."""
        self._series += 1
        with self._measuring("a packet train"):
            self._control.send(
                messages.TrainOut(
                    series=self._series, packet_count=packet_count, packet_bytes=self.packet_bytes
                )
            )
            self._control.expect(messages.Ready)
            sending = self._socket.send_train(
                Packet("train", self._session.token, self._series, 0),
                packet_count=packet_count,
                packet_bytes=self.packet_bytes,
                address=self._session.address,
            )
            self._control.send(sending)
            report = self._control.expect(TrainReport)
        return Train(packet_bytes=self.packet_bytes, sending=sending, report=report)

    def take_train(self, packet_count: int) -> Train:
        """A train from the responder to here. An echo must have been sent before."""
        self._series += 1
        intake = TrainIntake(self._series, packet_count)
        with self._measuring("a packet train back"):
            self._control.send(
                messages.TrainBack(
                    series=self._series, packet_count=packet_count, packet_bytes=self.packet_bytes
                )
            )
            sending = self._take_in(intake)
        return Train(packet_bytes=self.packet_bytes, sending=sending, report=intake.report())

    def _take_in(self, intake: TrainIntake) -> TrainSent:
        """Take packets until the responder has said how many there were, and no more come."""
        announced: list[TrainSent | EdgeKitError] = []

        def listen() -> None:
            try:
                announced.append(self._control.expect(TrainSent))
            except EdgeKitError as error:
                announced.append(error)

        listener = threading.Thread(target=listen, name="probe-train-sent", daemon=True)
        listener.start()
        since_s: float | None = None
        while since_s is None or not intake.is_quiet(since_s):
            datagram = self._socket.receive(_LOOK_S)
            packet = self._own(datagram, "train")
            if packet and datagram:
                intake.take(packet.number, datagram)
            elif announced and since_s is None:
                since_s = time.monotonic()
        listener.join()
        if isinstance(announced[0], EdgeKitError):
            raise announced[0]
        return announced[0]

    # Bulk transfers.

    def send_bulk(self, duration_s: float, *, expected_bytes_per_s: float = 0.0) -> Bulk:
        """Blocks from here to the responder for ``duration_s``.

        ``expected_bytes_per_s``, if known, sizes the queue in the sender's system.
        """
        with self._measuring("a bulk transfer"):
            self._control.limit_unsent(_unsent_bytes(expected_bytes_per_s))
            self._control.send(messages.BulkOut())
            self._control.expect(messages.Ready)
            sent = send_bulk(self._control.wire, duration_s)
            return Bulk(sent=sent, report=self._control.expect(BulkReport))

    def take_bulk(self, duration_s: float, *, expected_bytes_per_s: float = 0.0) -> Bulk:
        """Blocks from the responder to here for ``duration_s``."""
        with self._measuring("a bulk transfer back"):
            self._control.send(
                messages.BulkBack(
                    duration_s=duration_s, unsent_bytes=_unsent_bytes(expected_bytes_per_s)
                )
            )
            self._control.expect(messages.Ready)
            report = receive_bulk(self._control.wire)
            return Bulk(sent=self._control.expect(BulkSent), report=report)


def _unsent_bytes(expected_bytes_per_s: float) -> int:
    """50 ms of the link, within what the responder allows."""
    wanted = round(_UNSENT_S * expected_bytes_per_s) or _UNSENT_BYTES
    return min(max(wanted, messages.UNSENT_MIN_BYTES), messages.UNSENT_CAP_BYTES)
