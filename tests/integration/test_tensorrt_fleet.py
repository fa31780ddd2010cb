"""A fleet with a TensorRT device, in real processes: it answers at once, whatever the board has."""

import os
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from edgekit.builder.build import build_bundle
from edgekit.fleet.collect import StreamCollector
from edgekit.fleet.deployment import deploy
from edgekit.fleet.processes import LocalAgents
from edgekit.fleet.publish import publish_bundle, withdraw_bundle
from edgekit.fleet.watch import FleetWatcher
from edgekit.spec.fleet import Fleet, local_fleet
from edgekit.spec.messages import AnswerReport, Telemetry
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt import MqttSession
from edgekit.vision.cards import builtin_card
from edgekit.workflow import STREAM, DemoOptions, agent_configs
from tests.world import data, is_same_to_the_last_digit, unsplit_detections

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

MODEL = "models/light_person_detector/light_person_detector.onnx"
VIDEO = "video/vtest_pedestrians/vtest.mp4"


def fleet_with_gpu(name: str) -> Fleet:
    """edge-a on the CPU films; edge-b is meant to run TensorRT."""
    first, second = local_fleet(2, name=name).device
    return Fleet(name=name, device=(first, msgspec.structs.replace(second, provider="tensorrt")))


def test_a_pipeline_with_a_tensorrt_device_answers_as_the_whole_model_does(
    mosquitto_url: str, tmp_path: Path
) -> None:
    """Without a GPU ONNX Runtime serves and the reason is told; with one the engine takes over."""
    source = f"file:{data(VIDEO)}?frames=30"
    name = f"tensorrt-{os.getpid()}-{time.monotonic_ns()}"
    options = DemoOptions(
        model=data(MODEL), source=source, fleet=fleet_with_gpu(name), folder=tmp_path
    )
    bundle = build_bundle(
        options.model, fleet=options.fleet, card=builtin_card("light_person"), out=tmp_path / "b"
    ).bundle
    assert [bool(placement.engine) for placement in bundle.plan.placements] == [False, True]
    topics, reports = Topics(fleet=name), list[AnswerReport]()
    said: list[Telemetry] = []
    with ExitStack() as stack:
        mqtt = MqttSession(mosquitto_url, client_id=name)
        mqtt.connect()
        stack.callback(mqtt.close)
        collector = StreamCollector(mqtt, topics, stream=STREAM, on_report=reports.append)
        watcher = FleetWatcher(mqtt, topics)

        def engine_has_ended() -> bool:
            telemetry = watcher.telemetry("edge-b")
            if telemetry is None or telemetry.engine is None or telemetry.state != "serving":
                return False
            said.append(telemetry)
            return telemetry.engine.state in ("serving", "failed")

        configs = agent_configs(options, bundle, mosquitto_url, tmp_path)
        stack.enter_context(LocalAgents(configs, tmp_path, restart=False))
        announcement = publish_bundle(bundle, mqtt=mqtt, topics=topics, progress=lambda *done: None)
        stack.callback(lambda: withdraw_bundle(bundle, mqtt=mqtt, topics=topics))
        deploy(
            announcement, mqtt=mqtt, topics=topics, watcher=watcher, say=lambda text: None,
            ready_timeout_s=30.0,
        )  # fmt: skip
        assert collector.wait_ended(60.0)
        assert watcher.wait_for(engine_has_ended, 60.0)
    telemetry = said[-1]
    assert telemetry.engine is not None
    if telemetry.engine.state == "failed":
        assert telemetry.runs_on.startswith("onnxruntime ")
        assert any("no TensorRT engine: " in one for one in telemetry.problems)
        assert "can be used here" in telemetry.engine.problem
    else:
        assert telemetry.runs_on.startswith("TensorRT")
        assert telemetry.problems == ()
    assert len(reports) == 30
    got = [report.detections for report in sorted(reports, key=lambda report: report.frame)]
    whole = unsplit_detections(data(MODEL), source, optimization="all")
    assert all(is_same_to_the_last_digit(want, have) for want, have in zip(whole, got, strict=True))
