"""Measured costs of codecs, as the planner takes them."""

import math

import numpy as np
import pytest

from edgekit.errors import ConfigError
from edgekit.spec.codec import parse_codec
from edgekit.spec.planning import RAW_FP32
from edgekit.transport.codecs import make_codec, measured_codec_costs
from edgekit.transport.codecs.cost import measure_codec

FRAMES = [
    {"x": np.random.default_rng(seed).random((1, 8, 16, 16), np.float32)} for seed in range(3)
]
WIDE = [{"y": np.zeros((1, 16, 32, 32), np.float32)}]


def test_bytes_are_those_of_the_wire() -> None:
    found = measure_codec(parse_codec("uint8"), FRAMES)
    sent = make_codec(parse_codec("uint8")).encode(FRAMES[0])
    assert found.wire_bytes == sent.header.payload_bytes == 8 * 16 * 16 + 8
    assert found.raw_bytes == 4 * found.element_count
    assert found.encode_s > 0
    assert found.decode_s > 0


def test_every_cut_keeps_its_own_bytes_and_all_cuts_count_by_size() -> None:
    codecs = [parse_codec("fp32"), parse_codec("uint8")]
    raw, stepped = measured_codec_costs(
        {"x": codecs, "y": codecs}, {"x": FRAMES, "y": WIDE}, accuracy_drop_pp={"uint8": 0.5}
    )
    assert raw.name == RAW_FP32.name
    assert raw.bytes_per_element == RAW_FP32.bytes_per_element
    assert math.isinf(raw.encode_bytes_per_s)
    assert stepped.accuracy_drop_pp == 0.5
    assert stepped.by_cut["y"] == pytest.approx(1 + 8 / 16384)
    assert stepped.bytes_per_element == pytest.approx((2056 + 16392) / (2048 + 16384))
    assert 0 < stepped.encode_bytes_per_s < math.inf


def test_a_codec_whose_loss_nobody_measured_is_left_out() -> None:
    """What is not known must not be chosen; what loses nothing needs no measuring."""
    codecs = [parse_codec("fp16"), parse_codec("fp32")]
    found = measured_codec_costs({"x": codecs}, {"x": FRAMES}, accuracy_drop_pp={})
    assert [cost.name for cost in found] == ["fp32"]


def test_a_codec_that_was_not_given_for_every_cut_is_left_out() -> None:
    codecs = {"x": [parse_codec("fp32"), parse_codec("fp16")], "y": [parse_codec("fp32")]}
    found = measured_codec_costs(codecs, {"x": FRAMES, "y": WIDE}, accuracy_drop_pp={"fp16": 0.0})
    assert [cost.name for cost in found] == ["fp32"]
    assert measured_codec_costs({}, {}, accuracy_drop_pp={}) == ()


def test_a_codec_without_frames_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to be measured on"):
        measure_codec(parse_codec("fp32"), [])
