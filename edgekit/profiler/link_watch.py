"""Keep an eye on one link in the background, at a cost that nobody notices.

In: a LinkProbe.  Out: a LinkProfile of the direction from here to there, smoothed, always at hand.

Its trains spend at most 0.5 % of the link: a look that cost more bytes is followed by a longer
pause. At 5 s between looks that is a train of 25 ms on any link. A train too short to tell (it
fitted into a shaper's token bucket) is followed by a longer one, more rarely. Until the next train
is paid for there are looks without one, by the same rule: what is said of round trips, of loss and
of a link that is gone is never much older than the interval. At first, while nothing is known, six
trains are free, so that the bandwidth of a new link is known after a minute at the most.

While something else fills more than half of the link, a look is echoes alone: a train would delay
that traffic, and would measure what it leaves over. Every sixth look has its train all the same, so
that a link which became slower, and is full for that reason, is found out.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

import msgspec

from edgekit.errors import ConfigError, EdgeKitError
from edgekit.spec.messages import LinkTelemetry, Quantiles
from edgekit.spec.profile import LinkProfile
from edgekit.transport.probe_port import LinkProbe, LinkSample

_log = logging.getLogger(__name__)

_SHARE = 0.005
_WEIGHT = 0.3
"""Of the newest look in every average."""
_TRIPS_COUNT = 200
_TRAIN_FIRST_BYTES = 12_000
_TRAIN_BLIND_BYTES = 250_000
"""The longest while nothing is known of the link."""
_TRAIN_CAP_S = 0.1
"""The longest otherwise: it delays whatever else wants to cross."""
_GROWTH = 4
_OVERHEAD_BYTES = 2_500
"""What a look costs besides its train, about."""
_ASSUMED_BYTES_PER_S = 1.25e6
"""Until something is known: 10 Mbit/s."""
_FREE_COUNT = 6
"""Trains that may be sent, one an interval, before the first bandwidth is told: 600 kB in all."""
_FULL_SHARE = 0.5
"""Of the known bandwidth: what is more is traffic that a train would get in the way of."""
_TRAINLESS_MAX = 5
"""Looks in a row."""


@dataclass(slots=True)
class WatchCounters:
    """Running totals of one watch."""

    looks: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    """0 while the link answers: a controller that sees 3 had better do without the link."""
    untold: int = 0
    """Trains that told no bandwidth."""
    trainless: int = 0
    """Looks without a train."""
    sent_bytes: int = 0
    last_error: str = ""


class LinkWatch:
    """Looks at a link every ``interval_s`` or more rarely, on a thread of its own.

    ``start`` begins, ``close`` ends; in between ``profile`` is the newest knowledge, or None while
    there is none. It keeps the last profile while the link is lost: ``counters`` tell. ``on_look``
    is called on the watch's thread after every look that did not fail. ``carried_bytes`` tells how
    much other traffic of ours the link has carried since the beginning.
    """

    def __init__(
        self,
        probe: LinkProbe,
        *,
        interval_s: float = 5.0,
        share: float = _SHARE,
        on_look: Callable[[LinkProfile | None], None] = lambda profile: None,
        carried_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        if not (interval_s > 0 and 0 < share <= 0.1):
            raise ConfigError(
                f"interval_s {interval_s} and share {share} do not fit",
                hint=f"use 5 s and {_SHARE}",
            )
        self._probe, self._interval_s, self._share = probe, interval_s, share
        self._on_look, self._carried_bytes = on_look, carried_bytes
        self._carried = (time.monotonic(), carried_bytes())
        self._trainless_count = 0
        self._answered_s = self._told_s = 0.0
        """When the last look was answered, when one last told the bandwidth, by this clock."""
        self.counters = WatchCounters()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="link-watch", daemon=True)
        self._train_bytes = self._telling_bytes = _TRAIN_FIRST_BYTES
        self._bandwidth_bytes_per_s = 0.0
        self._rtt_s = self._loss = 0.0
        self._trips_s: deque[float] = deque(maxlen=_TRIPS_COUNT)
        self._profile: LinkProfile | None = None

    def start(self) -> None:
        """Begin; the first look is made at once."""
        self._thread.start()

    def close(self) -> None:
        """Stop for good, within a second; a look under way is left to end by itself."""
        self._closing.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(1.0)

    @property
    def profile(self) -> LinkProfile | None:
        """What is known of the direction from here to there; None before any bandwidth is."""
        return self._profile

    def telemetry(self) -> LinkTelemetry:
        """All that is known now, also where round trips are known, but no bandwidth."""
        now_s = time.monotonic()
        profile, failures = self._profile, self.counters.failures_in_a_row
        known = LinkTelemetry(
            target=self._probe.ends[1], problem=self.counters.last_error if failures else ""
        )
        if not self._answered_s:
            return known
        known = msgspec.structs.replace(
            known, loss=round(self._loss, 4), age_s=round(now_s - self._answered_s, 1)
        )
        trips_s = list(self._trips_s)
        if trips_s:
            p99_s = max(_p99_s(trips_s), self._rtt_s)
            known = msgspec.structs.replace(known, rtt_p50_s=self._rtt_s, rtt_p99_s=p99_s)
        if profile is None:
            return known
        return msgspec.structs.replace(
            known,
            bandwidth_bytes_per_s=round(profile.bandwidth_bytes_per_s),
            bandwidth_age_s=round(now_s - self._told_s, 1),
        )

    def _run(self) -> None:
        pause_s = train_due_s = 0.0
        while not self._closing.wait(pause_s):
            now_s = time.monotonic()
            if now_s >= train_due_s:
                train_due_s = now_s + self.look()
                pause_s = self._interval_s
            else:
                pause_s = self._look(train_bytes=0)

    def look(self) -> float:
        """Look once, now. Returns how long to pause before the next look of this kind [s].

        For the watch's own thread, and for tests that have no time to wait.
        """
        return self._look(train_bytes=0 if self._leaves_train_out() else self._train_bytes)

    def _look(self, *, train_bytes: int) -> float:
        """One look, with a train or without. Returns the pause that it is worth [s]."""
        counters = self.counters
        counters.looks += 1
        try:
            sample = self._probe.look(train_bytes=train_bytes)
        except EdgeKitError as error:
            counters.failures += 1
            counters.failures_in_a_row += 1
            if error.what != counters.last_error:  # the same again is not news
                _log.info("link watch: %s", error.what)
            counters.last_error = error.what
            return self._interval_s
        counters.failures_in_a_row = 0
        counters.sent_bytes += sample.sent_bytes
        self._answered_s = time.monotonic()
        self._fold(sample)
        if train_bytes:
            counters.untold += not sample.bandwidth_bytes_per_s
            self._size_next(sample)
        else:
            counters.trainless += 1
        self._on_look(self._profile)
        if not self._bandwidth_bytes_per_s and counters.untold <= _FREE_COUNT:
            return self._interval_s
        rate = self._bandwidth_bytes_per_s or _ASSUMED_BYTES_PER_S
        return max(self._interval_s, sample.sent_bytes / (self._share * rate))

    def _leaves_train_out(self) -> bool:
        """Whether the link is too full for a train, by what it carried since the last look."""
        now_s, carried_bytes = time.monotonic(), self._carried_bytes()
        before_s, before_bytes = self._carried
        self._carried = (now_s, carried_bytes)
        limit = _FULL_SHARE * self._bandwidth_bytes_per_s
        is_full = 0 < limit * (now_s - before_s) < carried_bytes - before_bytes
        self._trainless_count = self._trainless_count + 1 if is_full else 0
        if self._trainless_count > _TRAINLESS_MAX:
            self._trainless_count = 0
        return self._trainless_count > 0

    def _fold(self, sample: LinkSample) -> None:
        """Move the averages towards the sample."""
        is_first = not self._trips_s
        if sample.round_trips_s:
            self._trips_s.extend(sample.round_trips_s)
            self._rtt_s = _moved(self._rtt_s, median(sample.round_trips_s), is_first)
        loss = 1 - len(sample.round_trips_s) / sample.echo_count
        self._loss = _moved(self._loss, loss, is_first)
        if sample.bandwidth_bytes_per_s:
            self._told_s = time.monotonic()
            rate = self._bandwidth_bytes_per_s
            self._bandwidth_bytes_per_s = _moved(rate, sample.bandwidth_bytes_per_s, not rate)
        if self._bandwidth_bytes_per_s and self._trips_s:
            source, target = self._probe.ends
            p99_s = _p99_s(self._trips_s)
            self._profile = LinkProfile(
                source=source,
                target=target,
                bandwidth_bytes_per_s=self._bandwidth_bytes_per_s,
                rtt_p50_s=self._rtt_s,
                rtt_p99_s=max(p99_s, self._rtt_s),
                loss=self._loss,
                train_bytes_per_s=self._bandwidth_bytes_per_s,
                method="packet trains, watched",
            )

    def _size_next(self, sample: LinkSample) -> None:
        """The next train: all that the budget of one interval allows, longer if that is dumb."""
        rate = sample.bandwidth_bytes_per_s
        if rate:
            budget_bytes = self._share * rate * self._interval_s - _OVERHEAD_BYTES
            wanted = max(self._telling_bytes, min(budget_bytes, _GROWTH * self._train_bytes))
        else:
            wanted = self._telling_bytes = 2 * self._train_bytes
        known = rate or self._bandwidth_bytes_per_s
        longest = _TRAIN_CAP_S * known if known else _TRAIN_BLIND_BYTES
        self._train_bytes = int(max(_TRAIN_FIRST_BYTES, min(wanted, longest)))


def _p99_s(trips_s: Iterable[float]) -> float:
    return Quantiles.of(1e3 * trip_s for trip_s in trips_s).p99 / 1e3


def _moved(average: float, newest: float, is_first: bool) -> float:
    return newest if is_first else average + _WEIGHT * (newest - average)
