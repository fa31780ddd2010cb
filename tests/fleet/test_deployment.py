"""Two-phase deployment against devices that obey, fail, vanish or are deaf."""

import dataclasses

import pytest

from edgekit.errors import DeviceError, LinkError
from edgekit.fleet.deployment import deploy
from edgekit.fleet.watch import FleetWatcher
from edgekit.spec.base import parse_json, to_json
from edgekit.spec.manifest import Manifest
from edgekit.spec.messages import Announcement, Command, DeviceState, DeviceStatus
from edgekit.spec.plan import Cut, Placement, Plan
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.topics import Topics
from edgekit.transport.memory_mqtt import MemoryBroker

TOPICS = Topics(fleet="f")
DIGEST = "0" * 64
SPEC = TensorSpec(name="x", dtype="float32", shape=(1, 3, 8, 8))


def announcement() -> Announcement:
    placements = tuple(
        Placement(
            device=device, shard="s", inputs=(SPEC,), outputs=(SPEC,), work_flop=1, weight_bytes=0
        )
        for device in ("a", "b")
    )
    plan = Plan(
        model="m", model_sha256=DIGEST, rule="given", placements=placements,
        cuts=(Cut(tensors=(SPEC,), work_flop_before=1, op_count_before=1),),
        model_inputs=(SPEC,), model_outputs=(SPEC,),
    )  # fmt: skip
    return Announcement(manifest=Manifest(model="m", model_sha256=DIGEST, files=()), plan=plan)


@dataclasses.dataclass
class Device:
    """An agent as the operator sees it: commands in, status out."""

    name: str
    broker: MemoryBroker
    problem: str = ""
    deaf_count: int = 0
    """Commands that get lost before one is heard."""
    state: DeviceState = "idle"
    epoch: int = 0

    def __post_init__(self) -> None:
        self.seen: list[str] = []
        self._obeyed: set[str] = set()
        self._mqtt = self.broker.session(self.name)
        self._mqtt.connect()
        self._mqtt.subscribe(TOPICS.command(self.name), self._obey)
        self.say("idle")

    def _obey(self, topic: str, payload: bytes) -> None:
        command = parse_json(payload, Command, origin=topic)
        if self.deaf_count:
            self.deaf_count -= 1
            return
        if command.id in self._obeyed:
            return
        self._obeyed.add(command.id)
        self.seen.append(command.verb)
        if command.verb == "prepare":
            state: DeviceState = "failed" if self.problem else "ready"
            self.say(state, command, self.problem)
        elif command.verb == "commit":
            self.epoch = command.epoch
            self.say("serving", command)
        else:
            self.say("idle", command)

    def say(self, state: DeviceState, command: Command | None = None, problem: str = "") -> None:
        self.state = state
        status = DeviceStatus(
            device=self.name,
            state=state,
            deployment=command.deployment if command else "",
            command=command.id if command else "",
            epoch=self.epoch,
            problem=problem,
        )
        self._mqtt.publish(TOPICS.status(self.name), to_json(status), retain=True)


def run_deploy(broker: MemoryBroker, *, timeout_s: float = 5.0) -> int:
    mqtt = broker.session("operator")
    mqtt.connect()
    watcher = FleetWatcher(mqtt, TOPICS)
    return deploy(
        announcement(), mqtt=mqtt, topics=TOPICS, watcher=watcher, say=lambda text: None,
        online_timeout_s=0.2, ready_timeout_s=timeout_s, serving_timeout_s=timeout_s,
    )  # fmt: skip


def test_every_device_prepares_before_any_commits() -> None:
    """All or none."""
    broker = MemoryBroker()
    devices = [Device(name, broker) for name in ("a", "b")]
    assert run_deploy(broker) == 1
    assert [device.seen for device in devices] == [["prepare", "commit"]] * 2
    assert [device.state for device in devices] == ["serving"] * 2


def test_the_epoch_grows_past_what_any_device_serves() -> None:
    """A device that missed a deployment must not take the new one for an old one."""
    broker = MemoryBroker()
    Device("a", broker)
    other = Device("b", broker, epoch=7)
    other.say("serving")
    assert run_deploy(broker) == 8


def test_one_device_that_cannot_prepare_stops_all() -> None:
    """Nobody commits; everybody is told to abort; the error carries the device's own words."""
    broker = MemoryBroker()
    good = Device("a", broker)
    Device("b", broker, problem="disk full")
    with pytest.raises(DeviceError, match="b cannot be ready: disk full"):
        run_deploy(broker)
    assert broker.settle()
    assert good.seen == ["prepare", "abort"]


def test_an_old_failure_is_not_taken_for_news() -> None:
    """A retained "failed" of last week must not stop today's deployment."""
    broker = MemoryBroker()
    Device("a", broker)
    Device("b", broker).say("failed", problem="last week's")
    assert run_deploy(broker) == 1


def test_a_lost_command_is_sent_again() -> None:
    """A broker may restart between a command and its device."""
    broker = MemoryBroker()
    Device("a", broker)
    deaf = Device("b", broker, deaf_count=1)
    assert run_deploy(broker, timeout_s=10.0) == 1
    assert deaf.seen == ["prepare", "commit"]


def test_a_device_that_is_not_there_is_named_before_anything_is_sent() -> None:
    """The commonest mistake: an agent that was not started."""
    broker = MemoryBroker()
    present = Device("a", broker)
    with pytest.raises(LinkError, match=r"not online after .*: b"):
        run_deploy(broker)
    assert present.seen == []


def test_a_device_that_never_gets_ready_times_out_and_everybody_aborts() -> None:
    """A failed deployment never blocks the next."""
    broker = MemoryBroker()
    good = Device("a", broker)
    stuck = Device("b", broker, deaf_count=10**6)
    with pytest.raises(LinkError, match=r"not ready after .*: b"):
        run_deploy(broker, timeout_s=0.5)
    assert broker.settle()
    stuck.deaf_count = 0
    assert run_deploy(broker) == 1
    assert good.seen == ["prepare", "abort", "prepare", "commit"]
