"""Headers: what is accepted, what is refused, and that nothing else can happen."""

import dataclasses
import struct

import msgspec
import pytest
from hop_world import identity
from hypothesis import assume, given
from hypothesis import strategies as st

from edgekit.errors import ConfigError, LinkError, TrustError
from edgekit.spec.codec import CodecSpec, TensorRange, parse_codec
from edgekit.transport import headers

MESSAGES = [
    headers.hello(identity()),
    headers.hello(identity(codec=parse_codec("uint8+zstd"))),
    headers.Welcome(device="edge-b", credit=2),
    headers.Refuse(device="edge-b", reason="not serving deployment d1 yet"),
    headers.Credit(count=1),
    headers.Ping(stamp_ns=-5),
    headers.Pong(stamp_ns=2**62),
    headers.Bye(reason="shutting down"),
    headers.AnswerHeader(stream="main", run="r", frame=7, capture_ns=1, dropped="queue"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_header_comes_back_as_it_was_sent(message: headers.Message) -> None:
    encoded = headers.encode(message)
    assert headers.header_length(encoded[:4]) == len(encoded) - 4
    assert headers.decode(encoded[4:]) == message


@given(st.binary(max_size=300))
def test_random_bytes_are_a_link_error_and_nothing_else(data: bytes) -> None:
    """A port scanner or a broken peer must not bring another exception."""
    with pytest.raises(LinkError, match="malformed header"):
        headers.decode(data)


@given(st.sampled_from(MESSAGES), st.data())
def test_a_damaged_header_is_refused_or_still_valid(
    message: headers.Message, data: st.DataObject
) -> None:
    encoded = bytearray(headers.encode(message)[4:])
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        headers.decode(encoded)
    except LinkError as error:
        assert error.hint


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    ),
    st.sampled_from(["hello", "activationheader", "answerheader", "credit", "unknown"]),
)
def test_valid_msgpack_of_the_wrong_shape_is_a_link_error(value: object, kind: str) -> None:
    # A credit is a count and nothing else: a number makes it whole.
    assume(kind != "credit" or not isinstance(value, int) or isinstance(value, bool))
    fields = {"kind": kind, "frame": value, "device": value, "count": value, "coded": value}
    with pytest.raises(LinkError):
        headers.decode(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize("length", [0, headers.HEADER_CAP_BYTES + 1, 2**32 - 1])
def test_a_header_length_beyond_the_cap_is_never_trusted(length: int) -> None:
    """The length is all that stands between a peer and our memory."""
    with pytest.raises(TrustError, match=str(length)):
        headers.header_length(struct.pack(">I", length))


def test_a_number_beyond_64_bits_is_refused_where_it_is_made() -> None:
    with pytest.raises(ConfigError, match="64 bits"):
        headers.encode(headers.Ping(stamp_ns=2**70))


def test_a_header_beyond_the_cap_is_refused_where_it_is_made() -> None:
    with pytest.raises(ConfigError, match="exceeds"):
        headers.encode(headers.Bye(reason="x" * headers.HEADER_CAP_BYTES))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"device": "edge-z"}, ""),
        ({"fleet": "harbour"}, "belongs to fleet yard, not harbour"),
        ({"deployment": "d2"}, "serving deployment d1, not d2"),
        ({"epoch": 2}, "serving epoch 1 of d1, not 2"),
        ({"cut": 1}, "serving cut 0 of d1, not 1"),
        ({"codec": parse_codec("uint8")}, "cut 0 of d1 is coded as fp32, not uint8"),
    ],
)
def test_a_link_is_taken_only_for_the_same_pipeline(change: dict[str, object], reason: str) -> None:
    """Both ends agree on all but the device's name."""
    refusal = headers.refusal(headers.hello(identity(**change)), identity("edge-b"))
    assert (reason in refusal) if reason else refusal == ""


def test_a_listener_that_serves_nothing_says_so() -> None:
    assert headers.refusal(headers.hello(identity()), None) == "not serving deployment d1 yet"


def test_another_protocol_version_is_refused_by_number() -> None:
    greeting = msgspec.structs.replace(headers.hello(identity()), protocol=9)
    assert "protocol 2, not 9" in headers.refusal(greeting, identity("edge-b"))


def test_a_hello_of_a_later_version_can_still_be_read() -> None:
    """Otherwise a version mismatch would look like garbage instead of a clear refusal."""
    fields = msgspec.to_builtins(headers.hello(identity())) | {"protocol": 3, "novelty": [1]}
    greeting = headers.decode(msgspec.msgpack.encode(fields))
    assert isinstance(greeting, headers.Hello)
    assert greeting.protocol == 3


def test_a_hello_of_the_version_before_codecs_is_refused_by_its_version() -> None:
    fields = msgspec.to_builtins(headers.hello(identity())) | {"protocol": 1}
    del fields["codec"], fields["codec_digest"]
    greeting = headers.decode(msgspec.msgpack.encode(fields))
    assert isinstance(greeting, headers.Hello)
    assert headers.refusal(greeting, identity("edge-b")) == "it speaks hop protocol 2, not 1"


def test_the_same_codec_with_other_parameters_is_refused() -> None:
    """Every number would come out wrong, and nothing would look amiss."""
    one, other = (
        CodecSpec(element="uint8", ranges=(TensorRange(name="x", low=(0.0,), high=(high,)),))
        for high in (1.0, 2.0)
    )
    refusal = headers.refusal(headers.hello(identity(codec=one)), identity("edge-b", codec=other))
    assert refusal == "cut 0 of d1 is coded as uint8 with other parameters; deploy again"


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_a_decode_time_that_is_none_is_refused(seconds: float) -> None:
    """It would go into reports as it is, and JSON has no word for it."""
    fields = msgspec.to_builtins(MESSAGES[-1]) | {"decode_s": seconds}
    with pytest.raises(LinkError):
        headers.decode(msgspec.msgpack.encode(fields))


def test_identity_has_no_field_that_hello_forgets() -> None:
    sent = set(headers.Hello.__struct_fields__) - {"protocol", "codec_digest"}
    assert sent == {field.name for field in dataclasses.fields(identity())}
