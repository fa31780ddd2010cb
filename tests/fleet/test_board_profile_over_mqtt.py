"""A board measured from afar: operator and agent, each real, on a broker and a child that are not.

What the child measures is replaced; everything that travels is not.
"""

import errno
import hashlib
import random
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent import board_profile as agent_side
from edgekit.agent.board_profile import BoardProfiler
from edgekit.agent.child import Ended
from edgekit.errors import DeviceError, EdgeKitError, LinkError, TrustError
from edgekit.fleet import board_profile as operator_side
from edgekit.fleet.board_profile import Received, measure_board
from edgekit.fleet.watch import FleetWatcher
from edgekit.spec.agent_config import AgentConfig, RuntimeConfig
from edgekit.spec.base import parse_json, save, to_json
from edgekit.spec.messages import Command, DeviceState, DeviceStatus, ProfileReport, ProfileWish
from edgekit.spec.profile import Ceiling, DeviceProfile, KernelTime
from edgekit.spec.topics import BLOCK_BYTES, Topics
from edgekit.transport.memory_mqtt import MemoryBroker

TOPICS = Topics(fleet="f")
WISH = ProfileWish(quick=True)


def profile_of(name: str, kernel_count: int = 20) -> DeviceProfile:
    """Random times do not compress: a few thousand of them need several blocks."""
    chance = random.Random(1)
    return DeviceProfile(
        name=name, source="measured", reference="a test", processor="1x core", memory="1 GiB",
        memory_bandwidth="9 GB/s", launch_overhead="4 us", session_overhead="35 us",
        runtime="onnxruntime 1.0.0", ceiling=(Ceiling(precision="fp32", compute="33 Gflop/s"),),
        kernel=tuple(
            KernelTime(key="Relu", sizes=(index + 1, 1, 1, 1), time_s=chance.random())
            for index in range(kernel_count)
        ),
    )  # fmt: skip


class ScriptedChild:
    """Stands for the profiler's process: tells steps, then ends as the test says."""

    def __init__(self, world: "World", arguments: list[str], on_line: Any) -> None:
        self._world, self.arguments, self._on_line = world, arguments, on_line
        self._stopped = threading.Event()

    def run(self, *, limit_s: float) -> Ended:
        self._world.running.set()
        self._on_line(b'{"text":"kernels 3/9","share":0.25}')
        self._on_line(b"something else that is printed")
        while self._world.is_held.is_set() and not self._stopped.wait(0.01):
            self._on_line(b'{"text":"kernels 4/9","share":0.5}')
        if self._stopped.is_set():
            return Ended(is_ok=False, problem="the measuring ended with code 130", hint="")
        if self._world.ended.is_ok:
            save(self._world.profile, Path(self.arguments[self.arguments.index("--out") + 1]))
        return self._world.ended

    def stop(self) -> None:
        self._stopped.set()


class World:
    """One broker, one operator, one board."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.broker = folder, MemoryBroker()
        self.operator, self.mqtt = self.broker.session("operator"), self.broker.session("board")
        self.operator.connect()
        self.mqtt.connect()
        self.watcher = FleetWatcher(self.operator, TOPICS)
        self.profile, self.ended = profile_of("board"), Ended(is_ok=True)
        self.is_held, self.running = threading.Event(), threading.Event()
        self.children: list[ScriptedChild] = []
        self.progress: list[tuple[str, float]] = []
        self.objection = ""
        self.config = AgentConfig(
            device="board", fleet="f", broker="memory", store=str(folder),
            runtime=RuntimeConfig(threads=3),
        )  # fmt: skip
        self.board = BoardProfiler(
            self.config, run="r1", folder=folder, mqtt=self.mqtt,
            objection=lambda: self.objection, on_change=lambda: None, make_child=self._child,
        )  # fmt: skip
        self.mqtt.subscribe(TOPICS.command("board"), self._on_command)
        self.say()

    def _child(self, arguments: list[str], on_line: Callable[[bytes], None]) -> ScriptedChild:
        self.children.append(ScriptedChild(self, arguments, on_line))
        return self.children[-1]

    def _on_command(self, topic: str, payload: bytes) -> None:
        self.board.obey(parse_json(payload, Command, origin=topic))

    def say(self, state: DeviceState = "idle", run: str = "r1", **more: str) -> None:
        status = DeviceStatus(
            device=more.pop("device", "board"), state=state, run=run,
            runtime=more.pop("runtime", "onnxruntime 1.0.0"), **more,
        )  # fmt: skip
        self.mqtt.publish(TOPICS.status(status.device), to_json(status, indent=0), retain=True)
        self.broker.settle()

    def measure(self, device: str = "board", wish: ProfileWish = WISH) -> Received:
        return measure_board(
            device, wish, mqtt=self.operator, topics=TOPICS, watcher=self.watcher,
            progress=lambda text, share: self.progress.append((text, share)), timeout_s=30.0,
        )  # fmt: skip

    def measure_beside(self) -> "tuple[threading.Thread, list[Any]]":
        """Measure on another thread, held before its end; returns once it is under way."""
        self.is_held.set()
        outcome: list[Any] = []

        def work() -> None:
            try:
                outcome.append(self.measure())
            except EdgeKitError as error:
                outcome.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert self.running.wait(10.0)
        return thread, outcome


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(operator_side, "_STATUS_TIMEOUT_S", 0.3)
    monkeypatch.setattr(operator_side, "_QUIET_S", 0.1)
    monkeypatch.setattr(operator_side, "_ASK_AGAIN_S", 0.1)
    monkeypatch.setattr(operator_side, "_GONE_LIMIT_S", 0.2)
    monkeypatch.setattr(operator_side, "_SILENCE_LIMIT_S", 2.0)
    made = World(tmp_path)
    yield made
    made.is_held.clear()
    made.board.close()


def test_a_profile_of_several_blocks_arrives_whole(world: World) -> None:
    """And with the board's own threads; its digest is what the status names from then on."""
    world.profile = profile_of("board", kernel_count=10_000)
    received = world.measure()
    assert received.profile == world.profile
    assert len(zlib.compress(received.toml)) > BLOCK_BYTES
    assert hashlib.sha256(received.toml).hexdigest() == world.board.sha256
    assert world.progress[-1] == ("done", 1.0)
    (child,) = world.children
    assert child.arguments[child.arguments.index("--threads") + 1] == "3"
    assert "--quick" in child.arguments and "--anyway" not in child.arguments


def test_what_the_board_objects_to_is_done_only_anyway(world: World) -> None:
    """Such as a stream that it serves."""
    world.objection = "board serves d1"
    with pytest.raises(DeviceError, match=r"board serves d1.*--anyway"):
        world.measure()
    assert not world.children
    assert world.measure(wish=ProfileWish(anyway=True)).profile == world.profile


def test_a_second_request_while_one_runs_is_refused_with_its_progress(world: World) -> None:
    """Two measurements at once would both be wrong."""
    thread, outcome = world.measure_beside()
    with pytest.raises(DeviceError, match="measured already"):
        world.measure()
    world.is_held.clear()
    thread.join(10.0)
    assert isinstance(outcome[0], Received)
    assert len(world.children) == 1


def test_what_the_profiler_says_is_what_the_operator_reads(world: World) -> None:
    """A throttled board, a full disk."""
    world.ended = Ended(is_ok=False, problem="throttling: under-voltage", hint="cool it")
    with pytest.raises(DeviceError, match=r"board: throttling: under-voltage\. Try: cool it"):
        world.measure()


def test_a_full_disk_ends_the_measuring_with_a_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with a thread that died and a board that seems busy for ever."""

    def full(child: ScriptedChild, *, limit_s: float) -> Ended:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ScriptedChild, "run", full)
    with pytest.raises(DeviceError, match=r"No space left.*disk"):
        world.measure()
    assert world.board.request == ""


def test_lost_messages_are_asked_for_again(world: World) -> None:
    """The first reports and every other block never arrive."""
    world.profile = profile_of("board", kernel_count=10_000)
    publish, seen = world.mqtt.publish, set()

    def lossy(topic: str, payload: bytes, **more: Any) -> None:
        if topic in seen or topic.startswith(TOPICS.status("board")):
            publish(topic, payload, **more)
        seen.add(topic)

    world.mqtt.publish = lossy  # type: ignore[method-assign]
    assert world.measure().profile == world.profile
    assert len(world.children) == 1


def test_a_cancellation_ends_the_request_that_it_names_and_no_other(world: World) -> None:
    """One operator's Ctrl-C must not end another's measuring."""
    thread, outcome = world.measure_beside()
    world.board.obey(Command(id="x1", verb="cancel", request="another"))
    world.board.obey(Command(id="x2", verb="cancel"))
    assert world.board.request
    world.board.obey(Command(id="x3", verb="cancel", request=world.board.request))
    thread.join(10.0)
    assert "wants it no more" in str(outcome[0])
    assert world.board.request == ""


def test_an_operator_that_leaves_tells_the_board(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while it measures."""
    world.is_held.set()

    def interrupt(text: str, share: float) -> None:
        if share > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_board(
            "board", WISH, mqtt=world.operator, topics=TOPICS, watcher=world.watcher,
            progress=interrupt,
        )  # fmt: skip
    wait_until(lambda: world.board.request == "")


def test_an_operator_that_vanishes_does_not_leave_the_board_busy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, or its network is gone: it asks no more."""
    monkeypatch.setattr(agent_side, "_LEASE_S", 0.3)
    world.is_held.set()
    world.board.obey(Command(id="abc", verb="profile", profile=WISH))
    assert world.board.request == "abc"
    wait_until(lambda: world.board.request == "")


def test_a_deployment_goes_before_measuring_unless_that_was_wanted_anyway(world: World) -> None:
    """What was measured stays in the journal."""
    thread, outcome = world.measure_beside()
    world.board.give_way("deployment d2 came")
    thread.join(10.0)
    assert "deployment d2 came" in str(outcome[0])
    assert "goes on" in outcome[0].hint
    world.is_held.set()
    world.board.obey(Command(id="b1", verb="profile", profile=ProfileWish(anyway=True)))
    world.board.give_way("deployment d3 came")
    assert world.board.request == "b1"


def test_a_board_that_no_agent_has_is_answered_with_those_that_are_online(world: World) -> None:
    """A misspelt name."""
    world.say(device="edge-a")
    world.say("offline", device="edge-b")
    with pytest.raises(LinkError, match=r"called 'bord'.*online: board, edge-a\. Try"):
        world.measure("bord")
    with pytest.raises(LinkError, match="edge-b is offline"):
        world.measure("edge-b")


def test_an_agent_from_before_this_verb_is_named_as_such(world: World) -> None:
    """Its status names no runtime, and the command would make it fall silent."""
    world.say(runtime="", agent_version="0.0.9")
    with pytest.raises(DeviceError, match=r"edgekit 0\.0\.9\) cannot"):
        world.measure()


def test_an_agent_that_does_not_answer_is_given_up(world: World) -> None:
    """It said that it is online, and hears nothing."""
    world.mqtt.unsubscribe(TOPICS.command("board"))
    with pytest.raises(LinkError, match="does not answer"):
        world.measure()


@pytest.mark.parametrize(
    ("state", "run", "words"), [("offline", "r1", "went offline"), ("idle", "r2", "restarted")]
)
def test_an_agent_that_dies_meanwhile_is_an_error_that_says_so(
    world: World, state: DeviceState, run: str, words: str
) -> None:
    """Its last will, or its next life."""
    thread, outcome = world.measure_beside()
    world.say(state, run)
    thread.join(10.0)
    assert isinstance(outcome[0], DeviceError)
    assert words in outcome[0].what and "goes on" in outcome[0].hint


def test_an_agent_that_lost_its_network_for_a_moment_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker says that it is gone; then it is back, the same."""
    monkeypatch.setattr(operator_side, "_GONE_LIMIT_S", 10.0)
    thread, outcome = world.measure_beside()
    world.say("offline")
    wait_until(lambda: world.watcher.status("board").state == "offline")  # type: ignore[union-attr]
    world.say("idle")
    world.is_held.clear()
    thread.join(10.0)
    assert isinstance(outcome[0], Received)


@pytest.mark.parametrize(
    ("payload", "size_bytes", "words"),
    [
        (b"not zlib at all", 100, "unpacked"),
        (zlib.compress(b"x" * 100), 100, "digest"),
        (zlib.compress(bytes(200_000_000)), 1000, "digest"),
    ],
)
def test_what_is_not_what_was_measured_is_refused(
    world: World, payload: bytes, size_bytes: int, words: str
) -> None:
    """Garbage, other bytes, and a small block that would unpack into a large memory."""
    world.mqtt.unsubscribe(TOPICS.command("board"))

    def answer(topic: str, data: bytes) -> None:
        command = parse_json(data, Command, origin=topic)
        if command.verb != "profile":
            return
        report = ProfileReport(
            device="board", run="r1", request=command.id, state="done", sha256="0" * 64,
            size_bytes=size_bytes, block_count=-(-len(payload) // 100_000),
        )  # fmt: skip
        for index in range(report.block_count):
            block = payload[100_000 * index : 100_000 * (index + 1)]
            world.mqtt.publish(TOPICS.profile_block("board", command.id, index), block)
        world.mqtt.publish(TOPICS.profile("board", command.id), to_json(report, indent=0))

    world.mqtt.subscribe(TOPICS.command("board"), answer)
    with pytest.raises(TrustError, match=words):
        world.measure()


def test_a_restarted_agent_still_names_the_profile_it_measured(world: World) -> None:
    """From its disk."""
    world.measure()
    again = BoardProfiler(
        world.config, run="r2", folder=world.folder, mqtt=world.mqtt, objection=lambda: "",
        on_change=lambda: None,
    )  # fmt: skip
    assert again.sha256 == world.board.sha256 != ""


def wait_until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Poll; fails if it never holds."""
    tick = threading.Event()
    for _ in range(round(limit_s / 0.02)):
        if condition():
            return
        tick.wait(0.02)
    raise AssertionError("it never came true")
