"""Coded bytes come from a peer: nothing in them may crash us, or make us allocate what they say."""

import importlib
import importlib.util
import threading
import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import ConfigError, EdgeKitError, LinkError, TrustError
from edgekit.spec.base import parse_json, to_json
from edgekit.spec.codec import ELEMENTS, PACKINGS, CodecSpec, TensorRange, parse_codec
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.codecs import CodedHeader, CodedTensor, Encoded, calibrate, make_codec

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A loaded machine must not fail a test."""
CAP_BYTES = 2**20
ARRAY = np.round(np.random.default_rng(0).random((1, 4, 16, 16), np.float32), 1)
NAMES = [
    f"{element}+{packing}" if packing != "none" else element
    for element in ELEMENTS
    for packing in PACKINGS
    if packing == "none"
    or importlib.util.find_spec({"lz4": "lz4", "zstd": "zstandard"}[packing]) is not None
]
HAS_ZSTD = importlib.util.find_spec("zstandard") is not None
HAS_LZ4 = importlib.util.find_spec("lz4") is not None


def encoded(name: str, **tensors: Array) -> Encoded:
    return make_codec(parse_codec(name)).encode(tensors or {"x": ARRAY})


def decoded(
    name: str, header: CodedHeader, *buffers: bytes, cap: int = CAP_BYTES
) -> dict[str, Array]:
    return make_codec(parse_codec(name)).decode(header, buffers, cap_bytes=cap)


def changed(header: CodedHeader, **fields: object) -> CodedHeader:
    """The header with another first tensor."""
    return msgspec.structs.replace(
        header, tensors=(msgspec.structs.replace(header.tensors[0], **fields),)
    )


def spec(shape: tuple[int, ...], dtype: str = "float32", name: str = "x") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


@pytest.mark.parametrize("name", NAMES)
@settings(UNTIMED, max_examples=30)
@given(data=st.data())
def test_corrupt_bytes_give_arrays_or_a_named_error_never_a_crash(
    name: str, data: st.DataObject
) -> None:
    """Bits flipped anywhere; and if something comes out, it has the shape that was announced."""
    sent = encoded(name)
    wire = bytearray(bytes(sent.buffers[0]))
    for place in data.draw(st.lists(st.integers(0, len(wire) - 1), min_size=1, max_size=8)):
        wire[place] ^= data.draw(st.integers(1, 255))
    try:
        taken = decoded(name, sent.header, bytes(wire))
    except LinkError as error:
        assert error.hint
    else:
        assert (taken["x"].shape, taken["x"].dtype) == (ARRAY.shape, ARRAY.dtype)


@pytest.mark.parametrize("name", NAMES)
@settings(UNTIMED, max_examples=20)
@given(data=st.data())
def test_any_bytes_of_any_claimed_length_are_survived(name: str, data: st.DataObject) -> None:
    """The header's claim and the bytes agree with each other, but with nothing else."""
    wire = data.draw(st.binary(max_size=1200))
    header = changed(
        encoded(name).header,
        nbytes=len(wire),
        is_packed=data.draw(st.booleans()),
        spec=spec(tuple(data.draw(st.lists(st.integers(0, 40), max_size=4)))),
    )
    try:
        taken = decoded(name, header, wire)
    except (LinkError, TrustError):
        return
    assert taken["x"].shape == header.tensors[0].spec.shape


@pytest.mark.parametrize("name", NAMES)
def test_bytes_cut_off_or_left_over_are_refused(name: str) -> None:
    sent = encoded(name)
    wire = bytes(sent.buffers[0])
    for wrong in (wire[:-1], wire + b"\0", b""):
        with pytest.raises(LinkError, match="announced"):
            decoded(name, sent.header, wrong)
        with pytest.raises((LinkError, TrustError)):
            decoded(name, changed(sent.header, nbytes=len(wrong)), wrong)


@pytest.mark.skipif(not HAS_ZSTD, reason="needs zstandard")
def test_a_zstd_bomb_is_refused_before_it_is_unpacked() -> None:
    """Its library allocates what the bytes claim, whatever limit it is given."""
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(bytes(2**28))
    header = changed(encoded("fp32+zstd").header, nbytes=len(bomb), spec=spec((2**16,)))
    assert len(bomb) < 2**18
    tracemalloc.start()
    with pytest.raises(LinkError, match="claim to be 268435456 bytes"):
        decoded("fp32+zstd", header, bomb)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    with pytest.raises(LinkError, match="claim to be -1 bytes"):  # of no stated size
        unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**18))
        decoded("fp32+zstd", changed(header, nbytes=len(unsized)), unsized)


@pytest.mark.skipif(not HAS_LZ4, reason="needs lz4")
def test_an_lz4_bomb_is_refused() -> None:
    import lz4.block

    bomb = lz4.block.compress(bytes(2**20), store_size=False)
    header = changed(encoded("fp32+lz4").header, nbytes=len(bomb), spec=spec((2**14,)))
    with pytest.raises(LinkError, match="not lz4"):
        decoded("fp32+lz4", header, bomb)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"spec": spec((2**40,))}, "exceed the cap of 1048576"),
        ({"spec": spec((2**62,) * 15)}, "exceed the cap"),
        ({"spec": spec((2, 0))}, r"shape \[2, 0\]"),
        ({"spec": spec((1,) * 17)}, "shape"),
        ({"spec": spec((4,), "bfloat16")}, "bfloat16"),
        ({"spec": spec((4,))}, "cannot take 1032 bytes"),
        ({"nbytes": 2**50}, "cannot take"),
        ({"is_packed": True}, "is packed, which 'uint8' does not do"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused_before_anything_is_received(
    fields: dict[str, object], reason: str
) -> None:
    header = changed(encoded("uint8").header, **fields)
    tracemalloc.start()
    with pytest.raises(TrustError, match=reason):
        make_codec(parse_codec("uint8")).check(header, cap_bytes=CAP_BYTES)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_tensors_of_one_name_are_refused() -> None:
    header = encoded("fp16").header
    twice = msgspec.structs.replace(header, tensors=header.tensors * 2)
    with pytest.raises(TrustError, match="repeated"):
        make_codec(parse_codec("fp16")).check(twice, cap_bytes=CAP_BYTES)


def test_all_tensors_together_keep_to_the_cap() -> None:
    sent = encoded("fp16", a=np.zeros(150_000, np.float32), b=np.zeros(150_000, np.float32))
    with pytest.raises(TrustError, match="1200000 bytes of tensors exceed"):
        make_codec(parse_codec("fp16")).check(sent.header, cap_bytes=CAP_BYTES)


def test_two_codecs_refuse_each_other_by_name() -> None:
    with pytest.raises(TrustError, match="coded as 'uint8', this end expects 'fp16'"):
        decoded("fp16", encoded("uint8").header, bytes(1032))


def test_one_codec_with_two_calibrations_refuses_itself() -> None:
    """The same name, and numbers that would be read in the wrong units."""
    one = calibrate(parse_codec("uint8"), [{"x": ARRAY}])
    two = calibrate(parse_codec("uint8"), [{"x": 2 * ARRAY}])
    sent = make_codec(one).encode({"x": ARRAY})
    with pytest.raises(TrustError, match="with different parameters"):
        make_codec(two).decode(sent.header, sent.buffers, cap_bytes=CAP_BYTES)
    assert make_codec(one).decode(sent.header, sent.buffers, cap_bytes=CAP_BYTES)


def test_ranges_for_another_number_of_channels_are_refused_at_both_ends() -> None:
    codec = make_codec(calibrate(parse_codec("uint8-channel"), [{"x": ARRAY}]))
    with pytest.raises(ConfigError, match="calibrated for 4 channels of tensor 'x', not for 3"):
        codec.encode({"x": ARRAY[:, :3]})
    header = changed(codec.encode({"x": ARRAY}).header, spec=spec((1, 8, 16, 16)), nbytes=2048)
    with pytest.raises(TrustError, match="for 4 channels of tensor 'x', not for 8"):
        codec.check(header, cap_bytes=CAP_BYTES)


@pytest.mark.parametrize("step", [np.nan, np.inf, 0.0, -1.0, 1e38])
def test_ranges_that_are_no_numbers_are_refused(step: float) -> None:
    sent = encoded("uint8")
    wire = np.array([0.0, step], "<f4").tobytes() + bytes(sent.buffers[0])[8:]
    with pytest.raises(LinkError, match="ranges of tensor 'x'"):
        decoded("uint8", sent.header, wire)


@settings(UNTIMED, max_examples=50)
@given(st.binary(max_size=200))
def test_a_header_from_any_bytes_is_refused_or_valid(data: bytes) -> None:
    decoder = msgspec.msgpack.Decoder(CodedHeader)
    try:
        header = decoder.decode(data)
        make_codec(parse_codec("uint8")).check(header, cap_bytes=CAP_BYTES)
    except (msgspec.MsgspecError, EdgeKitError, ValueError):
        return
    assert header.codec == "uint8"


def test_a_header_survives_its_own_wire_format() -> None:
    header = encoded("uint8-channel").header
    data = msgspec.msgpack.encode(header)
    assert msgspec.msgpack.decode(data, type=CodedHeader) == header
    assert isinstance(header.tensors[0], CodedTensor)


@pytest.mark.parametrize("packing", ["lz4", "zstd"])
def test_a_missing_library_names_the_extra(packing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"edgekit\[codecs\]"):
        make_codec(parse_codec(f"uint8+{packing}"))


@pytest.mark.skipif(not (HAS_ZSTD and HAS_LZ4), reason="needs lz4 and zstandard")
@pytest.mark.parametrize("name", ["uint8+zstd", "uint8+lz4"])
def test_threads_may_share_a_codec(name: str) -> None:
    """Both libraries let go of Python's lock while they work; zstd's contexts are not shared."""
    codec = make_codec(parse_codec(name))
    arrays = [np.full((1, 8, 64, 64), n, np.float32) + ARRAY.mean() for n in range(4)]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(30):
            sent = codec.encode({"x": arrays[index]})
            taken = codec.decode(sent.header, sent.buffers, cap_bytes=CAP_BYTES)["x"]
            if not np.allclose(taken, arrays[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


# The spec.


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("packing", PACKINGS)
def test_a_codec_is_found_by_its_name(element: str, packing: str) -> None:
    value = CodecSpec(element=element, packing=packing)  # type: ignore[arg-type]
    assert parse_codec(value.name) == value
    assert parse_json(to_json(value), CodecSpec, origin="plan") == value


@pytest.mark.parametrize("text", ["", "uint8+", "uint8+none", "int4", "zstd", "fp32+lz4+zstd"])
def test_an_unknown_codec_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ConfigError, match="uint8-channel"):
        parse_codec(text)


def test_a_codec_with_its_ranges_survives_a_plan_file() -> None:
    value = calibrate(parse_codec("uint8-channel"), [{"x": ARRAY}])
    again = parse_json(to_json(value), CodecSpec, origin="plan.json")
    assert again == value
    assert again.digest == value.digest


def test_every_parameter_changes_the_digest() -> None:
    one = TensorRange(name="x", low=(0.0,), high=(1.0,))
    values = [
        CodecSpec(),
        CodecSpec(packing="zstd"),
        CodecSpec(element="uint8"),
        CodecSpec(element="uint8", ranges=(one,)),
        CodecSpec(element="uint8", ranges=(msgspec.structs.replace(one, high=(1.5,)),)),
    ]
    assert len({value.digest for value in values}) == len(values)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "x", "low": [0], "high": []}',
        '{"name": "x", "low": [], "high": []}',
        '{"name": "x", "low": [2], "high": [1]}',
        '{"name": "x", "low": [-1e31], "high": [1]}',
        '{"name": "x", "low": [0], "high": [1], "step": 3}',
    ],
)
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"plan\.json"):
        parse_json(text.encode(), TensorRange, origin="plan.json")


@pytest.mark.parametrize(
    "fields",
    [
        {"element": "fp16", "ranges": (TensorRange(name="x", low=(0.0,), high=(1.0,)),)},
        {"element": "uint8", "ranges": (TensorRange(name="x", low=(0.0,) * 2, high=(1.0,) * 2),)},
        {"element": "uint8", "ranges": (TensorRange(name="x", low=(0.0,), high=(1.0,)),) * 2},
    ],
    ids=["fp16 has none", "one a channel", "twice"],
)
def test_ranges_that_a_codec_cannot_use_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="codec"):
        CodecSpec(**fields)  # type: ignore[arg-type]
