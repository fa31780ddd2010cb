"""Keep an eye on one link in the background, at a cost that nobody notices.

In: a LinkProbe.  Out: a LinkProfile of the direction from here to there, smoothed, always at hand.

It spends at most 0.5 % of the link: a look that cost more bytes is followed by a longer pause. At
5 s between looks that is a train of 25 ms on any link. A train too short to tell (it fitted into a
shaper's token bucket) is followed by a longer one, more rarely.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from edgekit.errors import ConfigError, EdgeKitError
from edgekit.spec.messages import Quantiles
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


@dataclass(slots=True)
class WatchCounters:
    """Running totals of one watch."""

    looks: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    """0 while the link answers: a controller that sees 3 had better do without the link."""
    untold: int = 0
    """Looks that gave round trips, but no bandwidth."""
    sent_bytes: int = 0
    last_error: str = ""


class LinkWatch:
    """Looks at a link every ``interval_s`` or more rarely, on a thread of its own.

    ``start`` begins, ``close`` ends; in between ``profile`` is the newest knowledge, or None while
    there is none. It keeps the last profile while the link is lost: ``counters`` tell. ``on_look``
    is called on the watch's thread after every look that did not fail.
    """

    def __init__(
        self,
        probe: LinkProbe,
        *,
        interval_s: float = 5.0,
        share: float = _SHARE,
        on_look: Callable[[LinkProfile | None], None] = lambda profile: None,
    ) -> None:
        if not (interval_s > 0 and 0 < share <= 0.1):
            raise ConfigError(
                f"interval_s {interval_s} and share {share} do not fit",
                hint=f"use 5 s and {_SHARE}",
            )
        self._probe, self._interval_s, self._share = probe, interval_s, share
        self._on_look = on_look
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

    def _run(self) -> None:
        pause_s = 0.0
        while not self._closing.wait(pause_s):
            pause_s = self.look()

    def look(self) -> float:
        """Look once, now. Returns how long to pause before the next look [s].

        For the watch's own thread, and for tests that have no time to wait.
        """
        counters = self.counters
        counters.looks += 1
        try:
            sample = self._probe.look(train_bytes=self._train_bytes)
        except EdgeKitError as error:
            counters.failures += 1
            counters.failures_in_a_row += 1
            if error.what != counters.last_error:  # the same again is not news
                _log.info("link watch: %s", error.what)
            counters.last_error = error.what
            return self._interval_s
        counters.failures_in_a_row = 0
        counters.sent_bytes += sample.sent_bytes
        self._fold(sample)
        self._size_next(sample)
        self._on_look(self._profile)
        rate = self._bandwidth_bytes_per_s or _ASSUMED_BYTES_PER_S
        return max(self._interval_s, sample.sent_bytes / (self._share * rate))

    def _fold(self, sample: LinkSample) -> None:
        """Move the averages towards the sample."""
        is_first = not self._trips_s
        if sample.round_trips_s:
            self._trips_s.extend(sample.round_trips_s)
            self._rtt_s = _moved(self._rtt_s, median(sample.round_trips_s), is_first)
        loss = 1 - len(sample.round_trips_s) / sample.echo_count
        self._loss = _moved(self._loss, loss, is_first)
        if not sample.bandwidth_bytes_per_s:
            self.counters.untold += 1
        else:
            rate = self._bandwidth_bytes_per_s
            self._bandwidth_bytes_per_s = _moved(rate, sample.bandwidth_bytes_per_s, not rate)
        if self._bandwidth_bytes_per_s and self._trips_s:
            source, target = self._probe.ends
            p99_s = Quantiles.of(1e3 * trip_s for trip_s in self._trips_s).p99 / 1e3
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


def _moved(average: float, newest: float, is_first: bool) -> float:
    return newest if is_first else average + _WEIGHT * (newest - average)
