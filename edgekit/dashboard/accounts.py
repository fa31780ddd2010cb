"""What became of the frames of one stream, also across restarts of the agent that films it.

In: the source device's Telemetry, in order of arrival.  Out: Accounts that always add up.
Pure: no clock, no network.  Called by state.

The counts in StreamTelemetry begin again with every run of the agent and with every deployment
(epoch). Each such segment is kept by itself and the view shows their sum. A frame that was in
flight when its segment ended was never heard of again: it is counted as dropped, so that
captured = answered + dropped + in flight holds in the sum as it does in every message.
"""

from collections import Counter
from dataclasses import dataclass, field

from edgekit.spec.messages import StreamTelemetry, Telemetry

AGENT_RESTARTED = "agent_restarted"
"""Reason for frames that were in flight when the source's agent died."""
STOPPED = "stopped"
"""Reason for frames that were in flight when a living agent stopped this pipeline."""

_SEGMENTS_KEPT = 32
"""Older segments are merged into one sum; only these may still be corrected by late telemetry."""

_Key = tuple[str, str, int]
"""Device, run of its agent, epoch of the deployment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """captured_count = answered_count + sum(dropped) + in_flight_count."""

    captured_count: int = 0
    answered_count: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Frames by reason, the most frequent reason first."""
    in_flight_count: int = 0

    @property
    def dropped_count(self) -> int:
        """Frames that got no answer, whatever the reason."""
        return sum(self.dropped.values())


def adds_up(stream: StreamTelemetry) -> bool:
    """Whether the counts of one message are possible and complete."""
    dropped = stream.frames_dropped.values()
    counts = (stream.frames_captured, stream.frames_answered, stream.frames_in_flight, *dropped)
    total = stream.frames_answered + stream.frames_in_flight + sum(dropped)
    return min(counts) >= 0 and total == stream.frames_captured


@dataclass(slots=True)
class _Segment:
    """The newest accounts of one run and epoch."""

    stream: StreamTelemetry
    sequence: int
    ended_as: str = ""
    """Reason for what was in flight at its end; empty while it goes on."""


class StreamAccounts:
    """The fold: hear telemetry, tell the sum."""

    def __init__(self) -> None:
        self._segments: dict[_Key, _Segment] = {}
        self._settled = Accounts()

    def hear(self, telemetry: Telemetry) -> None:
        """Take in one message of a device that owns, or owned, this stream's source."""
        key = (telemetry.device, telemetry.run, telemetry.epoch)
        stream = telemetry.stream
        if stream is None:
            self._end_others(key, also_this=True)
            return
        segment = self._segments.get(key)
        if segment is None:
            self._end_others(key, also_this=False)
            self._segments[key] = _Segment(stream, telemetry.sequence)
            self._settle_oldest()
            return
        if telemetry.sequence <= segment.sequence:
            return
        if _has_begun_again(segment.stream, stream):
            segment.ended_as = segment.ended_as or STOPPED
            self._settle(segment)
        if key == self._newest_of(telemetry.device):
            segment.ended_as = ""
        segment.stream, segment.sequence = stream, telemetry.sequence

    def total(self) -> Accounts:
        """The sum over every segment."""
        total = self._settled
        for segment in self._segments.values():
            total = _sum(total, _accounts_of(segment))
        dropped = dict(sorted(total.dropped.items(), key=lambda item: (-item[1], item[0])))
        return Accounts(
            captured_count=total.captured_count,
            answered_count=total.answered_count,
            dropped=dropped,
            in_flight_count=total.in_flight_count,
        )

    def _end_others(self, key: _Key, *, also_this: bool) -> None:
        """End what this device did before; its run tells whether the agent lived on."""
        device, run, _ = key
        for other, segment in self._segments.items():
            if other[0] == device and not segment.ended_as and (also_this or other != key):
                segment.ended_as = STOPPED if other[1] == run else AGENT_RESTARTED

    def _newest_of(self, device: str) -> _Key:
        return next(key for key in reversed(self._segments) if key[0] == device)

    def _settle_oldest(self) -> None:
        while len(self._segments) > _SEGMENTS_KEPT:
            segment = self._segments.pop(next(iter(self._segments)))
            segment.ended_as = segment.ended_as or STOPPED
            self._settle(segment)

    def _settle(self, segment: _Segment) -> None:
        self._settled = _sum(self._settled, _accounts_of(segment))


def _has_begun_again(before: StreamTelemetry, now: StreamTelemetry) -> bool:
    """Counts only grow; where one shrank, another pipeline counts."""
    return (
        now.frames_captured < before.frames_captured
        or now.frames_answered < before.frames_answered
        or any(
            now.frames_dropped.get(reason, 0) < count
            for reason, count in before.frames_dropped.items()
        )
    )


def _accounts_of(segment: _Segment) -> Accounts:
    stream = segment.stream
    dropped = {reason: count for reason, count in stream.frames_dropped.items() if count}
    in_flight_count = stream.frames_in_flight
    if segment.ended_as and in_flight_count:
        dropped[segment.ended_as] = dropped.get(segment.ended_as, 0) + in_flight_count
        in_flight_count = 0
    return Accounts(
        captured_count=stream.frames_captured,
        answered_count=stream.frames_answered,
        dropped=dropped,
        in_flight_count=in_flight_count,
    )


def _sum(one: Accounts, other: Accounts) -> Accounts:
    return Accounts(
        captured_count=one.captured_count + other.captured_count,
        answered_count=one.answered_count + other.answered_count,
        dropped=dict(Counter(one.dropped) + Counter(other.dropped)),
        in_flight_count=one.in_flight_count + other.in_flight_count,
    )
