"""Two agents with a stream between them: the telemetry of the first says what their link can do.

Once on this machine alone, where only round trips can be told (no sender is as fast as a loopback);
once over a cable with a shaper, the second agent in a network namespace of its own.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from edgekit.builder.build import build_bundle
from edgekit.fleet.collect import StreamCollector
from edgekit.fleet.deployment import deploy
from edgekit.fleet.processes import LocalAgents
from edgekit.fleet.publish import publish_bundle
from edgekit.fleet.watch import FleetWatcher
from edgekit.spec.agent_config import AgentConfig, HopConfig, LinkConfig
from edgekit.spec.base import save
from edgekit.spec.fleet import local_fleet
from edgekit.spec.messages import LinkTelemetry
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt import MqttSession
from edgekit.vision.cards import builtin_card
from edgekit.workflow import STREAM, DemoOptions, agent_configs
from tests.world import data

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

MODEL = "models/light_person_detector/light_person_detector.onnx"
SOURCE = "scene:yard?fps=10&size=320x200"
NEAR, FAR = "10.77.33.1", "10.77.33.2"
MBIT = 50
PAYLOAD_BYTES_PER_S = MBIT * 1e6 / 8 * 1448 / 1514
PERIOD_S = 1.0


@dataclass
class Fleet:
    """edge-a films and sends to edge-b; their operator looks at the telemetry."""

    watcher: FleetWatcher
    collector: StreamCollector

    def link(self) -> LinkTelemetry | None:
        telemetry = self.watcher.telemetry("edge-a")
        return telemetry.link if telemetry is not None else None

    def wait_link(self, is_so: Callable[[LinkTelemetry], bool], limit_s: float) -> LinkTelemetry:
        assert self.watcher.wait_for(
            lambda: (link := self.link()) is not None and is_so(link), limit_s
        ), self.link()
        known = self.link()
        assert known is not None
        return known


def configs_of(broker: str, folder: Path, name: str) -> tuple[DemoOptions, list[AgentConfig]]:
    """Options of the build, and both agents with a link that is looked at every second."""
    options = DemoOptions(
        model=data(MODEL), source=SOURCE, fleet=local_fleet(2, name=name), folder=folder
    )
    bundle = build_bundle(
        options.model, fleet=options.fleet, card=builtin_card("light_person"), out=folder / "bundle"
    ).bundle
    link = LinkConfig(period_s=PERIOD_S)
    configs = [
        msgspec.structs.replace(config, link=link)
        for config in agent_configs(options, bundle, broker, folder)
    ]
    return options, configs


def serving(stack: ExitStack, broker: str, folder: Path, name: str) -> Fleet:
    """Deploy the bundle in ``folder`` to agents that run already."""
    from edgekit.bundle.bundle import open_bundle

    mqtt = MqttSession(broker, client_id=name)
    mqtt.connect()
    stack.callback(mqtt.close)
    topics = Topics(fleet=name)
    made = Fleet(FleetWatcher(mqtt, topics), StreamCollector(mqtt, topics, stream=STREAM))
    announcement = publish_bundle(
        open_bundle(folder / "bundle"), mqtt=mqtt, topics=topics, progress=lambda *done: None
    )
    deploy(
        announcement, mqtt=mqtt, topics=topics, watcher=made.watcher, say=lambda text: None,
        ready_timeout_s=60.0,
    )  # fmt: skip
    return made


def test_telemetry_shows_the_link_and_survives_the_death_of_its_other_end(
    mosquitto_url: str, tmp_path: Path
) -> None:
    """Killed: said, and what was known is kept. Back, on another port: known again."""
    name = f"link-{os.getpid()}-{time.monotonic_ns()}"
    with ExitStack() as stack:
        _, configs = configs_of(mosquitto_url, tmp_path, name)
        agents = stack.enter_context(LocalAgents(configs, tmp_path, restart=False))
        fleet = serving(stack, mosquitto_url, tmp_path, name)
        known = fleet.wait_link(lambda link: link.rtt_p50_s is not None, 20.0)
        assert known.target == "edge-b" and known.loss == 0.0 and not known.problem
        assert known.rtt_p50_s is not None and known.rtt_p99_s is not None
        assert 0 < known.rtt_p50_s <= known.rtt_p99_s < 1
        assert fleet.watcher.telemetry("edge-b").link is None  # type: ignore[union-attr]
        agents.kill("edge-b")
        lost = fleet.wait_link(lambda link: bool(link.problem), 20.0)
        assert lost.rtt_p50_s is not None
        agents.start("edge-b")
        fleet.wait_link(lambda link: not link.problem, 30.0)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 20.0, "an agent did not stop"


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace at the end of a shaped cable, removed whatever happens."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if not (shutil.which("ip") and shutil.which("tc") and shutil.which("mosquitto")):
        pytest.skip("needs ip and tc (iproute2), and mosquitto")
    name, near, far = f"ek-{os.getpid()}-f", f"ekn{os.getpid()}", f"ekf{os.getpid()}"
    shaper = ["root", "tbf", "rate", f"{MBIT}mbit", "burst", "32kb", "latency", "50ms"]
    commands = [
        ["ip", "netns", "add", name],
        ["ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name],
        ["ip", "addr", "add", f"{NEAR}/24", "dev", near],
        ["ip", "link", "set", near, "up"],
        ["ip", "-n", name, "addr", "add", f"{FAR}/24", "dev", far],
        ["ip", "-n", name, "link", "set", far, "up"],
        ["ip", "-n", name, "link", "set", "lo", "up"],
        ["tc", "qdisc", "add", "dev", near, *shaper],
        ["ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", far, *shaper],
    ]
    try:
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            if done.returncode:
                pytest.skip(f"cannot make a shaped link here: {done.stderr.strip()}")
        yield name
    finally:
        subprocess.run(["ip", "link", "del", near], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextlib.contextmanager
def broker_at(host: str, folder: Path) -> Iterator[str]:
    """A Mosquitto that a namespace can reach."""
    import socket

    with socket.create_server((host, 0)) as probe:
        port = int(probe.getsockname()[1])
    configuration = folder / "mosquitto.conf"
    configuration.write_text(f"listener {port} {host}\nallow_anonymous true\n")
    process = subprocess.Popen(["mosquitto", "-c", str(configuration)], stderr=subprocess.DEVNULL)
    try:
        yield f"mqtt://{host}:{port}"
    finally:
        process.kill()
        process.wait()


def wait_broker(url: str) -> None:
    mqtt = MqttSession(url, client_id="link-telemetry-probe")
    for _ in range(100):
        with contextlib.suppress(Exception):
            mqtt.connect()
            break
        time.sleep(0.05)
    mqtt.close()


def test_telemetry_finds_the_bandwidth_of_a_shaped_link_beside_a_stream(
    namespace: str, tmp_path: Path
) -> None:
    """Within 15 %, while frames cross; and the frames are answered."""
    name = f"shaped-{os.getpid()}"
    with ExitStack() as stack:
        broker = stack.enter_context(broker_at(NEAR, tmp_path))
        wait_broker(broker)
        _, (near, far) = configs_of(broker, tmp_path, name)
        near = msgspec.structs.replace(near, hop=HopConfig(host=NEAR))
        far = msgspec.structs.replace(far, hop=HopConfig(host=FAR))
        stack.enter_context(LocalAgents([near], tmp_path, restart=False))
        (tmp_path / "far").mkdir()
        save(far, tmp_path / "far" / "agent.toml")
        remote = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, "-m", "edgekit", "agent",
             "--config", str(tmp_path / "far" / "agent.toml")],
        )  # fmt: skip
        stack.callback(remote.wait)
        stack.callback(remote.terminate)
        fleet = serving(stack, broker, tmp_path, name)
        known = fleet.wait_link(lambda link: link.bandwidth_bytes_per_s is not None, 60.0)
        assert known.bandwidth_bytes_per_s == pytest.approx(PAYLOAD_BYTES_PER_S, rel=0.15)
        assert known.bandwidth_age_s is not None and known.rtt_p50_s is not None
        before_count = fleet.collector.answered_count
        time.sleep(2.0)
        assert fleet.collector.answered_count > before_count
