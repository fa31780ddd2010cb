"""Two stages joined by a hop, in one process, with fake shards: order, accounts, faults."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from stage_world import (
    CARD,
    DIGEST,
    IMAGE,
    MIDDLE,
    OUTPUT,
    Pair,
    find_brightness,
    images,
    plan_of,
)

from edgekit.agent.relay_stage import RelayStage
from edgekit.agent.shard import ShardRunner
from edgekit.errors import DeviceError
from edgekit.runtime.echo import EchoSession
from edgekit.spec.codec import parse_codec
from edgekit.spec.plan import Cut, Plan
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.codecs import Encoded, make_codec
from edgekit.transport.memory import MemoryHopLink, MemoryHopListener, MemoryNetwork
from edgekit.transport.port import Activation, Answer, Identity, answer_to
from edgekit.vision.sources.memory import MemorySource


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
    pair.stage._runner._shard._session.function = (
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


@pytest.mark.parametrize("name", ["fp16", "uint8+zstd"])
def test_coded_activations_give_the_answers_of_the_frames_they_are_about(
    stack: ExitStack, name: str
) -> None:
    """And the report tells the bytes that travelled, and what coding cost."""
    pair = Pair(MemorySource(images(30)), stack, codec=parse_codec(name))
    pair.start_peer()
    pair.start()
    pair.wait(pair.is_closed)
    assert [answered.frame.number for answered in pair.answers] == list(range(30))
    for answered in pair.answers:
        (box,) = [detection.box for detection in answered.detections]
        assert box[2] - box[0] == pytest.approx(2 + answered.frame.number / 10, abs=0.02)
        (hop,) = answered.hops
        assert hop.bytes <= MIDDLE.nbytes / 2
        assert hop.encode_ms > 0
        assert hop.decode_ms > 0
    assert pair.stage.sent_bytes > sum(answered.hops[0].bytes for answered in pair.answers)


def not_a_number_if_odd(inputs: dict[str, Array]) -> dict[str, Array]:
    """A shard that overflows now and then."""
    (tensor,) = inputs.values()
    return {"middle": tensor * np.float32(np.nan) if int(tensor.mean()) % 2 else tensor}


def test_a_frame_that_cannot_be_coded_is_dropped_with_a_reason_and_the_stream_goes_on(
    stack: ExitStack,
) -> None:
    """Once, also from a file, whose frames are sent again when a hop fails: this was no hop."""
    pair = Pair(
        MemorySource(images(10)), stack, first=not_a_number_if_odd, codec=parse_codec("uint8")
    )
    pair.start_peer()
    pair.start()
    pair.wait(pair.is_closed)
    accounts = pair.ledger.snapshot(time.perf_counter())
    assert accounts.dropped == {"cannot_encode": 5}
    assert [answered.frame.number for answered in pair.answers] == [0, 2, 4, 6, 8]
    assert pair.link.counters.activations_sent == 5
    assert pair.link.counters.connects == 1


def test_a_codec_that_fails_in_its_library_costs_that_frame_only(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory may run out inside NumPy or the packer; the thread that sends must outlive it."""
    pair = Pair(MemorySource(images(6)), stack, codec=parse_codec("fp16"))
    encode, calls = pair.link._codec.encode, []

    def fails_once(tensors: dict[str, Array], **options: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("no room")
        return encode(tensors, **options)

    monkeypatch.setattr(pair.link._codec, "encode", fails_once)
    pair.start_peer()
    pair.start()
    pair.wait(pair.is_closed)
    assert pair.ledger.snapshot(0.0).dropped == {"cannot_encode": 1}
    assert len(pair.answers) == 5


def test_a_middle_stage_answers_for_what_it_cannot_code(stack: ExitStack) -> None:
    """The device with the camera must hear of it, or its frame would be open for ever."""
    plan, network = plan_of("a", "b", "c"), MemoryNetwork()
    codec = parse_codec("uint8")

    def who(device: str) -> Identity:
        return Identity(device=device, fleet="f", deployment="d", epoch=1, cut=1, codec=codec)

    last = MemoryHopListener(
        network,
        on_activation=lambda taken, reply, release: (release(), reply(answer_to(taken))),
    )
    last.serve(who("c"))
    session = EchoSession(
        (MIDDLE,),
        (MIDDLE,),
        function=not_a_number_if_odd,
    )
    stage = RelayStage(
        device="b", index=1, runner=ShardRunner(session, plan, 1), card=CARD, model_input=IMAGE,
        next_device="c",
    )  # fmt: skip
    link = MemoryHopLink(
        network, who("b"), on_answer=stage.answer, on_state=lambda connected, state: None
    )
    link.set_peer(*last.address)
    stage.start(link)
    for end in (link.close, last.close, stage.stop):
        stack.callback(end)
    answers: list[Answer] = []
    for frame in range(6):
        tensors = {"middle": np.full(MIDDLE.shape, frame, np.float32)}
        activation = Activation(
            stream="s", run="r", frame=frame, capture_ns=0, source_height_px=1, source_width_px=1,
            tensors=tensors,
        )  # fmt: skip
        stage.accept(activation, answers.append, lambda: None)
    deadline_s = time.monotonic() + 10
    while len(answers) < 6 and time.monotonic() < deadline_s:
        time.sleep(0.005)
    dropped = {answer.frame: answer.dropped for answer in answers}
    assert dropped == {
        0: "",
        1: "cannot_encode",
        2: "",
        3: "cannot_encode",
        4: "",
        5: "cannot_encode",
    }
    passed = [answer for answer in answers if not answer.dropped]
    assert all(answer.hops[0].bytes < MIDDLE.nbytes / 3 for answer in passed)


def test_the_integers_of_an_int8_shard_enter_the_next_one_as_they_are(stack: ExitStack) -> None:
    """Cut at the output of QuantizeLinear: uint8 from shard to wire to shard."""
    integers = TensorSpec(name="middle", dtype="uint8", shape=MIDDLE.shape)
    first, last = plan_of("a", "b").placements
    plan = Plan(
        model="fake", model_sha256=DIGEST, rule="given",
        placements=(
            msgspec.structs.replace(first, outputs=(integers,), precision="int8"),
            msgspec.structs.replace(last, inputs=(integers,), precision="int8"),
        ),
        cuts=(Cut(tensors=(integers,), work_flop_before=1, op_count_before=1),),
        model_inputs=(IMAGE,), model_outputs=(OUTPUT,),
        codecs=(parse_codec("uint8+zstd"),),
    )  # fmt: skip
    runner = ShardRunner(EchoSession((integers,), (OUTPUT,), function=find_brightness), plan, 1)
    codec = make_codec(plan.codec_of(0))
    sent = (np.arange(3 * 32 * 32) % 251).astype(np.uint8).reshape(integers.shape)
    encoded = codec.encode({"middle": sent})
    taken = codec.decode(encoded.header, encoded.buffers, cap_bytes=2**20)
    assert runner.check(taken) == ""
    assert np.array_equal(taken["middle"], sent)
    assert runner.run(taken)["output0"].shape == OUTPUT.shape
    assert "float32" in runner.check({"middle": sent.astype(np.float32)})


def test_a_frame_that_the_next_device_cannot_decode_is_dropped_with_a_reason(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly that one, once: the hop stays up, and a file's frame is not sent again."""
    pair = Pair(MemorySource(images(12)), stack, codec=parse_codec("uint8+zstd"))
    encode, calls = pair.link._codec.encode, []

    def damages_every_third(tensors: dict[str, Array], **options: object) -> Encoded:
        calls.append(1)
        encoded = encode(tensors, **options)  # type: ignore[arg-type]
        if len(calls) % 3:
            return encoded
        return replace(encoded, buffers=tuple(bytes(len(part)) for part in encoded.buffers))

    monkeypatch.setattr(pair.link._codec, "encode", damages_every_third)
    pair.start_peer()
    pair.start()
    pair.wait(pair.is_closed)
    assert pair.ledger.snapshot(0.0).dropped == {"cannot_decode": 4}
    assert [answered.frame.number for answered in pair.answers] == [0, 1, 3, 4, 6, 7, 9, 10]
    assert len(calls) == 12
    assert pair.link.counters.connects == 1
