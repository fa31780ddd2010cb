"""What the page shows at one moment: one frozen value, derived from a FleetView.

In: a FleetView, the state of our broker connection, the moment.  Out: Snapshot.
Pure.  Called by feed, once for all browsers.
"""

from dataclasses import dataclass

from edgekit.dashboard.accounts import Accounts
from edgekit.dashboard.alerts import Alert, Link, Tone, find_alerts
from edgekit.dashboard.fleet_rows import DeviceRow, device_rows
from edgekit.dashboard.model_strip import ModelStrip, model_strip
from edgekit.dashboard.state import FleetView, StreamView
from edgekit.dashboard.timeline import Timeline, timeline
from edgekit.dashboard.window import TrendPoint
from edgekit.spec.messages import Quantiles
from edgekit.spec.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSnapshot:
    """One stream."""

    name: str
    source: str
    source_device: str
    size_px: tuple[int, int]
    """Width and height of the source's frames; zeros until known."""
    has_ended: bool
    answers_per_s: float
    latency_ms: Quantiles | None
    """None while nothing was answered lately."""
    age_s: float | None
    """Of the newest answer; None before the first."""
    accounts: Accounts
    timeline: Timeline | None
    trend: tuple[TrendPoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything but the pictures."""

    fleet: str
    tone: Tone
    word: str
    """The state of the fleet in one word."""
    sentence: str
    """And in one sentence."""
    alerts: tuple[Alert, ...]
    streams: tuple[StreamSnapshot, ...]
    devices: tuple[DeviceRow, ...]
    strip: ModelStrip | None
    malformed_count: int
    malformed_last: str

    def stream(self, name: str) -> StreamSnapshot | None:
        """The stream of this name, else the first one, else None."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        return self.streams[0] if self.streams else None


def take_snapshot(view: FleetView, link: Link, now_s: float) -> Snapshot:
    """Derive what the page shows at ``now_s``, on the clock that ``view`` was fed with."""
    deployment = current_deployment(view)
    plan = view.deployments[deployment].announcement.plan if deployment else None
    alerts = find_alerts(view, plan, link, now_s)
    # Streams with a known source first: a viewer who did not choose wants to see one that lives.
    order = sorted(
        view.streams.values(), key=lambda stream: (not stream.source_device, stream.name)
    )
    streams = tuple(_stream(stream, plan, now_s) for stream in order)
    devices = device_rows(view, plan, link, now_s)
    tone, word, sentence = _state(view, plan, alerts, streams, devices)
    return Snapshot(
        fleet=view.fleet,
        tone=tone,
        word=word,
        sentence=sentence,
        alerts=alerts,
        streams=streams,
        devices=devices,
        strip=model_strip(plan, deployment, devices) if plan is not None else None,
        malformed_count=view.malformed_count,
        malformed_last=view.malformed_last,
    )


def current_deployment(view: FleetView) -> str:
    """Id of the deployment that devices serve with the highest epoch, else of the newest one
    announced; empty if none is known."""
    served = [
        (said.epoch, said.deployment)
        for device in view.devices.values()
        for said in (device.telemetry, device.status)
        if said is not None and said.deployment in view.deployments
    ]
    if served:
        return max(served)[1]
    heard = [(deployment.heard_s, name) for name, deployment in view.deployments.items()]
    return max(heard)[1] if heard else ""


def _stream(stream: StreamView, plan: Plan | None, now_s: float) -> StreamSnapshot:
    said, path = stream.telemetry, stream.answers.path(now_s)
    return StreamSnapshot(
        name=stream.name,
        source=said.source if said is not None else "",
        source_device=stream.source_device,
        size_px=(said.width_px, said.height_px) if said is not None else (0, 0),
        has_ended=said is not None and said.ended,
        answers_per_s=stream.answers.rate_per_s(now_s),
        latency_ms=stream.answers.latency_ms(now_s),
        age_s=stream.answers.age_s(now_s),
        accounts=stream.accounts.total(),
        timeline=timeline(path, plan) if path is not None else None,
        trend=stream.answers.trend(now_s),
    )


def _state(
    view: FleetView,
    plan: Plan | None,
    alerts: tuple[Alert, ...],
    streams: tuple[StreamSnapshot, ...],
    devices: tuple[DeviceRow, ...],
) -> tuple[Tone, str, str]:
    if alerts:
        word = "Down" if alerts[0].tone == "red" else "Degraded"
        return alerts[0].tone, word, alerts[0].what
    online = [row for row in devices if row.state not in ("offline", "never heard")]
    if not online:
        hint = "start one with `edgekit agent --config agent.toml`"
        return "amber", "Waiting", f"No agent of fleet {view.fleet} is online; {hint}"
    preparing = [row for row in online if row.state in ("preparing", "ready")]
    if preparing:
        names = ", ".join(row.name for row in preparing)
        return "amber", "Preparing", f"The model is on its way to {names}"
    serving = [row.name for row in online if row.state == "serving"]
    if not serving or plan is None:
        verb = "device is" if len(online) == 1 else "devices are"
        hint = "give them work with `edgekit deploy BUNDLE`"
        return "amber", "Idle", f"{len(online)} {verb} online and none serves; {hint}"
    if streams and all(stream.has_ended for stream in streams):
        count = sum(stream.accounts.captured_count for stream in streams)
        return "green", "Ended", f"The source has ended and all {count} frames are accounted for"
    return "green", "Live", _live(serving, plan, streams)


def _live(serving: list[str], plan: Plan, streams: tuple[StreamSnapshot, ...]) -> str:
    who = f"{len(serving)} devices serve" if len(serving) > 1 else f"{serving[0]} serves"
    rate = sum(stream.answers_per_s for stream in streams)
    return f"{who} {plan.model} with {rate:.1f} answers/s"
