"""Two stages joined by a hop, in one process, with fake shards: order, accounts, faults."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from edgekit.agent.capture import Capture
from edgekit.agent.ledger import Ledger
from edgekit.agent.relay_stage import RelayStage
from edgekit.agent.shard import ShardRunner
from edgekit.agent.source_stage import Answered, SourceStage
from edgekit.errors import DeviceError
from edgekit.runtime.echo import EchoSession
from edgekit.spec.card import ModelCard, OutputCard
from edgekit.spec.plan import Cut, Placement, Plan
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
    ) -> None:
        plan = plan_of("a", "b")
        self.ledger, self.answers = Ledger(), list[Answered]()
        self.delay_s, self.second, self._plan, self._stack = delay_s, second, plan, stack
        first = EchoSession((IMAGE,), (MIDDLE,), function=pass_on)
        self.stage = SourceStage(
            device="a",
            run="r",
            stream="s",
            capture=Capture(source, self.ledger),
            ledger=self.ledger,
            runner=ShardRunner(first, plan, 0),
            card=CARD,
            model_input=IMAGE,
            stage_count=2,
            next_device="b",
        )
        self.link = TcpHopLink(
            self.identity("a"),
            on_answer=self.stage.answer,
            on_state=lambda connected, _state: self.stage.hop_changed(connected),
        )
        self.peer: RelayStage | None = None
        self.listener: TcpHopListener | None = None

    @staticmethod
    def identity(device: str) -> Identity:
        return Identity(device=device, fleet="f", deployment="d", epoch=1, cut=0)

    def start_peer(self) -> None:
        """(Re)start the second device on a new port."""
        session = EchoSession((MIDDLE,), (OUTPUT,), self.delay_s, self.second)
        self.peer = RelayStage(
            device="b", index=1, runner=ShardRunner(session, self._plan, 1), card=CARD,
            model_input=IMAGE,
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


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_every_frame_of_footage_is_answered_once_in_order_with_its_own_answer(
    stack: ExitStack,
) -> None:
    """Answers must not be swapped between frames."""
    pair = Pair(MemorySource(images(60)), stack)
    pair.start_peer()
    pair.start()
    pair.wait(pair.is_closed)
    assert [answered.frame.number for answered in pair.answers] == list(range(60))
    for answered in pair.answers:
        (box,) = [detection.box for detection in answered.detections]
        assert box[2] - box[0] == pytest.approx(2 + answered.frame.number / 10, abs=0.02)
        assert [stage.device for stage in answered.stages] == ["a", "b"]
        assert answered.hops[0].bytes == MIDDLE.nbytes


def test_footage_waits_for_a_lost_hop_and_nothing_is_dropped(stack: ExitStack) -> None:
    """Every-frame sources keep what was under way and send it again."""
    pair = Pair(MemorySource(images(40)), stack, delay_s=0.005)
    pair.start_peer()
    pair.start()
    for count in (5, 15):
        pair.wait(lambda count=count: len(pair.answers) >= count)
        pair.stop_peer()
        time.sleep(0.05)
        pair.start_peer()
    pair.wait(pair.is_closed, 20.0)
    accounts = pair.ledger.snapshot(time.perf_counter())
    assert (accounts.captured, accounts.answered, accounts.dropped) == (40, 40, {})
    assert sorted(answered.frame.number for answered in pair.answers) == list(range(40))


def test_a_slow_peer_makes_a_live_source_drop_old_frames_and_keeps_the_queue_short(
    stack: ExitStack,
) -> None:
    """Newest wins; at most 2 n - 1 frames are under way in a pipeline of n stages."""
    source = MemorySource(images(200), live=True)
    gate = threading.Semaphore(0)
    read = source.read

    def paced_read() -> object:
        gate.acquire(timeout=5.0)
        return read()

    source.read = paced_read  # type: ignore[method-assign]
    pair = Pair(source, stack, delay_s=0.02)
    pair.start_peer()
    pair.start()
    for _ in range(200):
        gate.release()
        time.sleep(0.002)
        assert pair.ledger.snapshot(0.0).in_flight <= 3 + 1  # and one waiting
    gate.release()
    pair.wait(pair.is_closed)
    accounts = pair.ledger.snapshot(time.perf_counter())
    assert accounts.dropped["superseded"] > 50
    assert accounts.captured == accounts.answered + accounts.dropped["superseded"] == 200


def test_a_shard_that_fails_drops_its_frame_with_a_reason_and_the_stream_goes_on(
    stack: ExitStack,
) -> None:
    """Never an empty list of detections instead of an error."""

    def fails_on_odd(inputs: dict[str, Array]) -> dict[str, Array]:
        if int(inputs["middle"].mean()) % 2:
            raise DeviceError("out of memory", hint="use a smaller model")
        return find_brightness(inputs)

    pair = Pair(MemorySource(images(10)), stack, second=fails_on_odd)
    pair.start_peer()
    pair.start()
    pair.wait(pair.is_closed)
    accounts = pair.ledger.snapshot(time.perf_counter())
    assert accounts.dropped == {"inference_failed": 5}
    assert [answered.frame.number for answered in pair.answers] == [0, 2, 4, 6, 8]


def test_tensors_of_the_wrong_shape_are_dropped_with_a_reason(stack: ExitStack) -> None:
    """A neighbour that runs another shard must not crash this one."""
    pair = Pair(MemorySource(images(3)), stack)
    pair.stage._runner._session.function = (
        lambda inputs: {  # type: ignore[attr-defined]
            "middle": inputs["images"][:, :1].copy()
        }
    )
    pair.start_peer()
    pair.start()
    pair.wait(pair.is_closed)
    assert pair.ledger.snapshot(0.0).dropped == {"wrong_tensors": 3}


def test_stopping_accounts_for_frames_under_way(stack: ExitStack) -> None:
    """A redeployment must not lose frames from the books."""
    pair = Pair(MemorySource(images(50)), stack, delay_s=0.05)
    pair.start_peer()
    pair.start()
    pair.wait(lambda: len(pair.answers) >= 2)
    pair.stage.stop()
    accounts = pair.ledger.snapshot(time.perf_counter())
    assert accounts.in_flight == 0
    assert accounts.captured == accounts.answered + sum(accounts.dropped.values())


def test_nothing_is_filmed_before_somebody_can_answer(stack: ExitStack) -> None:
    """The first frames of a file must not be dropped because the peer still loads."""
    pair = Pair(MemorySource(images(5)), stack)
    pair.start()
    time.sleep(0.3)
    assert pair.ledger.snapshot(0.0).captured == 0
    pair.start_peer()
    pair.wait(pair.is_closed)
    assert pair.ledger.snapshot(0.0).answered == 5
