"""One agent, whole, on an in-memory broker with a fake shard: commands, restart, refusals."""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from edgekit.agent.agent import Agent, new_run_id, offline_will
from edgekit.bundle.bundle import Bundle, write_bundle
from edgekit.errors import ConfigError, DeviceError, LinkError
from edgekit.fleet.board_profile import measure_board
from edgekit.fleet.collect import StreamCollector
from edgekit.fleet.deployment import deploy
from edgekit.fleet.publish import publish_bundle, withdraw_bundle
from edgekit.fleet.watch import FleetWatcher
from edgekit.runtime.echo import EchoSession
from edgekit.runtime.ort import runtime_name
from edgekit.spec.agent_config import AgentConfig, SourceConfig
from edgekit.spec.base import to_json
from edgekit.spec.card import ModelCard, OutputCard
from edgekit.spec.codec import parse_codec
from edgekit.spec.messages import Command, DeviceStatus, ProfileWish
from edgekit.spec.plan import Cut, Placement, Plan
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.spec.topics import BLOCK_BYTES, Topics
from edgekit.transport.hop import TcpHopLink, TcpHopListener
from edgekit.transport.memory_mqtt import MemoryBroker

IMAGE = TensorSpec(name="images", dtype="float32", shape=(1, 3, 32, 32))
OUTPUT = TensorSpec(name="output0", dtype="float32", shape=(1, 5, 21))
CARD = ModelCard(name="fake", labels=("thing",), output=OutputCard(decoder="ultralytics"))
TOPICS = Topics(fleet="f")
SOURCE = "scene:yard?frames=5&mode=every&size=160x100"


def find_nothing(inputs: dict[str, Array]) -> dict[str, Array]:
    return {"output0": np.zeros(OUTPUT.shape, np.float32)}


def bundle_at(folder: Path, shard: bytes) -> Bundle:
    placement = Placement(
        device="a", shard="shards/shard-0.onnx", inputs=(IMAGE,), outputs=(OUTPUT,), work_flop=1,
        weight_bytes=0,
    )  # fmt: skip
    plan = Plan(
        model="fake", model_sha256="0" * 64, rule="none", placements=(placement,), cuts=(),
        model_inputs=(IMAGE,), model_outputs=(OUTPUT,),
    )  # fmt: skip
    return write_bundle(folder, plan=plan, shards=[shard], card=CARD, golden=[], force=True)


class World:
    """A broker, an operator, and an agent that can be started and killed."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.broker = MemoryBroker()
        self.operator = self.broker.session("operator")
        self.operator.connect()
        self.watcher = FleetWatcher(self.operator, TOPICS)
        self.collector = StreamCollector(self.operator, TOPICS, stream="main")
        self.loaded: list[Path] = []

    def config(self, source: str | None = SOURCE) -> AgentConfig:
        return AgentConfig(
            device="a",
            fleet="f",
            broker="memory",
            store=str(self.folder / "store"),
            source=SourceConfig(uri=source) if source else None,
        )

    def start(self, source: str | None = SOURCE) -> Agent:
        config, run = self.config(source), new_run_id()
        agent = Agent(
            config,
            run=run,
            mqtt=self.broker.session("a", will=offline_will(config, run)),
            make_link=lambda identity, on_answer, on_state: TcpHopLink(
                identity, on_answer=on_answer, on_state=on_state
            ),
            load_session=self._load,
        )
        listener = TcpHopListener("127.0.0.1", 0, on_activation=agent.accept)
        thread = threading.Thread(
            target=agent.run, args=(listener,), kwargs={"hop_address": "127.0.0.1:1"}
        )
        thread.start()

        def end() -> None:
            agent.stop()
            thread.join(10.0)

        self._stack.callback(end)
        agent.end = end  # type: ignore[attr-defined]
        return agent

    def _load(self, path: Path, config: object) -> EchoSession:
        self.loaded.append(path)
        return EchoSession((IMAGE,), (OUTPUT,), function=find_nothing)

    def deploy(self, bundle: Bundle) -> int:
        announcement = publish_bundle(
            bundle, mqtt=self.operator, topics=TOPICS, progress=lambda *done: None
        )
        return deploy(
            announcement, mqtt=self.operator, topics=TOPICS, watcher=self.watcher,
            say=lambda text: None, online_timeout_s=5.0, ready_timeout_s=20.0,
        )  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def test_a_deployed_agent_answers_every_frame_of_its_source(world: World) -> None:
    """Pull in several blocks, verify, load, serve."""
    world.start()
    bundle = bundle_at(world.folder / "one", bytes(3 * BLOCK_BYTES + 7))
    assert world.deploy(bundle) == 1
    assert world.collector.wait_ended(10.0)
    summary = world.collector.summary(cut=(), model="fake", source=SOURCE)
    assert (summary.frames_captured, summary.frames_answered) == (5, 5)
    assert world.loaded[0].read_bytes() == bytes(3 * BLOCK_BYTES + 7)


def test_a_restarted_agent_serves_what_was_committed_without_being_told(world: World) -> None:
    """Also when the deployment is no longer on the broker."""
    agent = world.start()
    bundle = bundle_at(world.folder / "one", b"shard")
    world.deploy(bundle)
    assert world.collector.wait_ended(10.0)
    agent.end()  # type: ignore[attr-defined]
    withdraw_bundle(bundle, mqtt=world.operator, topics=TOPICS)
    world.start()
    assert world.watcher.wait_for(
        lambda: (s := world.watcher.status("a")) is not None and s.state == "serving", 10.0
    )
    status = world.watcher.status("a")
    assert status is not None and status.deployment == bundle.deployment_id


def test_the_next_deployment_replaces_the_last_one_and_its_files(world: World) -> None:
    """Cards are small."""
    world.start()
    world.deploy(bundle_at(world.folder / "one", b"first"))
    assert world.deploy(bundle_at(world.folder / "two", b"second")) == 2
    blobs = [path.read_bytes() for path in (world.folder / "store/blobs").iterdir()]
    assert b"second" in blobs and b"first" not in blobs


def test_a_failed_preparation_leaves_the_old_deployment_serving(world: World) -> None:
    """A block with a flipped bit: refused, said, and nothing switched."""
    world.start()
    old = bundle_at(world.folder / "one", b"first")
    world.deploy(old)
    new = bundle_at(world.folder / "two", b"second")
    announcement = publish_bundle(
        new, mqtt=world.operator, topics=TOPICS, progress=lambda *done: None
    )
    shard = new.manifest.entry("shards/shard-0.onnx")
    world.operator.publish(TOPICS.block(shard.sha256, 0), b"sec0nd", retain=True)
    with pytest.raises(DeviceError, match="digest"):
        deploy(
            announcement, mqtt=world.operator, topics=TOPICS, watcher=world.watcher,
            say=lambda text: None, ready_timeout_s=20.0,
        )  # fmt: skip
    status = world.watcher.status("a")
    assert status is not None
    assert (status.state, status.deployment) == ("serving", old.deployment_id)
    assert world.deploy(new) == 2


def test_a_first_device_without_a_source_is_refused_before_anybody_switches(world: World) -> None:
    """The board that was meant to film has no [source]."""
    world.start(source=None)
    with pytest.raises(DeviceError, match=r"no source.*agent\.toml"):
        world.deploy(bundle_at(world.folder / "one", b"shard"))


def test_a_fresh_agent_without_a_broker_ends_with_the_broker_s_error(tmp_path: Path) -> None:
    """There is nothing to serve."""
    with ExitStack() as stack:
        world = World(tmp_path, stack)
        world.broker.stop()
        config = world.config()
        agent = Agent(
            config,
            run="r",
            mqtt=world.broker.session("a"),
            make_link=lambda *arguments: pytest.fail("no link without a deployment"),
        )
        listener = TcpHopListener("127.0.0.1", 0, on_activation=agent.accept)
        stack.callback(listener.close)
        with pytest.raises(LinkError):
            agent.run(listener, hop_address="127.0.0.1:1")


def test_a_store_with_a_damaged_current_file_is_refused_at_the_start(tmp_path: Path) -> None:
    """It must not come up as a fresh board and stay silent."""
    with ExitStack() as stack:
        world = World(tmp_path, stack)
        store = tmp_path / "store"
        store.mkdir()
        (store / "current.json").write_text("{")
        agent = Agent(
            world.config(),
            run="r",
            mqtt=world.broker.session("a"),
            make_link=lambda *arguments: pytest.fail("no link without a deployment"),
        )
        listener = TcpHopListener("127.0.0.1", 0, on_activation=agent.accept)
        stack.callback(listener.close)
        with pytest.raises(ConfigError, match=r"current\.json"):
            agent.run(listener, hop_address="127.0.0.1:1")


def test_a_serving_agent_refuses_to_measure_its_board_and_goes_on_serving(world: World) -> None:
    """The stream comes first; the refusal says what is in the way."""
    world.start("scene:yard?fps=10&size=160x100")
    world.deploy(bundle_at(world.folder / "one", b"shard"))
    with pytest.raises(DeviceError, match=r"a serves .*slow each other down.*--anyway"):
        measure_board(
            "a", ProfileWish(quick=True), mqtt=world.operator, topics=TOPICS,
            watcher=world.watcher, progress=lambda text, share: None,
        )  # fmt: skip
    status = world.watcher.status("a")
    assert status is not None
    assert (status.state, status.profiling, status.problem) == ("serving", "", "")


def test_an_agent_names_what_runs_shards_on_it(world: World) -> None:
    """So that profiles measured with something else are known to be stale."""
    world.start()
    assert world.watcher.wait_for(lambda: world.watcher.status("a") is not None, 10.0)
    status = world.watcher.status("a")
    assert status is not None
    assert (status.runtime, status.probe_address) == (runtime_name(), "")


def test_a_codec_that_this_device_cannot_do_is_refused_before_anybody_switches(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board without the package: the operator hears it, and what served goes on."""
    world.start("scene:yard?fps=10&size=160x100")
    old = bundle_at(world.folder / "one", b"first")
    world.deploy(old)
    monkeypatch.setitem(sys.modules, "lz4.block", None)
    new = bundle_of_two(world.folder / "two")
    publish_bundle(new, mqtt=world.operator, topics=TOPICS, progress=lambda *done: None)
    command = Command(id="1", verb="prepare", deployment=new.deployment_id)
    world.operator.publish(TOPICS.command("a"), to_json(command))

    def told() -> DeviceStatus:
        status = world.watcher.status("a")
        assert status is not None
        return status

    assert world.watcher.wait_for(lambda: told().problem != "", 10.0)
    assert "packing lz4 needs the Python package lz4" in told().problem
    assert "pip install 'edgekit[codecs]'" in told().problem
    assert (told().state, told().deployment) == ("serving", old.deployment_id)


def bundle_of_two(folder: Path) -> Bundle:
    """Shard 0 on "a", shard 1 on "b", and a codec between them that needs a library."""
    placements = tuple(
        Placement(
            device=device, shard=f"shards/shard-{index}.onnx", inputs=(IMAGE,), outputs=(OUTPUT,),
            work_flop=1, weight_bytes=0,
        )
        for index, device in enumerate(("a", "b"))
    )  # fmt: skip
    plan = Plan(
        model="fake", model_sha256="0" * 64, rule="given", placements=placements,
        cuts=(Cut(tensors=(OUTPUT,), work_flop_before=1, op_count_before=1),),
        model_inputs=(IMAGE,), model_outputs=(OUTPUT,), codecs=(parse_codec("fp16+lz4"),),
    )  # fmt: skip
    return write_bundle(folder, plan=plan, shards=[b"0", b"1"], card=CARD)
