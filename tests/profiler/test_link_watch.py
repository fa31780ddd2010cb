"""The background watch of a link: what it knows, what it costs, how it fails and how it stops."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import ConfigError
from edgekit.profiler.link_watch import LinkWatch
from edgekit.spec.profile import LinkProfile
from edgekit.transport.probe_memory import MemoryLinkProbe
from edgekit.transport.probe_port import LinkSample


def test_it_knows_a_steady_link_after_one_look() -> None:
    probe = MemoryLinkProbe(bandwidth_bytes_per_s=12e6, rtt_s=0.002)
    watch = LinkWatch(probe)
    assert watch.profile is None
    watch.look()
    profile = watch.profile
    assert profile is not None
    assert (profile.source, profile.target) == ("here", "there")
    assert profile.bandwidth_bytes_per_s == pytest.approx(12e6)
    assert (profile.rtt_p50_s, profile.rtt_p99_s) == pytest.approx((0.002, 0.002))
    assert profile.loss == 0


def test_it_follows_a_link_that_changes_without_jumping() -> None:
    """One odd look must not move a plan; ten in a row must."""
    probe = MemoryLinkProbe(bandwidth_bytes_per_s=12e6)
    watch = LinkWatch(probe)
    watch.look()
    probe.bandwidth_bytes_per_s, probe.rtt_s, probe.lost_count = 6e6, 0.02, 1
    watch.look()
    first = watch.profile
    assert first is not None
    assert 9e6 < first.bandwidth_bytes_per_s < 12e6
    assert first.rtt_p99_s == pytest.approx(0.02)
    for _ in range(12):
        watch.look()
    later = watch.profile
    assert later is not None
    assert later.bandwidth_bytes_per_s == pytest.approx(6e6, rel=0.02)
    assert later.rtt_p50_s == pytest.approx(0.02, rel=0.02)
    assert later.loss == pytest.approx(0.2, rel=0.02)


@given(st.floats(1e4, 1e10), st.floats(0.5, 60.0))
def test_it_never_spends_more_than_half_a_percent_of_the_link(
    bandwidth_bytes_per_s: float, interval_s: float
) -> None:
    """Bytes of a look, spread over the pause after it."""
    probe = MemoryLinkProbe(bandwidth_bytes_per_s=bandwidth_bytes_per_s)
    watch = LinkWatch(probe, interval_s=interval_s)
    for _ in range(12):
        before_bytes = watch.counters.sent_bytes
        pause_s = watch.look()
        spent_bytes = watch.counters.sent_bytes - before_bytes
        assert spent_bytes <= 0.005 * bandwidth_bytes_per_s * pause_s * 1.0001
        assert pause_s >= interval_s
    longest_s = max(probe.looks[1:]) / bandwidth_bytes_per_s
    assert longest_s <= max(0.1, 12_000 / bandwidth_bytes_per_s) * 1.0001, "nobody waits long"


def test_a_train_that_tells_nothing_is_followed_by_a_longer_one() -> None:
    """It fitted into a shaper's token bucket, or the sender is slower than the link."""
    probe = MemoryLinkProbe(bandwidth_bytes_per_s=0.0)
    watch = LinkWatch(probe)
    for _ in range(3):
        watch.look()
    assert probe.looks == [12_000, 24_000, 48_000]
    assert watch.profile is None
    assert watch.counters.untold == 3
    probe.bandwidth_bytes_per_s = 1.25e6
    for _ in range(3):
        watch.look()
    assert probe.looks[3:] == [96_000] * 3, "what told once stays, the pauses grow instead"
    assert watch.look() == pytest.approx(96_460 / (0.005 * 1.25e6))
    for _ in range(20):
        probe.bandwidth_bytes_per_s = 0.0
        watch.look()
    assert max(probe.looks) <= 0.1 * 1.25e6


def test_a_train_shrinks_with_the_link() -> None:
    """A train sized for a gigabit would block a slow link for seconds."""
    probe = MemoryLinkProbe(bandwidth_bytes_per_s=125e6)
    watch = LinkWatch(probe)
    for _ in range(8):
        watch.look()
    assert probe.looks[-1] > 1e6
    probe.bandwidth_bytes_per_s = 1.25e6
    watch.look()
    watch.look()
    assert probe.looks[-1] <= 125_000


def test_a_lost_link_is_counted_and_the_last_profile_kept() -> None:
    """The controller decides what silence means; the watch says how long it has lasted."""
    probe = MemoryLinkProbe(bandwidth_bytes_per_s=12e6)
    watch = LinkWatch(probe, interval_s=3.0)
    watch.look()
    known = watch.profile
    probe.is_up = False
    assert [watch.look() for _ in range(4)] == [3.0] * 4
    assert watch.profile is known
    assert (watch.counters.failures, watch.counters.failures_in_a_row) == (4, 4)
    assert "cannot reach" in watch.counters.last_error
    probe.is_up = True
    watch.look()
    assert (watch.counters.failures, watch.counters.failures_in_a_row) == (4, 0)


def test_all_echoes_lost_is_loss_and_no_crash() -> None:
    probe = MemoryLinkProbe(bandwidth_bytes_per_s=12e6)
    probe.lost_count = 5
    watch = LinkWatch(probe)
    watch.look()
    assert watch.profile is None
    probe.lost_count = 0
    watch.look()
    assert watch.profile is not None
    assert 0 < watch.profile.rtt_p50_s <= watch.profile.rtt_p99_s


def test_its_thread_looks_again_and_again_and_stops_at_once() -> None:
    probe = MemoryLinkProbe(bandwidth_bytes_per_s=1e9)
    profiles: list[LinkProfile | None] = []
    seen = threading.Event()

    def on_look(profile: LinkProfile | None) -> None:
        profiles.append(profile)
        if len(profiles) == 3:
            seen.set()

    watch = LinkWatch(probe, interval_s=0.01, on_look=on_look)
    watch.start()
    assert seen.wait(10)
    watch.close()
    assert not any(thread.name == "link-watch" for thread in threading.enumerate())
    assert None not in profiles
    watch.close()


def test_it_stops_in_the_middle_of_a_long_pause() -> None:
    probe = MemoryLinkProbe(bandwidth_bytes_per_s=1e4)
    watch = LinkWatch(probe, interval_s=3600.0)
    watch.start()
    assert probe.looked.wait(10)
    watch.close()
    assert not any(thread.name == "link-watch" for thread in threading.enumerate())


def test_a_look_under_way_does_not_hold_up_close() -> None:
    """A lost link takes seconds to time out; the agent must not wait for it."""
    released = threading.Event()
    probe = MemoryLinkProbe(bandwidth_bytes_per_s=1e6)
    plain = probe.look

    def slow(*, train_bytes: int) -> LinkSample:
        sample = plain(train_bytes=train_bytes)
        released.wait(30)
        return sample

    probe.look = slow  # type: ignore[method-assign]
    watch = LinkWatch(probe)
    watch.start()
    assert probe.looked.wait(10)
    watch.close()
    released.set()


def test_a_watch_that_was_never_started_can_be_closed() -> None:
    LinkWatch(MemoryLinkProbe(bandwidth_bytes_per_s=1e6)).close()


@pytest.mark.parametrize("options", [{"interval_s": 0.0}, {"share": 0.0}, {"share": 0.5}])
def test_settings_that_would_flood_the_link_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        LinkWatch(MemoryLinkProbe(bandwidth_bytes_per_s=1e6), **options)


def test_a_link_that_the_stream_fills_gets_no_train_but_every_sixth_look() -> None:
    """A train would delay frames; none at all would never find out that the link became slower."""
    probe = MemoryLinkProbe(bandwidth_bytes_per_s=12e6)
    carried_bytes = [0]
    watch = LinkWatch(probe, carried_bytes=lambda: carried_bytes[0])
    watch.look()  # the bandwidth must be known first
    for _ in range(12):
        carried_bytes[0] += 10**9
        watch.look()
    assert [bool(train_bytes) for train_bytes in probe.looks] == [True, *2 * [*5 * [False], True]]
    assert (watch.counters.trainless, watch.counters.untold) == (10, 0)
    watch.look()  # the stream has stopped
    assert probe.looks[-1] > 0


def test_telemetry_says_what_is_known_and_how_old_it_is() -> None:
    """Nothing yet; round trips alone; all; and the reason while the link is lost."""
    probe = MemoryLinkProbe(bandwidth_bytes_per_s=0.0, rtt_s=0.002)
    watch = LinkWatch(probe)
    known = watch.telemetry()
    assert known.target == "there"
    assert (known.rtt_p50_s, known.bandwidth_bytes_per_s, known.age_s) == (None, None, None)
    watch.look()
    known = watch.telemetry()
    assert (known.rtt_p50_s, known.rtt_p99_s, known.loss) == pytest.approx((0.002, 0.002, 0.0))
    assert known.bandwidth_bytes_per_s is None and known.age_s is not None
    probe.bandwidth_bytes_per_s = 12e6
    watch.look()
    known = watch.telemetry()
    assert known.bandwidth_bytes_per_s == pytest.approx(12e6)
    assert known.bandwidth_age_s is not None and not known.problem
    probe.is_up = False
    watch.look()
    lost = watch.telemetry()
    assert lost.bandwidth_bytes_per_s == known.bandwidth_bytes_per_s
    assert "no reply" in lost.problem
