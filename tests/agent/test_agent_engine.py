"""A whole agent whose bundle has an engine recipe: it serves at once, and says what runs it."""

import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from engine_world import IMAGE, LIBRARY, OUTPUT, FakeBuilder, FakeEngine, bundle_at, compute

from edgekit.agent.agent import Agent, new_run_id, offline_will
from edgekit.errors import DeviceError
from edgekit.fleet.collect import StreamCollector
from edgekit.fleet.deployment import deploy
from edgekit.fleet.publish import publish_bundle
from edgekit.fleet.watch import FleetWatcher
from edgekit.runtime.echo import EchoSession
from edgekit.spec.agent_config import AgentConfig, RuntimeConfig, SourceConfig
from edgekit.spec.base import parse_json, to_json
from edgekit.spec.messages import Command, Telemetry
from edgekit.spec.topics import Topics
from edgekit.transport.hop import TcpHopLink, TcpHopListener
from edgekit.transport.memory_mqtt import MemoryBroker

TOPICS = Topics(fleet="f")
SOURCE = "scene:yard?fps=50&size=160x100"


def is_building(said: Telemetry) -> bool:
    """An engine, while the shard is served."""
    return said.state == "serving" and said.engine is not None and said.engine.state == "building"


def has_failed(said: Telemetry) -> bool:
    """The engine, while the shard is served."""
    return said.state == "serving" and said.engine is not None and said.engine.state == "failed"


def load(path: Path, config: RuntimeConfig) -> EchoSession:
    return EchoSession((IMAGE,), (OUTPUT,), function=compute)


class World:
    """A broker, an operator who hears all telemetry, and an agent."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.broker = MemoryBroker()
        self.operator = self.broker.session("operator")
        self.operator.connect()
        self.watcher = FleetWatcher(self.operator, TOPICS)
        self.collector = StreamCollector(self.operator, TOPICS, stream="main")
        self.heard: list[Telemetry] = []
        self._changed = threading.Condition()
        self.operator.subscribe(TOPICS.telemetry("a"), self._hear, qos=0)

    def _hear(self, topic: str, payload: bytes) -> None:
        with self._changed:
            self.heard.append(parse_json(payload, Telemetry, origin=topic))
            self._changed.notify_all()

    def wait(self, what: Callable[[Telemetry], bool], timeout_s: float = 30.0) -> Telemetry:
        """The newest telemetry, once it is so."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: bool(self.heard and what(self.heard[-1])), timeout_s
            )
            return self.heard[-1]

    def start(self) -> Agent:
        config, run = AgentConfig(
            device="a", fleet="f", broker="memory", store=str(self.folder / "store"),
            source=SourceConfig(uri=SOURCE),
        ), new_run_id()  # fmt: skip
        agent = Agent(
            config,
            run=run,
            mqtt=self.broker.session("a", will=offline_will(config, run)),
            make_link=lambda identity, on_answer, on_state: TcpHopLink(
                identity, on_answer=on_answer, on_state=on_state
            ),
            load_session=load,
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

    def deploy(self, name: str, shard: bytes = b"shard") -> str:
        bundle = bundle_at(self.folder / name, shard)
        announcement = publish_bundle(
            bundle, mqtt=self.operator, topics=TOPICS, progress=lambda *done: None
        )
        deploy(
            announcement, mqtt=self.operator, topics=TOPICS, watcher=self.watcher,
            say=lambda text: None, online_timeout_s=5.0, ready_timeout_s=20.0,
        )  # fmt: skip
        return bundle.deployment_id


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


@pytest.fixture
def builders(monkeypatch: pytest.MonkeyPatch) -> list[FakeBuilder]:
    """One for each build, made when it begins."""
    made: list[FakeBuilder] = []

    def obtain(*arguments: object, **more: object) -> object:
        made.append(FakeBuilder())
        return made[-1](*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("edgekit.agent.engine.obtain_engine", obtain)
    monkeypatch.setattr("edgekit.agent.engine.TensorRtSession.open", lambda file: FakeEngine())
    return made


def test_a_deployment_is_committed_and_answers_frames_long_before_its_engine_is_built(
    world: World, builders: list[FakeBuilder]
) -> None:
    """And when the engine takes over, no frame is lost."""
    world.start()
    world.deploy("one")
    now = world.wait(is_building)
    assert now.engine is not None
    assert (now.runs_on, now.engine.share) == ("onnxruntime cpu", 0.4)
    first = world.wait(lambda said: said.stream is not None and said.stream.frames_answered > 3)
    builders[0].ready.set()
    now = world.wait(lambda said: said.engine is not None and said.engine.state == "serving")
    assert (now.runs_on, now.problems) == (LIBRARY, ())
    assert first.stream is not None
    before = first.stream.frames_answered
    last = world.wait(lambda said: said.stream is not None and said.stream.frames_answered > before)
    assert last.stream is not None
    assert set(last.stream.frames_dropped) <= {"stale", "newer_frame", "busy"}


def test_a_restarted_agent_asks_for_its_engine_again(
    world: World, builders: list[FakeBuilder]
) -> None:
    """It is found in the cache, by a process that costs the stream nothing."""
    agent = world.start()
    world.deploy("one")
    world.wait(is_building)
    agent.end()  # type: ignore[attr-defined]
    assert builders[0].was_stopped.wait(5.0)
    world.heard.clear()
    world.start()
    now = world.wait(lambda said: is_building(said) and len(builders) == 2)
    assert now.runs_on == "onnxruntime cpu"


@pytest.mark.parametrize("how", ["next deployment", "abort", "stop"])
def test_a_build_that_nobody_needs_any_more_is_stopped(
    world: World, builders: list[FakeBuilder], how: str
) -> None:
    """It would take the GPU and the memory from what serves."""
    world.start()
    first = world.deploy("one")
    world.wait(is_building)
    if how == "next deployment":
        world.deploy("two", b"other")
        assert builders[0].was_stopped.wait(10.0)
        world.wait(lambda said: said.deployment != first and said.state == "serving")
        assert not builders[1].was_stopped.is_set()
    elif how == "stop":
        world.operator.publish(TOPICS.command("a"), to_json(Command(id="s", verb="stop")))
        assert builders[0].was_stopped.wait(10.0)
        world.wait(lambda said: said.state == "idle" and said.engine is None)
    else:
        second = bundle_at(world.folder / "two", b"other")
        publish_bundle(second, mqtt=world.operator, topics=TOPICS, progress=lambda *done: None)
        for verb in ("prepare", "abort"):
            command = Command(id=verb, verb=verb, deployment=second.deployment_id)  # type: ignore[arg-type]
            world.operator.publish(TOPICS.command("a"), to_json(command))
            if verb == "prepare":
                world.wait(lambda said: said.state == "ready" and len(builders) == 2)
        assert builders[1].was_stopped.wait(10.0)
        assert not builders[0].was_stopped.is_set()


def test_engines_of_older_deployments_leave_the_card(
    world: World, builders: list[FakeBuilder]
) -> None:
    world.start()
    world.deploy("one")
    world.wait(is_building)
    builders[0].ready.set()
    world.wait(lambda said: said.engine is not None and said.engine.state == "serving")
    engines = world.folder / "store/engines"
    assert len(list(engines.glob("*.engine"))) == 1
    world.deploy("two", b"other")
    assert list(engines.glob("*.engine")) == []


@pytest.mark.integration
def test_a_board_without_a_gpu_serves_with_onnx_runtime_and_says_what_is_missing(
    world: World,
) -> None:
    """The real child: whatever TensorRT is or is not here, there is no driver."""
    world.start()
    world.deploy("one")
    now = world.wait(has_failed, 60.0)
    assert now.runs_on == "onnxruntime cpu"
    is_here = importlib.util.find_spec("tensorrt_rtx") or importlib.util.find_spec("tensorrt")
    missing = "no GPU can be used here" if is_here else "no TensorRT can be used here"
    if missing not in now.problems[0]:
        pytest.skip(f"there is a GPU: {now.problems[0]}")
    assert now.problems[0].endswith("onnxruntime cpu runs the shard")
    world.wait(lambda said: said.stream is not None and said.stream.frames_answered > 3)


def test_a_build_that_fails_does_not_fail_the_deployment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = FakeBuilder(error=DeviceError("TensorRT refuses x: NonZero '/n'", hint="x"))
    builder.ready.set()
    monkeypatch.setattr("edgekit.agent.engine.obtain_engine", builder)
    world.start()
    world.deploy("one")
    now = world.wait(has_failed)
    assert now.runs_on == "onnxruntime cpu"
    assert now.problems[0].startswith("no TensorRT engine: TensorRT refuses x: NonZero '/n'")
