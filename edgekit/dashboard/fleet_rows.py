"""The list of devices: one row each, in the order frames visit them.

In: a FleetView and its plan.  Out: DeviceRows.
Pure.  Called by snapshot.
"""

from dataclasses import dataclass

from edgekit.dashboard.alerts import Link, Tone, is_silent, say_duration
from edgekit.dashboard.state import DeviceView, FleetView
from edgekit.spec.messages import EngineTelemetry
from edgekit.spec.plan import Plan
from edgekit.units import format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """One device, in words."""

    name: str
    color: int | None
    """Its place in the plan; None if it is not in it."""
    tone: Tone
    state: str
    role: str
    facts: tuple[tuple[str, str], ...]
    """Label and value, ready to print."""


def device_rows(
    view: FleetView, plan: Plan | None, link: Link, now_s: float
) -> tuple[DeviceRow, ...]:
    """Devices of the plan in its order, then all others by name."""
    planned = [placement.device for placement in plan.placements] if plan is not None else []
    others = sorted(set(view.devices) - set(planned))
    return tuple(_row(view.devices.get(name), name, plan, link, now_s) for name in planned + others)


def _row(
    device: DeviceView | None, name: str, plan: Plan | None, link: Link, now_s: float
) -> DeviceRow:
    stage = plan.stage_of(name) if plan is not None else None
    state = _state_of(device)
    silent = device is not None and is_silent(device, link, now_s)
    return DeviceRow(
        name=name,
        color=stage,
        tone=_tone(state, is_planned=stage is not None, is_silent=silent),
        state=state,
        role=_role(stage, plan),
        facts=tuple(_facts(device, now_s)) if device is not None else (),
    )


def _state_of(device: DeviceView | None) -> str:
    """The state by status, which is retained and survives a lost telemetry message."""
    if device is None:
        return "never heard"
    if device.status is not None:
        return device.status.state
    return device.telemetry.state if device.telemetry is not None else "never heard"


def _tone(state: str, *, is_planned: bool, is_silent: bool) -> Tone:
    if state == "failed" or (is_planned and state in ("offline", "never heard")):
        return "red"
    if state in ("offline", "never heard"):
        return "grey"
    if is_silent or state in ("preparing", "ready") or (is_planned and state != "serving"):
        return "amber"
    return "green"


def _role(stage: int | None, plan: Plan | None) -> str:
    if stage is None or plan is None:
        return "no shard"
    return f"shard {stage + 1} of {len(plan.placements)}"


def _facts(device: DeviceView, now_s: float) -> list[tuple[str, str]]:
    facts = []
    telemetry = device.telemetry
    if device.status is not None and device.status.agent_version:
        facts.append(("agent", device.status.agent_version))
    if telemetry is None:
        return facts
    if telemetry.rss_bytes > 0:
        facts.append(("memory", format_bytes(telemetry.rss_bytes)))
    if device.is_offline or device.telemetry_heard_s is None:
        heard_s = device.telemetry_heard_s
        return (
            facts if heard_s is None else [("last heard", f"{say_duration(now_s - heard_s)} ago")]
        )
    if telemetry.shard is not None:
        facts.append(("busy", f"{100 * min(max(telemetry.utilization, 0.0), 1.0):.0f} %"))
    if telemetry.runs_on:
        facts.append(("runs on", telemetry.runs_on))
    if telemetry.engine is not None and telemetry.engine.state != "serving":
        facts.append(("engine", _say_engine(telemetry.engine)))
    total_bytes = telemetry.download_total_bytes
    if telemetry.state == "preparing" and total_bytes > 0:
        done_bytes = min(max(telemetry.download_done_bytes, 0), total_bytes)
        facts.append(("download", f"{100 * done_bytes / total_bytes:.0f} %"))
    return facts


def _say_engine(engine: EngineTelemetry) -> str:
    """How far it is; why there is none stands among the alerts."""
    if engine.state == "failed":
        return "none"
    if engine.state == "building" and engine.share is not None:
        return f"building {100 * min(max(engine.share, 0.0), 1.0):.0f} %"
    return f"{engine.state}, {say_duration(engine.elapsed_s)}"
