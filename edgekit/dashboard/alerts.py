"""What is wrong with a fleet, in sentences, the root cause first.

In: a FleetView, its plan, the state of our own broker connection, the moment.  Out: Alerts.
Pure.  Called by snapshot.

A consequence is not told beside its cause: while a device is offline, the broken hop towards it and
the answers that stay away are not alerts of their own; while we have no broker, nobody is silent.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edgekit.dashboard.state import DeviceView, FleetView, StreamView
from edgekit.spec.plan import Plan

Tone = Literal["green", "amber", "red", "grey"]

SILENCE_LIMIT_S = 1.5
"""Telemetry comes once a second."""
_LONG_SILENCE_S = 5.0
_STALL_LIMIT_S = 3.0
_SAID_MAX = 300
"""Characters of a device's own words that are shown."""
_START_AGENT = "start it again with `edgekit agent --config agent.toml`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Our own connection to the broker."""

    url: str
    state: str
    """ "connected", or what is wrong in one sentence."""
    since_s: float
    """When it came or went."""

    @property
    def is_connected(self) -> bool:
        """Whether messages can reach us."""
        return self.state == "connected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing that is wrong, and what to try."""

    tone: Tone
    subject: str
    """Device, stream or broker."""
    what: str
    hint: str = ""

    @property
    def sentence(self) -> str:
        """Both, in one sentence."""
        return f"{self.what}; {self.hint}" if self.hint else self.what


def find_alerts(view: FleetView, plan: Plan | None, link: Link, now_s: float) -> tuple[Alert, ...]:
    """Everything that is wrong now, red before amber, causes before consequences."""
    if not link.is_connected:
        return (_broker_alert(link, now_s),)
    found = [
        *_offline(view, plan, now_s),
        *_missing(view, plan, link, now_s),
        *_hops(view, plan),
        *_silent(view, plan, link, now_s),
        *_problems(view),
    ]
    if not found:
        found.extend(_degraded(view, now_s))
        found.extend(_stalled(view, link, now_s))
    return tuple(sorted(found, key=lambda alert: alert.tone != "red"))


def say_duration(duration_s: float) -> str:
    """A duration for people who wait: "3 s", "4 min", "2 h"."""
    if duration_s < 120:
        return f"{max(0, int(duration_s))} s"
    if duration_s < 7200:
        return f"{int(duration_s // 60)} min"
    return f"{int(min(duration_s, 1e9) // 3600)} h"


def is_silent(device: DeviceView, link: Link, now_s: float) -> bool:
    """Whether a device that should send telemetry does not."""
    return not device.is_offline and _silence_s(device, link, now_s) > SILENCE_LIMIT_S


def _silence_s(device: DeviceView, link: Link, now_s: float) -> float:
    heard_s = device.telemetry_heard_s
    since_s = device.status_heard_s if heard_s is None else heard_s
    return now_s - max(since_s, link.since_s)


def _broker_alert(link: Link, now_s: float) -> Alert:
    gone = say_duration(now_s - link.since_s)
    return Alert(
        tone="red",
        subject="broker",
        what=f"No connection to the broker {link.url} for {gone}: {link.state}",
        hint="all below is what was last heard; check that the broker runs and can be reached",
    )


def _offline(view: FleetView, plan: Plan | None, now_s: float) -> Iterator[Alert]:
    for device in view.devices.values():
        stage = plan.stage_of(device.name) if plan is not None else None
        if not device.is_offline or device.status is None or plan is None or stage is None:
            continue
        since_s = device.state_since_s
        is_timed = since_s is not None and now_s - since_s >= 1
        gone = f" for {say_duration(now_s - since_s)}" if is_timed and since_s is not None else ""
        said = device.status.problem.removeprefix(f"{device.name} ")[:_SAID_MAX]
        why = said or "its agent was stopped"
        yield Alert(
            tone="red",
            subject=device.name,
            what=f"{device.name} is offline{gone} ({why}), so no frame passes its shard "
            f"{stage + 1} of {len(plan.placements)}",
            hint=_START_AGENT,
        )


def _missing(view: FleetView, plan: Plan | None, link: Link, now_s: float) -> Iterator[Alert]:
    """Devices of the plan that the broker knows nothing of."""
    if plan is None or now_s - link.since_s <= SILENCE_LIMIT_S:
        return
    for placement in plan.placements:
        if placement.device not in view.devices:
            yield Alert(
                tone="red",
                subject=placement.device,
                what=f"{placement.device} belongs to the plan and was never heard",
                hint=_START_AGENT,
            )


def _hops(view: FleetView, plan: Plan | None) -> Iterator[Alert]:
    for device in view.devices.values():
        telemetry = device.telemetry
        if device.is_offline or telemetry is None or telemetry.hop_state in ("", "connected"):
            continue
        target = next_device(plan, device.name)
        peer = view.devices.get(target)
        if peer is not None and peer.is_offline:
            continue
        yield Alert(
            tone="red",
            subject=device.name,
            what=f"The hop {device.name} → {target or 'next device'} is down: "
            f"{telemetry.hop_state[:_SAID_MAX]}",
            hint=f"check that {target or 'it'} serves and that its hop port can be reached",
        )


def next_device(plan: Plan | None, device: str) -> str:
    """Where the hop that leaves ``device`` goes; empty if nobody knows or none leaves."""
    stage = plan.stage_of(device) if plan is not None else None
    if plan is None or stage is None or stage + 1 >= len(plan.placements):
        return ""
    return plan.placements[stage + 1].device


def _silent(view: FleetView, plan: Plan | None, link: Link, now_s: float) -> Iterator[Alert]:
    for device in view.devices.values():
        if not is_silent(device, link, now_s):
            continue
        silence_s = _silence_s(device, link, now_s)
        is_planned = plan is not None and plan.stage_of(device.name) is not None
        yield Alert(
            tone="red" if is_planned and silence_s > _LONG_SILENCE_S else "amber",
            subject=device.name,
            what=f"{device.name} has been silent for {say_duration(silence_s)} although the broker "
            "still holds its connection: it is frozen, overloaded or cut off",
            hint="look at that device, or restart its agent",
        )


def _problems(view: FleetView) -> Iterator[Alert]:
    for device in view.devices.values():
        if device.is_offline:
            continue
        said = list(device.telemetry.problems) if device.telemetry is not None else []
        hop_state = device.telemetry.hop_state if device.telemetry is not None else ""
        if device.status is not None and device.status.problem:
            said.append(device.status.problem)
        has_failed = device.status is not None and device.status.state == "failed"
        for problem in dict.fromkeys(said):
            is_about_hop = hop_state not in ("", "connected") and hop_state in problem
            if not is_about_hop:
                yield Alert(
                    tone="red" if has_failed else "amber",
                    subject=device.name,
                    what=f"{device.name}: {problem[:_SAID_MAX].rstrip('.')}",
                )


def _degraded(view: FleetView, now_s: float) -> Iterator[Alert]:
    for stream in view.streams.values():
        last = stream.answers.last
        if last is not None and last.degraded and stream.answers.silent_s(now_s) < _STALL_LIMIT_S:
            yield Alert(
                tone="amber",
                subject=stream.name,
                what=f"Stream {stream.name} is answered by a part of the model only",
                hint="its answers are marked as degraded until all devices of the plan serve",
            )


def _stalled(view: FleetView, link: Link, now_s: float) -> Iterator[Alert]:
    for stream in view.streams.values():
        silent_s = min(stream.answers.silent_s(now_s), now_s - link.since_s)
        if _should_answer(view, stream) and silent_s > _patience_s(stream):
            yield Alert(
                tone="amber",
                subject=stream.name,
                what=f"Stream {stream.name} has had no answer for {say_duration(silent_s)}",
                hint=f"look at the drops below and at the source on {stream.source_device}",
            )


def _should_answer(view: FleetView, stream: StreamView) -> bool:
    source = view.devices.get(stream.source_device)
    if stream.telemetry is None or stream.telemetry.ended or source is None or source.is_offline:
        return False
    said = source.telemetry
    films_it = said is not None and said.stream is not None and said.stream.stream == stream.name
    return films_it and said is not None and said.state == "serving"


def _patience_s(stream: StreamView) -> float:
    """A slow pipeline answers rarely; that alone is not a fault."""
    last = stream.answers.last
    return max(_STALL_LIMIT_S, 3e-3 * last.age_ms) if last is not None else _STALL_LIMIT_S
