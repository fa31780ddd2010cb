"""Collect the answers of one stream and sum up what happened to its frames.

In: AnswerReports and the source device's telemetry over MQTT.
Out: every report in order of arrival, and a Summary whose counts add up.
"""

import threading
from collections import Counter
from collections.abc import Callable
from statistics import median

from edgekit.spec.base import Spec, parse_json
from edgekit.spec.messages import (
    AnswerReport,
    HopTime,
    Quantiles,
    StageTime,
    StreamTelemetry,
    Telemetry,
    parse_answers,
)
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt_port import MqttPort


class Summary(Spec, frozen=True, kw_only=True):
    """What became of a stream; the JSON of ``edgekit demo --json``."""

    frames_captured: int
    frames_answered: int
    frames_dropped: dict[str, int]
    fps: float
    latency_ms: Quantiles
    stages: tuple[StageTime, ...]
    hops: tuple[HopTime, ...]
    cut: tuple[tuple[str, ...], ...]
    """Names of the tensors that cross each border; empty for an unsplit model."""
    model: str
    source: str


class StreamCollector:
    """Listens to one stream from now on. Thread-safe."""

    def __init__(
        self,
        mqtt: MqttPort,
        topics: Topics,
        *,
        stream: str,
        on_report: Callable[[AnswerReport], None] = lambda report: None,
    ) -> None:
        self._stream, self._on_report = stream, on_report
        self._changed = threading.Condition()
        self._reports: list[AnswerReport] = []
        self._count_of: Counter[str] = Counter()
        self._runs: dict[str, StreamTelemetry] = {}
        mqtt.subscribe(topics.detections(stream), self._on_answer)
        mqtt.subscribe(topics.telemetry("+"), self._on_telemetry, qos=0)

    @property
    def answered_count(self) -> int:
        """Answers received so far."""
        with self._changed:
            return len(self._reports)

    def latest(self) -> StreamTelemetry | None:
        """The newest accounts of the stream."""
        with self._changed:
            return next(reversed(self._runs.values()), None)

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait until the source has ended and every answer of its last run arrived here."""
        with self._changed:
            return self._changed.wait_for(self._has_ended, timeout_s)

    def summary(self, *, cut: tuple[tuple[str, ...], ...], model: str, source: str) -> Summary:
        """Sum up over all runs of the source agent."""
        with self._changed:
            reports, runs = list(self._reports), list(self._runs.values())
        dropped: dict[str, int] = {}
        for index, accounts in enumerate(runs):
            for reason, count in accounts.frames_dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
            if index < len(runs) - 1 and accounts.frames_in_flight:
                lost = dropped.get("agent_restarted", 0) + accounts.frames_in_flight
                dropped["agent_restarted"] = lost
        return Summary(
            frames_captured=sum(accounts.frames_captured for accounts in runs),
            frames_answered=sum(accounts.frames_answered for accounts in runs),
            frames_dropped=dropped,
            fps=_fps(reports),
            latency_ms=Quantiles.of(report.age_ms for report in reports),
            stages=_median_stages(reports),
            hops=_median_hops(reports),
            cut=cut,
            model=model,
            source=source,
        )

    def _has_ended(self) -> bool:
        run, accounts = next(reversed(self._runs.items()), ("", None))
        if accounts is None or not accounts.ended:
            return False
        return self._count_of[run] >= accounts.frames_answered

    def _on_answer(self, topic: str, payload: bytes) -> None:
        reports = parse_answers(payload, origin=topic)
        for report in reports:
            self._on_report(report)
        with self._changed:
            self._reports += reports
            self._count_of.update(report.run for report in reports)
            self._changed.notify_all()

    def _on_telemetry(self, topic: str, payload: bytes) -> None:
        telemetry = parse_json(payload, Telemetry, origin=topic)
        if telemetry.stream is None or telemetry.stream.stream != self._stream:
            return
        with self._changed:
            self._runs[telemetry.run] = telemetry.stream
            self._changed.notify_all()


def _fps(reports: list[AnswerReport]) -> float:
    """Answers per second between the first and the last answer, by the source's clock."""
    moments_s = [report.captured_unix_s + report.age_ms / 1e3 for report in reports]
    if len(moments_s) < 2 or max(moments_s) <= min(moments_s):
        return 0.0
    return round((len(moments_s) - 1) / (max(moments_s) - min(moments_s)), 2)


def _median_stages(reports: list[AnswerReport]) -> tuple[StageTime, ...]:
    times: dict[tuple[int, str], list[float]] = {}
    for report in reports:
        for stage in report.stages:
            times.setdefault((stage.shard, stage.device), []).append(stage.ms)
    return tuple(
        StageTime(device=device, shard=shard, ms=round(median(values), 3))
        for (shard, device), values in sorted(times.items())
    )


def _median_hops(reports: list[AnswerReport]) -> tuple[HopTime, ...]:
    """One for each way between two devices: a codec that packs sends other bytes every time."""
    hops: dict[tuple[str, str], list[HopTime]] = {}
    for report in reports:
        for hop in report.hops:
            hops.setdefault((hop.source, hop.target), []).append(hop)
    return tuple(
        HopTime(
            source=source,
            target=target,
            bytes=round(median(hop.bytes for hop in found)),
            ms=round(median(hop.ms for hop in found), 3),
            encode_ms=round(median(hop.encode_ms for hop in found), 3),
            decode_ms=round(median(hop.decode_ms for hop in found), 3),
        )
        for (source, target), found in hops.items()
    )
