"""A two-device pipeline that exists only on the broker: plausible messages, real last wills.

Used by the tests of the page, and by hand to look at it:

    mosquitto -p 1883 &
    python tests/dashboard/fake_fleet.py mqtt://127.0.0.1:1883 &
    edgekit dashboard --broker mqtt://127.0.0.1:1883 --fleet yard
"""

import math
import secrets
import socket
import sys
import threading
import time
from dataclasses import dataclass, field

import cv2
import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgekit.spec.base import to_json
from edgekit.spec.manifest import FileEntry, Manifest
from edgekit.spec.messages import (
    Announcement,
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
from edgekit.spec.plan import Cut, Placement, Plan
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.topics import Topics
from edgekit.transport.broker_url import parse_broker_url

WIDTH_PX, HEIGHT_PX = 640, 400
IMAGE = TensorSpec(name="images", dtype="float32", shape=(1, 3, 416, 416))
CROSSING = (
    TensorSpec(name="/backbone/dark4/out", dtype="float32", shape=(1, 64, 26, 26)),
    TensorSpec(name="/backbone/dark3/out", dtype="float32", shape=(1, 32, 52, 52)),
)
OUTPUT = TensorSpec(name="output", dtype="float32", shape=(1, 3549, 85))


def two_device_plan(first: str = "edge-a", second: str = "edge-b") -> Plan:
    """A detector cut once, where two tensors cross."""
    return Plan(
        model="yard.onnx",
        model_sha256="0" * 64,
        rule="auto",
        placements=(
            Placement(
                device=first,
                shard="shard-0.onnx",
                inputs=(IMAGE,),
                outputs=CROSSING,
                work_flop=640_000_000,
                weight_bytes=410_000,
            ),
            Placement(
                device=second,
                shard="shard-1.onnx",
                inputs=CROSSING,
                outputs=(OUTPUT,),
                work_flop=440_000_000,
                weight_bytes=3_240_000,
            ),
        ),
        cuts=(Cut(tensors=CROSSING, work_flop_before=640_000_000, op_count_before=61),),
        model_inputs=(IMAGE,),
        model_outputs=(OUTPUT,),
    )


def announcement(plan: Plan) -> Announcement:
    """``plan`` with a manifest of its two shards."""
    files = tuple(
        FileEntry(path=f"shard-{index}.onnx", sha256=f"{index}" * 64, size_bytes=400_000)
        for index in range(len(plan.placements))
    )
    manifest = Manifest(model=plan.model, model_sha256=plan.model_sha256, files=files)
    return Announcement(manifest=manifest, plan=plan)


def scene(frame: int) -> tuple[np.ndarray, tuple[Detection, ...]]:
    """One frame of a yard at dusk with three people walking, and boxes around them."""
    image = np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    image[:] = np.linspace(28, 64, HEIGHT_PX, dtype=np.uint8)[:, None, None]
    cv2.rectangle(image, (60, 60), (250, 170), (70, 74, 82), -1)
    cv2.rectangle(image, (440, 40), (600, 200), (60, 66, 60), -1)
    detections = []
    for index, (speed, top, size) in enumerate(((2.1, 190, 90), (-1.3, 230, 110), (0.9, 150, 60))):
        x = (80 + 190 * index + speed * frame) % (WIDTH_PX + size) - size / 2
        y = top + 4 * math.sin(frame / 5 + index)
        left, right = int(x), int(x + size * 0.42)
        cv2.rectangle(image, (left, int(y + size * 0.25)), (right, int(y + size)), (96, 88, 70), -1)
        cv2.circle(
            image, ((left + right) // 2, int(y + size * 0.13)), size // 8, (50, 190, 230), -1
        )
        box = (float(left - 2), y, float(right + 2), y + size)
        detections.append(Detection(label="person", score=0.92 - 0.11 * index, box=box))
        if index < 2:
            head = (float(left + 4), y, float(right - 4), y + size * 0.27)
            detections.append(Detection(label="helmet", score=0.71, box=head))
    return image, tuple(detections)


@dataclass
class Counts:
    """The accounts of one run of the source's agent."""

    captured: int = 0
    answered: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def in_flight(self) -> int:
        return self.captured - self.answered - sum(self.dropped.values())

    def drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


class FakeAgent:
    """One device on the broker: retained status, last will, telemetry on request."""

    def __init__(self, broker: str, fleet: str, device: str, shard: int) -> None:
        self.device, self.shard = device, shard
        self._broker, self.topics = parse_broker_url(broker), Topics(fleet=fleet)
        self.on_watch = threading.Event()
        self.is_alive = False

    def start(self, deployment: str) -> None:
        """Connect with a new run id and serve."""
        self.run, self.sequence, self._deployment = secrets.token_hex(4), 0, deployment
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"fake-{self.topics.fleet}-{self.device}",
            protocol=MQTTProtocolVersion.MQTTv5,
        )
        will = DeviceStatus(
            device=self.device,
            state="offline",
            run=self.run,
            problem=f"{self.device} vanished without a good-bye: power, network, or its agent died",
        )
        topic = self.topics.status(self.device)
        self._client.will_set(topic, to_json(will, indent=0), qos=1, retain=True)
        self._client.on_message = lambda *_: self.on_watch.set()
        self._client.connect(self._broker.host, self._broker.port, keepalive=5)
        self._client.subscribe(self.topics.watch("+"))
        self._client.loop_start()
        self.is_alive = True
        self.say("serving")

    def say(self, state: str, problem: str = "") -> None:
        """Publish the retained status."""
        status = DeviceStatus(
            device=self.device,
            state=state,
            run=self.run,
            agent_version="0.1.0",
            hop_address="127.0.0.1:40000" if self.shard else "",
            deployment=self._deployment,
            epoch=1,
            problem=problem,
        )
        self.publish(self.topics.status(self.device), to_json(status, indent=0), retain=True)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1 if retain else 0, retain=retain)

    def tell(self, **fields: object) -> None:
        """Publish telemetry."""
        self.sequence += 1
        telemetry = Telemetry(
            device=self.device,
            run=self.run,
            sequence=self.sequence,
            state="serving",
            deployment=self._deployment,
            epoch=1,
            shard=self.shard,
            rss_bytes=84_000_000 + 9_000_000 * self.shard,
            **fields,
        )
        self.publish(self.topics.telemetry(self.device), to_json(telemetry, indent=0))

    def kill(self) -> None:
        """Vanish as a killed process does: the kernel closes its socket, nobody says good-bye."""
        self.is_alive = False
        if (sock := self._client.socket()) is not None:
            sock.shutdown(socket.SHUT_RDWR)
        self._client.reconnect_delay_set(min_delay=3600, max_delay=3600)

    def leave(self) -> None:
        """Say good-bye."""
        if self.is_alive:
            self.say("offline")
        self.is_alive = False
        self._client.disconnect()
        self._client.loop_stop()


class FakeFleet:
    """edge-a films and runs shard 0, edge-b runs shard 1; about 20 answers a second."""

    def __init__(self, broker: str, fleet: str = "yard", *, fps: float = 20.0) -> None:
        self.source = FakeAgent(broker, fleet, "edge-a", 0)
        self.sink = FakeAgent(broker, fleet, "edge-b", 1)
        self._fps, self._topics = fps, Topics(fleet=fleet)
        self._announcement = announcement(two_device_plan())
        self._deployment = self._announcement.manifest.deployment_id
        self._random = np.random.default_rng(1)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._counts = Counts()
        self._ages_ms: list[float] = []
        self._frame = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "FakeFleet":
        for agent in (self.source, self.sink):
            agent.start(self._deployment)
        topic = self._topics.deployment(self._deployment)
        self.source.publish(topic, to_json(self._announcement), retain=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for agent in (self.source, self.sink):
            agent.leave()

    def kill(self, agent: FakeAgent) -> None:
        with self._lock:
            agent.kill()

    def restart(self, agent: FakeAgent) -> None:
        """A new process of the same device; the source's counts begin again."""
        with self._lock:
            if agent is self.source:
                self._counts = Counts()
            agent.start(self._deployment)

    def _run(self) -> None:
        beat, told_s = 0, 0.0
        while not self._stop.wait(1.0 / self._fps):
            beat += 1
            with self._lock:
                self._step(beat)
                if time.monotonic() - told_s >= 1.0:
                    told_s = time.monotonic()
                    self._tell()

    def _step(self, beat: int) -> None:
        """Capture one frame; answer or drop the one before last."""
        if not self.source.is_alive:
            return
        counts = self._counts
        counts.captured += 1
        self._frame += 1
        if not self.sink.is_alive:
            counts.drop("hop_down" if counts.in_flight <= 3 else "hop_lost")
        elif beat % 23 == 0:
            counts.drop("superseded")
        elif counts.in_flight > 2:
            self._answer(beat)

    def _answer(self, beat: int) -> None:
        first_ms, hop_ms, second_ms = self._random.normal((21.4, 4.3, 17.8), (1.2, 0.5, 1.0))
        age_ms = float(first_ms + hop_ms + second_ms + self._random.gamma(3.0, 3.0))
        image, detections = scene(self._frame)
        report = AnswerReport(
            stream="main",
            run=self.source.run,
            frame=self._frame,
            detections=detections,
            captured_unix_s=time.time() - age_ms / 1e3,
            age_ms=round(age_ms, 3),
            stages=(
                StageTime(device="edge-a", shard=0, ms=round(float(first_ms), 3)),
                StageTime(device="edge-b", shard=1, ms=round(float(second_ms), 3)),
            ),
            hops=(self._hop(float(hop_ms)),),
        )
        self._counts.answered += 1
        self._ages_ms = [*self._ages_ms[-99:], age_ms]
        self.source.publish(self._topics.detections("main"), to_json(report, indent=0))
        if beat % 2 == 0 and self.source.on_watch.is_set():
            self._show(image, detections)

    def _show(self, image: np.ndarray, detections: tuple[Detection, ...]) -> None:
        _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])
        preview = Preview(
            stream="main",
            frame=self._frame,
            width_px=WIDTH_PX,
            height_px=HEIGHT_PX,
            jpeg=jpeg.tobytes(),
            detections=detections,
        )
        self.source.publish(self._topics.preview("main"), to_json(preview, indent=0))

    def _hop(self, ms: float) -> HopTime:
        nbytes = sum(spec.nbytes for spec in CROSSING)
        return HopTime(source="edge-a", target="edge-b", bytes=nbytes, ms=round(ms, 3))

    def _tell(self) -> None:
        if self.sink.is_alive:
            self.sink.tell(frames_in=self._counts.answered, stage_ms=17.8, utilization=0.36)
        if not self.source.is_alive:
            return
        up = self.sink.is_alive
        self.source.tell(
            frames_in=self._counts.captured,
            stage_ms=21.4,
            utilization=0.43,
            hop=self._hop(4.3),
            hop_state="connected" if up else "edge-b closed the connection",
            problems=() if up else ("hop to edge-b: edge-b closed the connection",),
            stream=self._stream(),
        )

    def _stream(self) -> StreamTelemetry:
        counts = self._counts
        return StreamTelemetry(
            stream="main",
            source="scene:yard?seed=7&size=640x400&fps=20",
            frames_captured=counts.captured,
            frames_answered=counts.answered,
            frames_dropped=dict(counts.dropped),
            frames_in_flight=counts.in_flight,
            fps=20.0,
            latency_ms=Quantiles.of(self._ages_ms),
            width_px=WIDTH_PX,
            height_px=HEIGHT_PX,
        )


if __name__ == "__main__":
    with FakeFleet(sys.argv[1], *sys.argv[2:3]):
        threading.Event().wait()
