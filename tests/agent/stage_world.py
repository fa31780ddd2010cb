"""What the tests of stages share: a fake model, its plans, and two stages joined by a hop."""

import time
from collections.abc import Callable
from contextlib import ExitStack

import msgspec
import numpy as np

from edgekit.agent.capture import Capture
from edgekit.agent.ledger import Ledger
from edgekit.agent.picture_runner import Forwarder, runner_of
from edgekit.agent.relay_stage import RelayStage
from edgekit.agent.shard import ShardRunner
from edgekit.agent.source_stage import Answered, SourceStage
from edgekit.runtime.echo import EchoSession
from edgekit.spec.card import ModelCard, OutputCard
from edgekit.spec.codec import RAW, CodecSpec
from edgekit.spec.plan import FRAME_CUT, Cut, Placement, Plan
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.hop import TcpHopLink, TcpHopListener
from edgekit.transport.port import Identity
from edgekit.vision.sources.memory import MemorySource

IMAGE = TensorSpec(name="images", dtype="float32", shape=(1, 3, 32, 32))
MIDDLE = TensorSpec(name="middle", dtype="float32", shape=(1, 3, 32, 32))
OUTPUT = TensorSpec(name="output0", dtype="float32", shape=(1, 5, 21))
CARD = ModelCard(
    name="fake", labels=("thing",), output=OutputCard(decoder="ultralytics", score_threshold=0.5)
)
DIGEST = "0" * 64


def plan_of(*devices: str) -> Plan:
    """A model of as many shards as devices; every cut is ``middle``."""
    count = len(devices)
    placements = [
        Placement(
            device=device,
            shard=f"shards/shard-{index}.onnx",
            inputs=(IMAGE,) if index == 0 else (MIDDLE,),
            outputs=(OUTPUT,) if index == count - 1 else (MIDDLE,),
            work_flop=1,
            weight_bytes=0,
        )
        for index, device in enumerate(devices)
    ]
    cut = Cut(tensors=(MIDDLE,), work_flop_before=1, op_count_before=1)
    return Plan(
        model="fake", model_sha256=DIGEST, rule="given", placements=tuple(placements),
        cuts=(cut,) * (count - 1), model_inputs=(IMAGE,), model_outputs=(OUTPUT,),
    )  # fmt: skip


def forwarding_plan(codec: CodecSpec) -> Plan:
    """Device "a" films, device "b" runs the whole fake model."""
    film = Placement(device="a", shard="", inputs=(), outputs=(), work_flop=0, weight_bytes=0)
    whole = Placement(
        device="b", shard="shards/shard-0.onnx", inputs=(IMAGE,), outputs=(OUTPUT,), work_flop=1,
        weight_bytes=0,
    )  # fmt: skip
    return Plan(
        model="fake", model_sha256=DIGEST, rule="given", placements=(film, whole),
        cuts=(FRAME_CUT,), model_inputs=(IMAGE,), model_outputs=(OUTPUT,), codecs=(codec,),
    )  # fmt: skip


def sharing_plan() -> Plan:
    """Device "a" films, and has the whole fake model as device "b" has."""
    plan = forwarding_plan(RAW)
    own = msgspec.structs.replace(plan.placements[1], device="a", shard="shards/shard-own.onnx")
    return msgspec.structs.replace(plan, placements=(own, plan.placements[1]), codecs=())


def find_brightness(inputs: dict[str, Array]) -> dict[str, Array]:
    """One box per frame whose width tells the frame's brightness: answers tell frames apart."""
    (tensor,) = inputs.values()
    raw = np.zeros(OUTPUT.shape, np.float32)
    raw[0, :, 0] = 16, 16, 2 + float(tensor.mean()) / 10, 8, 0.9
    return {"output0": raw}


def pass_on(inputs: dict[str, Array]) -> dict[str, Array]:
    """The first half of the fake model."""
    return {"middle": inputs["images"]}


def images(count: int) -> list[np.ndarray]:
    return [np.full((32, 32, 3), index, np.uint8) for index in range(count)]


class Pair:
    """A source stage and a relay stage over a real hop on loopback."""

    def __init__(
        self,
        source: MemorySource,
        stack: ExitStack,
        *,
        delay_s: float = 0.0,
        second: Callable[[dict[str, Array]], dict[str, Array]] = find_brightness,
        first: Callable[[dict[str, Array]], dict[str, Array]] = pass_on,
        codec: CodecSpec = RAW,
        forwards: bool = False,
        own_delay_s: float | None = None,
    ) -> None:
        """``own_delay_s``: the first device has the whole model too, and takes so long for it."""
        plan = forwarding_plan(codec) if forwards else plan_of("a", "b")
        own = None
        if own_delay_s is not None:
            plan = sharing_plan()
            whole = EchoSession((IMAGE,), (OUTPUT,), own_delay_s, find_brightness)
            own = runner_of(plan, 0, ShardRunner(whole, plan, 0), CARD)
        self.codec = codec
        self.ledger, self.answers = Ledger(), list[Answered]()
        self.delay_s, self.second, self._plan, self._stack = delay_s, second, plan, stack
        session = EchoSession((IMAGE,), (MIDDLE,), function=first)
        shard = None if forwards or own else ShardRunner(session, plan, 0)
        self.stage = SourceStage(
            device="a",
            run="r",
            stream="s",
            capture=Capture(source, self.ledger),
            ledger=self.ledger,
            runner=Forwarder() if own else runner_of(plan, 0, shard, CARD),
            card=CARD,
            model_input=IMAGE,
            stage_count=2,
            next_device="b",
            own=own,
        )
        self.link = TcpHopLink(
            self.identity("a"),
            on_answer=self.stage.answer,
            on_state=lambda connected, _state: self.stage.hop_changed(connected),
        )
        self.peer: RelayStage | None = None
        self.listener: TcpHopListener | None = None

    def identity(self, device: str) -> Identity:
        return Identity(device=device, fleet="f", deployment="d", epoch=1, cut=0, codec=self.codec)

    def start_peer(self) -> None:
        """(Re)start the second device on a new port."""
        takes = self._plan.placements[1].inputs
        session = EchoSession(takes, (OUTPUT,), self.delay_s, self.second)
        runner = runner_of(self._plan, 1, ShardRunner(session, self._plan, 1), CARD)
        self.peer = RelayStage(
            device="b", index=1, runner=runner, card=CARD, model_input=IMAGE
        )  # fmt: skip
        self.listener = TcpHopListener("127.0.0.1", 0, on_activation=self.peer.accept)
        self.listener.serve(self.identity("b"))
        self.peer.start(None)
        self.link.set_peer(*self.listener.address)

    def stop_peer(self) -> None:
        """The second device vanishes: socket first, as in a crash."""
        assert self.listener is not None and self.peer is not None
        self.listener.close()
        self.peer.stop()

    def start(self) -> None:
        self.stage.start(self.answers.append, self.link)
        self._stack.callback(self.link.close)
        self._stack.callback(self.stage.stop)

    def wait(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, self.ledger.snapshot(time.perf_counter())
            time.sleep(0.005)

    def is_closed(self) -> bool:
        return self.ledger.snapshot(time.perf_counter()).is_closed
