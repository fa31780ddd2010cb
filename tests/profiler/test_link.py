"""How a link is measured: train lengths, repeats, and what is done where one method fails."""

import pytest
from link_world import bulk, echoes

from edgekit.profiler import link
from edgekit.profiler.link import measure_link
from edgekit.spec.profile import LinkReport
from edgekit.transport.probe import Bulk, Echoes, Train
from edgekit.transport.probe_messages import TrainReport, TrainSent

PAYLOAD_BYTES = 1448


class ImaginedSession:
    """A session over a link of 12 MB/s whose first ``bucket_count`` packets take no time."""

    peer_name = "there"
    bucket_count = 20
    sender_packets_per_s = 1e6
    rate_bytes_per_s = 12e6
    datagrams_pass = True
    bulk_rates: tuple[float, ...] = (12e6,)

    def __init__(self) -> None:
        self.trains: list[int] = []
        self.bulks: list[tuple[float, float]] = []
        self.time_s = 0.0

    def __enter__(self) -> "ImaginedSession":
        return self

    def __exit__(self, *exc_info: object) -> None: ...

    def measure_echoes(self, count: int, *, interval_s: float) -> Echoes:
        self.time_s += count * interval_s
        return (
            echoes(*[0.001] * count)
            if self.datagrams_pass
            else Echoes(round_trips_s=(), sent_count=count)
        )

    def measure_pings(self, count: int) -> Echoes:
        return echoes(*[0.002] * count)

    def send_train(self, count: int) -> Train:
        self.trains.append(count)
        rate = min(self.rate_bytes_per_s / PAYLOAD_BYTES, self.sender_packets_per_s)
        paced = max(0, count - self.bucket_count)
        span_s = max(1e-5, paced / rate)
        self.time_s += span_s
        return Train(
            packet_bytes=1472,
            sending=TrainSent(
                packet_count=count,
                sending_s=count / self.sender_packets_per_s,
                was_held_up=False,
            ),
            report=TrainReport(
                received_count=count,
                overflow_count=0,
                span_s=span_s,
                packets_per_s=rate if paced > count // 4 else 1e6,
            ),
        )

    def send_bulk(self, duration_s: float, *, expected_bytes_per_s: float) -> Bulk:
        self.bulks.append((duration_s, expected_bytes_per_s))
        self.time_s += duration_s
        return bulk(self.bulk_rates[min(len(self.bulks), len(self.bulk_rates)) - 1])

    take_train, take_bulk = send_train, send_bulk


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> ImaginedSession:
    imagined = ImaginedSession()
    monkeypatch.setattr(link, "ProbeSession", lambda *args, **options: imagined)
    monkeypatch.setattr(link.time, "monotonic", lambda: imagined.time_s)
    return imagined


def measured(**options: object) -> LinkReport:
    return measure_link("there", 7605, name="here", **options)  # type: ignore[arg-type]


def test_trains_grow_until_they_are_long_enough(session: ImaginedSession) -> None:
    """Then they keep their length; short ones do not count."""
    report = measured()
    steady = session.trains[-1]
    assert session.trains[0] < steady
    assert 0.03 < (steady - 20) * PAYLOAD_BYTES / 12e6 < 0.12
    assert len(report.link) == 2
    for one in report.link:
        assert one.bandwidth_bytes_per_s == pytest.approx(12e6)
        assert one.method == "packet trains"
    assert not report.note


def test_the_transfer_is_told_what_to_expect_and_made_once(session: ImaginedSession) -> None:
    measured(duration_s=5.0)
    assert [expected for _, expected in session.bulks] == pytest.approx([12e6] * 2)
    assert session.time_s < 6.0


def test_a_disagreement_is_measured_again(session: ImaginedSession) -> None:
    """One transfer that met a retransmission time-out must not overrule ten trains."""
    session.bulk_rates = (7e6, 11.9e6, 12e6)
    report = measured()
    assert len(session.bulks) == 4
    assert report.link[0].bandwidth_bytes_per_s == pytest.approx(12e6)


def test_a_disagreement_that_stays_is_told(session: ImaginedSession) -> None:
    session.bulk_rates = (7e6, 7.1e6, 7.2e6, 12e6)
    report = measured()
    assert report.link[0].bandwidth_bytes_per_s == pytest.approx(7.1e6)
    assert report.link[1].bandwidth_bytes_per_s == pytest.approx(12e6)
    assert "here to there: packet trains say 96.0 Mbit/s" in report.note[0]


def test_where_datagrams_do_not_pass_three_transfers_stand_in(session: ImaginedSession) -> None:
    session.datagrams_pass = False
    session.bulk_rates = (11e6, 12e6, 12.1e6, 12e6)
    report = measured()
    assert not session.trains
    assert len(session.bulks) == 6
    assert report.link[0].bandwidth_bytes_per_s == pytest.approx(12e6)
    assert report.link[0].spread == pytest.approx(1.1 / 12)
    assert report.link[0].rtt_p50_s == pytest.approx(0.002)
    assert "UDP port 7605" in report.note[0]


def test_where_no_sender_is_as_fast_as_the_link_transfers_stand_in(
    session: ImaginedSession,
) -> None:
    session.rate_bytes_per_s, session.sender_packets_per_s = 10e9, 1e5
    session.bulk_rates = (2e9,)
    report = measured()
    assert report.link[0].bandwidth_bytes_per_s == pytest.approx(2e9)
    assert max(session.trains) <= 8192


def test_a_link_too_slow_for_a_transfer_is_measured_by_trains_alone(
    session: ImaginedSession,
) -> None:
    session.rate_bytes_per_s = 0.1e6
    report = measured()
    assert not session.bulks
    assert report.link[0].bandwidth_bytes_per_s == pytest.approx(0.1e6)


def test_progress_never_goes_back_nor_beyond_its_end(session: ImaginedSession) -> None:
    shown: list[tuple[str, int, int]] = []
    measured(progress=lambda text, done, total: shown.append((text, done, total)))
    done = [passed for _, passed, _ in shown]
    assert done == sorted(done)
    assert done[-1] <= shown[0][2] == 5000
    assert {"echoes", "packet trains there", "bulk transfer back"} <= {text for text, _, _ in shown}
