"""Coded tensors over the hop: what port.py promises, real (plain and TLS) and fake alike."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from hop_world import PATIENCE_S, Downstream, Upstream, World, activation, identity, wait_until

from edgekit.errors import ConfigError, ModelError
from edgekit.spec.codec import CodecSpec, TensorRange, parse_codec
from edgekit.transport import frames
from edgekit.transport.codecs import Encoded
from edgekit.transport.port import Activation, hop_time

WAVE = np.sin(np.arange(8 * 64 * 64) / 500).astype(np.float32).reshape(1, 8, 64, 64)


@pytest.mark.parametrize(
    ("name", "share", "error"),
    [
        ("fp32+zstd", 1.0, 0.0),
        ("fp16", 0.5, 1e-3),
        ("uint8+zstd", 0.25, 0.005),
        ("uint8-channel+lz4", 0.26, 0.005),
    ],
)
def test_tensors_travel_in_the_codec_of_the_cut(
    world: World, name: str, share: float, error: float
) -> None:
    """Fewer bytes on the wire; what the consumer gets is as before, within the codec's error."""
    up, down = Upstream(), Downstream()
    link, _ = world.pair(up, down, codec=parse_codec(name))
    steps = np.arange(12, dtype=np.int64)
    sent_bytes = link.send(activation(0, {"x": WAVE, "steps": steps}), timeout_s=1)
    assert wait_until(lambda: up.answers)
    taken = down.activations[0].tensors
    assert (taken["x"].dtype, taken["x"].shape) == (WAVE.dtype, WAVE.shape)
    assert float(np.abs(taken["x"] - WAVE).max()) <= error
    assert np.array_equal(taken["steps"], steps)
    assert taken["x"].flags.writeable
    assert up.trips[0].payload_bytes <= share * WAVE.nbytes + steps.nbytes
    assert up.trips[0].payload_bytes < sent_bytes < up.trips[0].payload_bytes + 1000


def test_coding_times_are_told_apart_from_the_way(world: World) -> None:
    """A codec that costs more than it saves must show."""
    up, down = Upstream(), Downstream()
    link, _ = world.pair(up, down, codec=parse_codec("uint8+zstd"))
    link.send(activation(0, {"x": WAVE}), timeout_s=1)
    assert wait_until(lambda: up.answers)
    answer, trip = up.answers[0], up.trips[0]
    assert trip.encode_s > 0
    assert 0 < answer.decode_s <= answer.residence_s <= trip.round_trip_s
    told = hop_time(answer, trip, source="edge-a", target="edge-b")
    assert told.bytes == trip.payload_bytes
    assert told.encode_ms == pytest.approx(1e3 * trip.encode_s, abs=1e-3)
    assert told.decode_ms == pytest.approx(1e3 * answer.decode_s, abs=1e-3)


RANGED = [
    CodecSpec(element="uint8", ranges=(TensorRange(name="x", low=(0.0,), high=(high,)),))
    for high in (1.0, 2.0)
]


@pytest.mark.parametrize(
    ("here", "there", "reason"),
    [
        (parse_codec("uint8"), parse_codec("fp16"), "cut 0 of d1 is coded as fp16, not uint8"),
        (RANGED[0], RANGED[1], "cut 0 of d1 is coded as uint8 with other parameters"),
    ],
)
def test_a_link_with_another_codec_is_refused_before_any_frame(
    world: World, here: CodecSpec, there: CodecSpec, reason: str
) -> None:
    up, down = Upstream(), Downstream()
    listener = world.listener(down)
    listener.serve(identity("edge-b", codec=there))
    link = world.link(up, who=identity("edge-a", codec=here))
    link.set_peer(*listener.address)
    assert wait_until(lambda: f"edge-b refuses: {reason}" in link.state), link.state
    assert not up.states
    assert not down.taken


def test_a_tensor_that_its_codec_cannot_express_costs_neither_credit_nor_connection(
    world: World,
) -> None:
    """One NaN from a shard must not be news to the next device."""
    up, down = Upstream(), Downstream()
    link, _ = world.pair(up, down, codec=parse_codec("uint8"))
    for frame in range(4):
        with pytest.raises(ModelError, match="'x' holds NaN"):
            link.send(activation(frame, {"x": np.full(9, np.nan, np.float32)}), timeout_s=1)
    link.send(activation(4, {"x": WAVE}), timeout_s=1)
    assert wait_until(lambda: up.answers)
    assert [answer.frame for answer in up.answers] == [4]
    assert len(up.states) == 1


def test_a_frame_that_cannot_be_decoded_is_answered_as_dropped_and_the_next_one_passes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged bytes of the right length: the hop is still in step, so it need not break."""
    coded = frames.coded

    def damaged(sent: Activation, *rest: object, **options: object) -> Encoded:
        encoded = coded(sent, *rest, **options)  # type: ignore[arg-type]
        if sent.frame == 1:
            junk = tuple(b"\xff" * len(buffer) for buffer in encoded.buffers)
            encoded = replace(encoded, buffers=junk)
        return encoded

    monkeypatch.setattr(frames, "coded", damaged)
    up, down = Upstream(), Downstream()
    link, _ = world.pair(up, down, codec=parse_codec("uint8+zstd"))
    for frame in range(5):
        link.send(activation(frame, {"x": WAVE}), timeout_s=PATIENCE_S)
    assert wait_until(lambda: len(up.answers) == 5)
    assert [(answer.frame, answer.dropped) for answer in up.answers] == [
        (0, ""), (1, "cannot_decode"), (2, ""), (3, ""), (4, ""),
    ]  # fmt: skip
    assert [taken.frame for taken in down.activations] == [0, 2, 3, 4]
    assert len(up.states) == 1


def test_integer_tensors_of_an_int8_shard_travel_bit_for_bit(world: World) -> None:
    up, down = Upstream(), Downstream()
    link, _ = world.pair(up, down, codec=parse_codec("fp32+zstd"))
    sent = (np.arange(4096) % 7).astype(np.uint8).reshape(1, 4, 32, 32)
    link.send(activation(0, {"x_QuantizeLinear_Output": sent}), timeout_s=1)
    assert wait_until(lambda: up.answers)
    taken = down.activations[0].tensors["x_QuantizeLinear_Output"]
    assert taken.dtype == np.uint8
    assert np.array_equal(taken, sent)
    assert up.trips[0].payload_bytes < sent.nbytes / 2


def test_a_codec_whose_library_is_missing_is_refused_where_the_hop_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lz4.block", None)
    codec = parse_codec("fp32+lz4")
    with pytest.raises(ConfigError, match="lz4, which is not installed"):
        world.link(Upstream(), who=identity("edge-a", codec=codec))
    listener = world.listener(Downstream())
    with pytest.raises(ConfigError, match="lz4, which is not installed"):
        listener.serve(identity("edge-b", codec=codec))
