"""The accounts of one stream: every captured frame ends as answered or as dropped with a reason.

In: events of the capture, inference and answer threads.  Out: a snapshot that always adds up.
Thread-safe; touches no clock of its own: callers pass seconds of one monotonic clock.
"""

import math
import threading
from collections import Counter, deque
from dataclasses import dataclass

from edgekit.spec.messages import Quantiles

_WINDOW_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """captured = answered + sum(dropped) + in_flight."""

    captured: int
    answered: int
    dropped: dict[str, int]
    in_flight: int
    fps: float
    latency_ms: Quantiles
    source_ended: bool

    @property
    def is_closed(self) -> bool:
        """The source has ended and every frame is accounted for."""
        return self.source_ended and self.in_flight == 0


class Ledger:
    """Counts each frame in once and out once, however often a late or repeated answer comes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: set[int] = set()
        self._captured = 0
        self._answered = 0
        self._dropped: Counter[str] = Counter()
        self._recent: deque[tuple[float, float]] = deque()
        self._source_ended = False

    def capture(self, frame: int) -> None:
        """A frame came from the source."""
        with self._changed:
            if frame in self._open:
                raise ValueError(f"frame {frame} is captured twice")
            self._open.add(frame)
            self._captured += 1

    def answer(self, frame: int, *, now_s: float, latency_s: float) -> bool:
        """The frame was answered. False if it had already ended (the answer is a repetition)."""
        with self._changed:
            if frame not in self._open:
                return False
            self._open.remove(frame)
            self._answered += 1
            self._recent.append((now_s, latency_s))
            self._changed.notify_all()
            return True

    def drop(self, frame: int, reason: str) -> bool:
        """The frame will get no answer. False if it had already ended."""
        with self._changed:
            if frame not in self._open:
                return False
            self._open.remove(frame)
            self._dropped[reason] += 1
            self._changed.notify_all()
            return True

    def drop_all(self, reason: str) -> None:
        """Every open frame will get no answer (the pipeline stops)."""
        with self._changed:
            self._dropped[reason] += len(self._open)
            self._open.clear()
            self._changed.notify_all()

    def oldest_open(self) -> float:
        """Number of the oldest frame that has not ended yet; infinite if all have."""
        with self._changed:
            return min(self._open, default=math.inf)

    def end_source(self) -> None:
        """No more frames will be captured."""
        with self._changed:
            self._source_ended = True
            self._changed.notify_all()

    def snapshot(self, now_s: float) -> Accounts:
        """The accounts now; rate and latency over the last five seconds."""
        with self._changed:
            while self._recent and self._recent[0][0] < now_s - _WINDOW_S:
                self._recent.popleft()
            latencies_ms = [1e3 * latency for _, latency in self._recent]
            return Accounts(
                captured=self._captured,
                answered=self._answered,
                dropped=dict(self._dropped),
                in_flight=len(self._open),
                fps=_rate(self._recent),
                latency_ms=Quantiles.of(latencies_ms),
                source_ended=self._source_ended,
            )


def _rate(recent: deque[tuple[float, float]]) -> float:
    """Events per second between the first and the last of the window."""
    if len(recent) < 2 or recent[-1][0] <= recent[0][0]:
        return 0.0
    return (len(recent) - 1) / (recent[-1][0] - recent[0][0])
