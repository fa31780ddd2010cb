"""A board has neither torch nor onnx: what runs there must not need them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.builder.build import build_bundle
from edgekit.bundle.bundle import Bundle
from edgekit.fleet.collect import StreamCollector
from edgekit.fleet.deployment import deploy
from edgekit.fleet.publish import publish_bundle
from edgekit.fleet.watch import FleetWatcher
from edgekit.spec.agent_config import AgentConfig, HopConfig, SourceConfig
from edgekit.spec.base import save
from edgekit.spec.fleet import local_fleet
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt import MqttSession
from edgekit.vision.cards import builtin_card
from tests.world import data

HEAVY = ("torch", "onnx", "onnxscript", "onnxsim", "amqtt", "nicegui", "pycocotools")
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))\n"
"""A None in sys.modules makes ``import`` raise ModuleNotFoundError, as if it were not installed."""


@pytest.mark.parametrize(
    "module",
    [
        "edgekit.agent.main",
        "edgekit.profiler.stopwatch",
        "edgekit.runtime.ort",
        "edgekit.bundle.bundle",
        "edgekit.transport.mqtt",
        "edgekit.transport.hop",
        "edgekit.vision.sources",
        "edgekit.vision.scene.yard",
        "edgekit.dashboard.state",
        "edgekit.cli.agent",
        "edgekit.cli.deploy",
    ],
)
@pytest.mark.integration
def test_the_base_install_imports_what_a_board_runs(module: str) -> None:
    """Imports, without the extras."""
    subprocess.run([sys.executable, "-c", f"{BLOCK}import {module}"], check=True, timeout=60)


@pytest.mark.integration
def test_a_verb_that_needs_the_builder_says_how_to_install_it() -> None:
    """A missing extra is one line with the pip command, not a traceback."""
    code = f"{BLOCK}sys.argv = ['edgekit', 'inspect', 'x.onnx']\n"
    code += "from edgekit.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "pip install 'edgekit[builder]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def whole_model_bundle(tmp_path: Path) -> Bundle:
    return build_bundle(
        data("models/light_person_detector/light_person_detector.onnx"),
        fleet=local_fleet(1),
        rule="none",
        card=builtin_card("light_person"),
        out=tmp_path / "bundle",
    ).bundle


@pytest.mark.integration
def test_the_base_install_pulls_a_shard_and_answers_every_frame(
    mosquitto_url: str, tmp_path: Path, whole_model_bundle: Bundle
) -> None:
    """A whole agent, with everything else unimportable."""
    fleet, stream = f"base-{os.getpid()}", "main"
    config = AgentConfig(
        device="edge-a",
        fleet=fleet,
        broker=mosquitto_url,
        store=str(tmp_path / "store"),
        hop=HopConfig(host="127.0.0.1"),
        source=SourceConfig(uri="scene:yard?frames=10&mode=every&size=320x200", stream=stream),
    )
    save(config, tmp_path / "agent.toml")
    code = f"{BLOCK}sys.argv = ['edgekit', 'agent', '--config', {str(tmp_path / 'agent.toml')!r}]\n"
    code += "from edgekit.cli.main import main; main()"
    topics, mqtt = Topics(fleet=fleet), MqttSession(mosquitto_url, client_id=fleet)
    mqtt.connect()
    collector = StreamCollector(mqtt, topics, stream=stream)
    watcher = FleetWatcher(mqtt, topics)
    agent = subprocess.Popen([sys.executable, "-c", code])
    try:
        announcement = publish_bundle(
            whole_model_bundle, mqtt=mqtt, topics=topics, progress=lambda *done: None
        )
        deploy(announcement, mqtt=mqtt, topics=topics, watcher=watcher, say=lambda text: None)
        assert collector.wait_ended(30.0)
        latest = collector.latest()
        assert latest is not None and latest.frames_answered == 10
    finally:
        agent.terminate()
        code_at_end = agent.wait(timeout=10)
        mqtt.close()
    assert code_at_end == 0
