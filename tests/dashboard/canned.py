"""Messages as agents send them, for tests that drive the fold by hand."""

import json

from fake_fleet import announcement, two_device_plan

from edgekit.dashboard.alerts import Link
from edgekit.dashboard.state import FleetView
from edgekit.spec.base import to_json
from edgekit.spec.messages import (
    AnswerReport,
    Detection,
    DeviceStatus,
    HopTime,
    Preview,
    Quantiles,
    StageTime,
    StreamTelemetry,
    Telemetry,
)
from edgekit.spec.topics import Topics

FLEET = "yard"
TOPICS = Topics(fleet=FLEET)
PLAN = two_device_plan()
DEPLOYMENT = announcement(PLAN).manifest.deployment_id
CONNECTED = Link(url="mqtt://broker:1883", state="connected", since_s=0.0)
JPEG = b"\xff\xd8\xff\xe0 not really a picture"


def counts(captured, answered, dropped=None, in_flight=0, **more):
    """The accounts of stream "main"."""
    fields = {
        "stream": "main",
        "source": "scene:yard",
        "fps": 20.0,
        "latency_ms": Quantiles(p50=50.0, p95=60.0, p99=70.0),
        **more,
    }
    return StreamTelemetry(
        frames_captured=captured,
        frames_answered=answered,
        frames_dropped=dropped or {},
        frames_in_flight=in_flight,
        **fields,
    )


def telemetry(device="edge-a", *, run="run-1", sequence=1, state="serving", epoch=1, **more):
    fields = {"deployment": DEPLOYMENT, "shard": 0 if device == "edge-a" else 1, **more}
    return Telemetry(device=device, run=run, sequence=sequence, state=state, epoch=epoch, **fields)


def status(device="edge-a", state="serving", **more):
    return DeviceStatus(device=device, state=state, deployment=DEPLOYMENT, epoch=1, **more)


def report(frame=0, age_ms=50.0, stages=(20.0, 15.0), hop_ms=5.0, stream="main"):
    return AnswerReport(
        stream=stream,
        run="run-1",
        frame=frame,
        detections=(Detection(label="person", score=0.9, box=(1.0, 2.0, 30.0, 40.0)),),
        captured_unix_s=1.7e9,
        age_ms=age_ms,
        stages=(
            StageTime(device="edge-a", shard=0, ms=stages[0]),
            StageTime(device="edge-b", shard=1, ms=stages[1]),
        ),
        hops=(HopTime(source="edge-a", target="edge-b", bytes=519_168, ms=hop_ms),),
    )


def preview(frame=0, jpeg=JPEG, width_px=640, height_px=400):
    return Preview(
        stream="main",
        frame=frame,
        width_px=width_px,
        height_px=height_px,
        jpeg=jpeg,
        detections=(),
    )


def tell(view: FleetView, message, now_s: float) -> None:
    """Apply ``message`` under the topic where it belongs."""
    topic = {
        DeviceStatus: lambda: TOPICS.status(message.device),
        Telemetry: lambda: TOPICS.telemetry(message.device),
        AnswerReport: lambda: TOPICS.detections(message.stream),
        Preview: lambda: TOPICS.preview(message.stream),
    }[type(message)]()
    view.apply(topic, to_json(message, indent=0), now_s)


def announce(view: FleetView, plan=PLAN, now_s=0.0) -> str:
    message = announcement(plan)
    deployment = message.manifest.deployment_id
    view.apply(TOPICS.deployment(deployment), to_json(message), now_s)
    return deployment


def healthy_view(now_s: float = 10.0) -> FleetView:
    """Two devices that serve, telemetry just heard, five seconds of answers at 20 a second."""
    view = FleetView(FLEET)
    announce(view)
    for device in ("edge-a", "edge-b"):
        tell(view, status(device, agent_version="0.1.0"), now_s - 9)
    for frame in range(100):
        tell(view, report(frame), now_s - 5 + 0.05 * frame)
    tell(view, telemetry("edge-b", frames_in=100), now_s)
    tell(
        view, telemetry(hop_state="connected", stream=counts(103, 100, {"superseded": 2}, 1)), now_s
    )
    return view


def edited(message, **fields) -> bytes:
    """The JSON of ``message`` with some fields replaced, valid or not."""
    return json.dumps({**json.loads(to_json(message)), **fields}).encode()
