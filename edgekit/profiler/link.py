"""Measure a link with a responder at its other end: bandwidth each way, round trip, loss.

In: the responder's address and how long it may take.  Out: a LinkReport: one LinkProfile a way.

Bandwidth means payload bytes per second of one TCP connection, which is what a hop is: about 95.6 %
of what an Ethernet of full frames is rated at. Two methods give it, both in this unit: packet
trains of about 60 ms, long enough to be a few times longer than a shaper's token bucket, the median
of their steady rates; and a bulk transfer after slow start. link_verdict.py weighs them.
"""

import ssl
import time
from collections.abc import Callable
from statistics import median

from edgekit.profiler.link_verdict import TRAINS_MIN_COUNT, Way, doubts_about, profile_of
from edgekit.spec.profile import LinkReport
from edgekit.transport.probe import Bulk, Echoes, ProbeSession, Train
from edgekit.transport.probe_messages import TRAIN_CAP_COUNT

DURATION_MIN_S, DURATION_CAP_S = 1.0, 30.0
_ECHO_SHARE, _TRAIN_SHARE, _BULK_SHARE = 0.14, 0.17, 0.22
"""Of the whole duration: echoes once; trains and a bulk transfer once a way."""
_BULK_SHARE_ALONE = 0.13
_BULK_COUNT = 3
"""Where trains cannot tell, or say something else; one where both agree."""
_BULK_MIN_BYTES = 200_000
_ECHO_COUNT = 100
_TRIAL_ECHO_COUNT, _TRIAL_INTERVAL_S = 10, 0.02
_TRAIN_TARGET_S = 0.06
_TRAIN_FIRST_COUNT = 16
_TRAIN_GROWTH = 8.0

ShowProgress = Callable[[str, int, int], None]


def measure_link(
    host: str,
    port: int,
    *,
    name: str,
    duration_s: float = 5.0,
    tls: ssl.SSLContext | None = None,
    progress: ShowProgress = lambda text, done, total: None,
) -> LinkReport:
    """Both directions of the link from here (``name``) to the responder at ``host``.

    Takes about ``duration_s`` (1 to 30 s), longer where the link is slower than 1 Mbit/s; there,
    packet trains alone count.
    Raises: LinkError if the responder cannot be reached, refuses, or the link breaks meanwhile:
    then there is no report at all, never half of one.
    """
    started_s = time.monotonic()

    def tell(text: str) -> None:
        passed_s = min(time.monotonic() - started_s, duration_s)
        progress(text, round(1e3 * passed_s), round(1e3 * duration_s))

    tell("connect")
    with ProbeSession(host, port, name=name, tls=tls) as session:
        tell("echoes")
        echoes, datagrams_pass = _echoes(session, _ECHO_SHARE * duration_s)
        there, back = _Out(session, "there", tell), _Back(session, "back", tell)
        ways = [one.measure(duration_s, datagrams_pass) for one in (there, back)]
        ends = (name, session.peer_name)
    notes = [] if datagrams_pass else [_blocked(port)]
    links = []
    for (source, target), way in zip((ends, ends[::-1]), ways, strict=True):
        links.append(profile_of(way, echoes, source=source, target=target))
        notes += doubts_about(way, f"{source} to {target}")
    return LinkReport(link=tuple(links), note=tuple(notes))


def _blocked(port: int) -> str:
    return (
        f"datagrams do not come back (does a firewall block UDP port {port}?): bandwidth is from "
        "bulk transfers alone, round trips are those of TCP, loss is not measured"
    )


def _echoes(session: ProbeSession, budget_s: float) -> tuple[Echoes, bool]:
    """Round trips while the link is idle, and whether datagrams pass at all."""
    trial = session.measure_echoes(_TRIAL_ECHO_COUNT, interval_s=_TRIAL_INTERVAL_S)
    if not trial.round_trips_s:
        return session.measure_pings(_ECHO_COUNT // 2), False
    echoes = session.measure_echoes(_ECHO_COUNT, interval_s=budget_s / _ECHO_COUNT)
    # All lost right after the trial passed: then loss is 1, and the trial's round trips stand.
    return (echoes if echoes.round_trips_s else trial), True


class _Out:
    """The direction from here to the responder."""

    def __init__(self, session: ProbeSession, text: str, tell: Callable[[str], None]) -> None:
        self._session, self._text, self._tell = session, text, tell

    def _train(self, packet_count: int) -> Train:
        return self._session.send_train(packet_count)

    def _bulk(self, duration_s: float, expected_bytes_per_s: float) -> Bulk:
        return self._session.send_bulk(duration_s, expected_bytes_per_s=expected_bytes_per_s)

    def measure(self, duration_s: float, datagrams_pass: bool) -> Way:
        """Trains, where datagrams pass, then a bulk transfer; three if that settles nothing."""
        trains = self._trains(_TRAIN_SHARE * duration_s) if datagrams_pass else ()
        rates = Way(trains=trains).train_rates_bytes_per_s
        expected, share = (median(rates), _BULK_SHARE) if rates else (0.0, _BULK_SHARE_ALONE)
        bulks: list[Bulk] = []
        if rates and share * duration_s * expected < _BULK_MIN_BYTES:
            return Way(trains=trains)  # TCP would not find its pace in time
        while len(bulks) < _BULK_COUNT:
            self._tell(f"bulk transfer {self._text}")
            bulks.append(self._bulk(share * duration_s, expected))
            if rates and Way(trains=trains, bulks=tuple(bulks)).do_methods_agree:
                break
        return Way(trains=trains, bulks=tuple(bulks))

    def _trains(self, budget_s: float) -> tuple[Train, ...]:
        """Trains of a length that fits the link, found by growing; as many as the time allows."""
        trains: list[Train] = []
        count = _TRAIN_FIRST_COUNT
        ends_s = time.monotonic() + budget_s
        while time.monotonic() < ends_s or len(trains) < TRAINS_MIN_COUNT:
            self._tell(f"packet trains {self._text}")
            train = self._train(count)
            span_s = train.report.span_s
            if not train.report.received_count:
                break  # echoes pass, full frames do not: nothing to learn here
            if span_s < _TRAIN_TARGET_S / 2 and count < TRAIN_CAP_COUNT:
                growth = min(_TRAIN_GROWTH, _TRAIN_TARGET_S / max(span_s, 1e-6))
                count = min(TRAIN_CAP_COUNT, round(growth * count))
                continue
            trains.append(train)
            if span_s > 2 * _TRAIN_TARGET_S:
                count = max(_TRAIN_FIRST_COUNT, round(count * _TRAIN_TARGET_S / span_s))
        return tuple(trains)


class _Back(_Out):
    """The direction from the responder to here."""

    def _train(self, packet_count: int) -> Train:
        return self._session.take_train(packet_count)

    def _bulk(self, duration_s: float, expected_bytes_per_s: float) -> Bulk:
        return self._session.take_bulk(duration_s, expected_bytes_per_s=expected_bytes_per_s)
