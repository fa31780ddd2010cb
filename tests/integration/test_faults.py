"""Faults in a running fleet: killed agents, a broken broker, flipped bits. Nothing is silent."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgekit.builder.build import build_bundle
from edgekit.bundle.bundle import Bundle
from edgekit.errors import DeviceError
from edgekit.fleet.collect import StreamCollector
from edgekit.fleet.deployment import deploy
from edgekit.fleet.processes import LocalAgents
from edgekit.fleet.publish import publish_bundle
from edgekit.fleet.watch import FleetWatcher
from edgekit.spec.fleet import local_fleet
from edgekit.spec.messages import StreamTelemetry
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt import MqttSession
from edgekit.vision.cards import builtin_card
from edgekit.workflow import STREAM, DemoOptions, agent_configs
from tests.world import data

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

MODEL = "models/light_person_detector/light_person_detector.onnx"


@dataclasses.dataclass
class Fleet:
    """A running two-device fleet and everything one may want to ask of it."""

    agents: LocalAgents
    watcher: FleetWatcher
    collector: StreamCollector
    mqtt: MqttSession
    topics: Topics
    bundle: Bundle

    def deploy(self) -> None:
        announcement = publish_bundle(
            self.bundle, mqtt=self.mqtt, topics=self.topics, progress=lambda *done: None
        )
        deploy(
            announcement,
            mqtt=self.mqtt,
            topics=self.topics,
            watcher=self.watcher,
            say=lambda text: None,
            ready_timeout_s=30.0,
        )


@pytest.fixture
def fleet_of(mosquitto_url: str, tmp_path: Path) -> Iterator[Callable[[str], Fleet]]:
    """Start a fleet on a source; agents do not restart by themselves."""
    with ExitStack() as stack:

        def start(source: str) -> Fleet:
            name = f"faults-{os.getpid()}-{time.monotonic_ns()}"
            options = DemoOptions(
                model=data(MODEL), source=source, fleet=local_fleet(2, name=name), folder=tmp_path
            )
            bundle = build_bundle(
                options.model,
                fleet=options.fleet,
                card=builtin_card("light_person"),
                out=tmp_path / "bundle",
            ).bundle
            mqtt = MqttSession(mosquitto_url, client_id=name)
            mqtt.connect()
            stack.callback(mqtt.close)
            topics = Topics(fleet=name)
            collector = StreamCollector(mqtt, topics, stream=STREAM)
            watcher = FleetWatcher(mqtt, topics)
            configs = agent_configs(options, bundle, mosquitto_url, tmp_path)
            agents = stack.enter_context(LocalAgents(configs, tmp_path, restart=False))
            return Fleet(agents, watcher, collector, mqtt, topics, bundle)

        yield start


def accounts(fleet: Fleet) -> StreamTelemetry:
    latest = fleet.collector.latest()
    assert latest is not None
    return latest


def assert_adds_up(stream: StreamTelemetry) -> None:
    ended = stream.frames_answered + sum(stream.frames_dropped.values())
    assert stream.frames_captured == ended + stream.frames_in_flight


def wait_answers(fleet: Fleet, more: int, timeout_s: float) -> float:
    """Wait for ``more`` further answers; how long it took [s]."""
    started_s, target = time.perf_counter(), fleet.collector.answered_count + more
    while fleet.collector.answered_count < target:
        assert time.perf_counter() - started_s < timeout_s, "no answers"
        time.sleep(0.02)
    return time.perf_counter() - started_s


def test_a_killed_last_agent_is_named_within_2_s_and_the_live_stream_resumes_within_5_s(
    fleet_of: Callable[[str], Fleet],
) -> None:
    """Power cut on the second board."""
    fleet = fleet_of("scene:yard?fps=20&size=320x200")
    fleet.deploy()
    wait_answers(fleet, 10, 20.0)
    fleet.agents.kill("edge-b")
    assert fleet.watcher.wait_for(lambda: fleet.watcher.status("edge-b").state == "offline", 2.0), (
        "the last will did not come"
    )
    assert fleet.watcher.wait_for(
        lambda: any("edge-b" in text for text in fleet.watcher.telemetry("edge-a").problems), 2.0
    ), "the surviving agent did not say that its hop is down"
    assert fleet.watcher.status("edge-a").state == "serving"
    time.sleep(1.0)
    fleet.agents.start("edge-b")
    wait_answers(fleet, 5, 5.0)
    time.sleep(1.2)
    stream = accounts(fleet)
    assert_adds_up(stream)
    assert set(stream.frames_dropped) <= {"hop_lost", "hop_down", "superseded"}
    assert stream.frames_dropped.get("hop_down", 0) > 0


def test_a_killed_source_agent_resumes_its_live_stream_within_5_s_of_its_restart(
    fleet_of: Callable[[str], Fleet],
) -> None:
    """Power cut on the camera's board; the other device goes on and waits."""
    fleet = fleet_of("scene:yard?fps=20&size=320x200")
    fleet.deploy()
    wait_answers(fleet, 10, 20.0)
    fleet.agents.kill("edge-a")
    assert fleet.watcher.wait_for(lambda: fleet.watcher.status("edge-a").state == "offline", 2.0)
    assert fleet.watcher.status("edge-b").state == "serving"
    fleet.agents.start("edge-a")
    wait_answers(fleet, 5, 5.0)
    time.sleep(1.2)
    assert_adds_up(accounts(fleet))
    summary = fleet.collector.summary(cut=(), model="", source="")
    closed = summary.frames_answered + sum(summary.frames_dropped.values())
    assert summary.frames_captured == closed + accounts(fleet).frames_in_flight


def test_no_frame_of_a_file_is_lost_when_the_last_agent_is_killed_twice(
    fleet_of: Callable[[str], Fleet],
) -> None:
    """Every-frame sources wait for the hop and send again what went down with it."""
    video = data("video/vtest_pedestrians/vtest.mp4")
    fleet = fleet_of(f"file:{video}?frames=300")
    fleet.deploy()
    for _ in range(2):
        wait_answers(fleet, 40, 20.0)
        fleet.agents.kill("edge-b")
        time.sleep(0.3)
        fleet.agents.start("edge-b")
    assert fleet.collector.wait_ended(30.0)
    stream = accounts(fleet)
    assert (stream.frames_captured, stream.frames_answered) == (300, 300)
    assert stream.frames_dropped == {}


def test_a_block_with_a_flipped_bit_is_refused_and_nothing_is_switched(
    fleet_of: Callable[[str], Fleet],
) -> None:
    """Trust: the digest is checked before anything is loaded."""
    fleet = fleet_of("scene:yard?fps=10&size=320x200")
    shard = fleet.bundle.manifest.entry(fleet.bundle.plan.placements[1].shard)
    announcement = publish_bundle(
        fleet.bundle, mqtt=fleet.mqtt, topics=fleet.topics, progress=lambda *done: None
    )
    from edgekit.bundle.blocks import split_blocks

    block = bytearray(next(iter(split_blocks(fleet.bundle.read(shard.path)))))
    block[len(block) // 2] ^= 1
    topic = fleet.topics.block(shard.sha256, 0)
    fleet.mqtt.publish(topic, bytes(block), retain=True, wait_s=5.0)
    with pytest.raises(DeviceError, match=r"edge-b cannot be ready: .*digest"):
        deploy(
            announcement,
            mqtt=fleet.mqtt,
            topics=fleet.topics,
            watcher=fleet.watcher,
            say=lambda text: None,
        )
    assert fleet.collector.answered_count == 0
    home = fleet.agents.log_path("edge-b").parent / "store"
    assert not (home / "blobs" / shard.sha256).exists()
    assert not (home / "current.json").exists()
    fleet.deploy()  # published again, whole: a failed deployment never blocks the next
    wait_answers(fleet, 3, 20.0)


def test_both_agents_come_back_by_themselves_after_a_power_cut(
    fleet_of: Callable[[str], Fleet],
) -> None:
    """What was committed is served again, with no operator."""
    fleet = fleet_of("scene:yard?fps=20&size=320x200")
    fleet.deploy()
    wait_answers(fleet, 5, 20.0)
    for device in ("edge-a", "edge-b"):
        fleet.agents.kill(device)
    for device in ("edge-a", "edge-b"):
        fleet.agents.start(device)
    wait_answers(fleet, 5, 10.0)
