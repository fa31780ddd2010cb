"""The answers of one stream over the last moments: how many, how late, where their time went.

In: AnswerReports with the moment they were heard (one monotonic clock of the viewer).
Out: answers per second, latency quantiles, the path of a frame with medians, a minute of trend.
Pure: no clock of its own.  Called by state.  Bounded: it forgets whatever is older than it shows.
"""

from collections import deque
from dataclasses import dataclass
from statistics import median

from edgekit.spec.messages import AnswerReport, HopTime, Quantiles, StageTime

WINDOW_S = 5.0
TREND_COUNT = 60
"""Seconds of trend, one point each."""
_REPORTS_KEPT = 4096
"""Enough for 800 answers a second; at more, the window just gets shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathTimes:
    """Where the time of a frame goes: medians over the window, in the order it travels."""

    stages: tuple[StageTime, ...]
    hops: tuple[HopTime, ...]
    rest_ms: float
    """Age that no stage and no hop accounts for: waiting in queues, decoding, the way back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendPoint:
    """One past second."""

    second: int
    answers_count: int
    p50_ms: float | None
    """None if nothing was answered in this second."""


@dataclass(frozen=True, slots=True)
class _Heard:
    heard_s: float
    report: AnswerReport


class AnswerWindow:
    """The fold: hear reports, tell rates and medians."""

    def __init__(self) -> None:
        self._heard: deque[_Heard] = deque(maxlen=_REPORTS_KEPT)
        self._last: _Heard | None = None
        self._trend: deque[TrendPoint] = deque(maxlen=TREND_COUNT)
        self._second_ages_ms: list[float] = []
        self._second: int | None = None

    def hear(self, report: AnswerReport, now_s: float) -> None:
        """Take in one answer."""
        self._close_seconds(now_s)
        self._last = _Heard(now_s, report)
        self._heard.append(self._last)
        if len(self._second_ages_ms) < _REPORTS_KEPT:
            self._second_ages_ms.append(report.age_ms)

    @property
    def last(self) -> AnswerReport | None:
        """The newest answer, however old."""
        return self._last.report if self._last is not None else None

    def age_s(self, now_s: float) -> float | None:
        """How old the newest answer is now: its age when it was given, and the time since then.

        No clock of another machine is read; the way from the device to here is not in it.
        """
        if self._last is None:
            return None
        return self._last.report.age_ms / 1e3 + self.silent_s(now_s)

    def silent_s(self, now_s: float) -> float:
        """Seconds since the newest answer was heard; 0 before the first."""
        return max(0.0, now_s - self._last.heard_s) if self._last is not None else 0.0

    def rate_per_s(self, now_s: float) -> float:
        """Answers per second over the window; 0 soon after they stop."""
        self._forget(now_s)
        if len(self._heard) < 2:
            return 0.0
        first_s, last_s = self._heard[0].heard_s, self._heard[-1].heard_s
        count = len(self._heard) - 1
        interval_s = (last_s - first_s) / count
        if now_s - last_s > 1.0 + 4 * interval_s:
            return 0.0
        span_s = max(last_s - first_s, now_s - first_s - interval_s)
        return count / span_s if span_s > 0 else 0.0

    def latency_ms(self, now_s: float) -> Quantiles | None:
        """From capture to answer, over the window; None if it is empty."""
        self._forget(now_s)
        if not self._heard:
            return None
        return Quantiles.of(heard.report.age_ms for heard in self._heard)

    def path(self, now_s: float) -> PathTimes | None:
        """Medians over the reports in the window that went the way of the newest one."""
        self._forget(now_s)
        if not self._heard:
            return None
        way = _way(self._heard[-1].report)
        reports = [heard.report for heard in self._heard if _way(heard.report) == way]
        stages = tuple(
            StageTime(
                device=stage.device,
                shard=stage.shard,
                ms=median(report.stages[index].ms for report in reports),
            )
            for index, stage in enumerate(reports[-1].stages)
        )
        hops = tuple(
            HopTime(
                source=hop.source,
                target=hop.target,
                bytes=round(median(report.hops[index].bytes for report in reports)),
                ms=median(report.hops[index].ms for report in reports),
                encode_ms=median(report.hops[index].encode_ms for report in reports),
                decode_ms=median(report.hops[index].decode_ms for report in reports),
            )
            for index, hop in enumerate(reports[-1].hops)
        )
        return PathTimes(stages=stages, hops=hops, rest_ms=median(map(_rest_ms, reports)))

    def trend(self, now_s: float) -> tuple[TrendPoint, ...]:
        """The last full seconds, oldest first; at most ``TREND_COUNT``."""
        self._close_seconds(now_s)
        return tuple(self._trend)

    def _forget(self, now_s: float) -> None:
        while self._heard and self._heard[0].heard_s < now_s - WINDOW_S:
            self._heard.popleft()

    def _close_seconds(self, now_s: float) -> None:
        """Turn every second that is over into a point."""
        second = int(now_s // 1)
        if self._second is None:
            self._second = second
        if second <= self._second:
            return
        ages_ms = self._second_ages_ms
        p50_ms = Quantiles.of(ages_ms).p50 if ages_ms else None
        self._trend.append(
            TrendPoint(second=self._second, answers_count=len(ages_ms), p50_ms=p50_ms)
        )
        first_silent = max(self._second + 1, second - TREND_COUNT)
        self._trend.extend(
            TrendPoint(second=silent, answers_count=0, p50_ms=None)
            for silent in range(first_silent, second)
        )
        self._second, self._second_ages_ms = second, []


def _way(report: AnswerReport) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The devices a frame passed, and the hops it took."""
    return (
        tuple(stage.device for stage in report.stages),
        tuple((hop.source, hop.target) for hop in report.hops),
    )


def _rest_ms(report: AnswerReport) -> float:
    busy_ms = sum(stage.ms for stage in report.stages) + sum(hop.whole_ms for hop in report.hops)
    return max(0.0, report.age_ms - busy_ms)
