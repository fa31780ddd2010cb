"""Activations and answers on the wire: byte-exact, capped before allocation, refused by name."""

import math
import tracemalloc

import msgspec
import numpy as np
import pytest
from hop_world import activation, answer_to, framed, identity
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.errors import ConfigError, LinkError, ModelError, TrustError
from edgekit.spec.codec import RAW, CodecSpec, parse_codec
from edgekit.spec.messages import Detection, HopTime, StageTime
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport import frames, headers
from edgekit.transport.codecs import make_codec
from edgekit.transport.codecs.port import Buffer, CodedHeader, CodedTensor
from edgekit.transport.port import Activation, Answer

DTYPES = [
    "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32",
    "uint16", "uint8", "bool",
]  # fmt: skip

tensors = st.dictionaries(
    st.text(min_size=1, max_size=20),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=5, max_side=4))
    ),
    min_size=1,
    max_size=4,
)


def received(parts: list[Buffer], codec: CodecSpec = RAW) -> Activation:
    """What the other end makes of ``parts``."""
    header = headers.decode(parts[0][headers.PREFIX_BYTES :])
    assert isinstance(header, headers.ActivationHeader)
    who, coder = identity("edge-b", codec=codec), make_codec(codec)
    frames.check_activation(header, who, coder, cap_bytes=2**20)
    buffers = frames.empty_buffers(header.coded)
    for view, part in zip(buffers, parts[1:], strict=True):
        view[:] = part
    return frames.activation(header, coder.decode(header.coded, buffers, cap_bytes=2**20))


@given(tensors)
def test_tensors_arrive_bit_for_bit(sent: dict[str, Array]) -> None:
    """Names, order, dtypes, shapes and every bit, NaN payloads included."""
    taken = received(framed(activation(tensors=sent))).tensors
    assert list(taken) == list(sent)
    for name, array in sent.items():
        assert (taken[name].dtype, taken[name].shape) == (array.dtype, array.shape)
        assert taken[name].tobytes() == array.tobytes()
        assert taken[name].flags.aligned
        assert taken[name].flags.writeable


def test_everything_but_the_tensors_arrives_too() -> None:
    sent = Activation(
        stream="gate", run="r9", frame=2**40, capture_ns=-1, source_height_px=1080,
        source_width_px=1920, tensors={"x": np.zeros(1, np.uint8)},
        stages=(StageTime(device="edge-a", shard=0, ms=3.25),),
    )  # fmt: skip
    taken = received(framed(sent))
    for name in ("stream", "run", "frame", "capture_ns", "source_height_px", "source_width_px"):
        assert getattr(taken, name) == getattr(sent, name)
    assert taken.stages == sent.stages


def test_a_contiguous_tensor_is_sent_without_a_copy() -> None:
    array = np.arange(1000, dtype=np.float32)
    part = framed(activation(tensors={"x": array}))[1]
    assert np.shares_memory(np.frombuffer(part, dtype=np.uint8), array)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(24, dtype=np.int16)[::3],
        np.arange(6, dtype=">f4").reshape(2, 3),
    ],
    ids=["transposed", "strided", "big-endian"],
)
def test_an_odd_layout_is_straightened_on_the_way(array: Array) -> None:
    taken = received(framed(activation(tensors={"x": array})))
    assert np.array_equal(taken.tensors["x"], array)


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 4), np.float32), np.zeros(2, np.complex64), np.array(["a"]), np.zeros((1,) * 17)],
    ids=["empty", "complex", "text", "17 dimensions"],
)
def test_a_tensor_that_cannot_travel_is_named(array: Array) -> None:
    with pytest.raises(ModelError, match="'heat'"):
        framed(activation(tensors={"heat": array}))


def header(**changes: object) -> headers.ActivationHeader:
    value = headers.decode(framed(activation())[0][headers.PREFIX_BYTES :])
    assert isinstance(value, headers.ActivationHeader)
    return msgspec.structs.replace(value, **changes)


def coded(*tensors: CodedTensor, codec: CodecSpec = RAW, digest: str = "") -> CodedHeader:
    return CodedHeader(codec=codec.name, digest=digest or codec.digest, tensors=tensors)


def tensor(shape: tuple[int, ...], dtype: str = "float32", name: str = "x") -> CodedTensor:
    spec = TensorSpec(name=name, dtype=dtype, shape=shape)
    return CodedTensor(spec=spec, nbytes=min(spec.nbytes, 2**63 - 1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"deployment": "d0"}, "serving deployment d1, not d0"),
        ({"epoch": 0}, "serving epoch 1 of d1, not 0"),
        ({"cut": 3}, "serving cut 0 of d1, not 3"),
        ({"coded": coded(codec=parse_codec("fp16"))}, "'fp16', this end expects 'fp32'"),
        ({"coded": coded(digest="0" * 16)}, "different parameters"),
        ({"coded": coded(tensor((2,)), tensor((3,)))}, "repeated"),
        ({"coded": coded(tensor((2,), "bfloat16"))}, "bfloat16"),
        ({"coded": coded(tensor((2, 0)))}, r"shape \[2, 0\]"),
        ({"coded": coded(tensor((1,) * 17))}, "shape"),
        ({"coded": coded(tensor((2**18 + 1,)))}, "1048580 bytes of tensors exceed the cap"),
        ({"coded": coded(tensor((2**62,) * 16))}, "exceed the cap"),
        ({"coded": coded(tensor((2**17,)), tensor((2**17 + 1,), name="y"))}, "exceed the cap"),
        ({"coded": coded(CodedTensor(spec=tensor((2,)).spec, nbytes=2**40))}, "cannot take"),
    ],
)
def test_a_frame_that_does_not_belong_is_refused_by_name(
    change: dict[str, object], reason: str
) -> None:
    """On every frame, not only in the handshake: an epoch may change under a connection."""
    with pytest.raises(TrustError, match="frame 0 of stream 'main' is refused.*" + reason):
        frames.check_activation(
            header(**change), identity("edge-b"), make_codec(RAW), cap_bytes=2**20
        )


@settings(max_examples=200)
@given(
    st.lists(
        st.builds(
            lambda shape, dtype, name, nbytes: CodedTensor(
                spec=TensorSpec(name=name, dtype=dtype, shape=shape), nbytes=nbytes
            ),
            st.lists(st.integers(0, 2**63 - 1), max_size=18).map(tuple),
            st.sampled_from(DTYPES),
            st.text(max_size=3),
            st.integers(0, 2**63 - 1),
        ),
        max_size=5,
    )
)
def test_no_header_makes_us_allocate_more_than_the_cap(claims: list[CodedTensor]) -> None:
    value = header(coded=coded(*claims))
    try:
        frames.check_activation(value, identity("edge-b"), make_codec(RAW), cap_bytes=1000)
    except TrustError:
        return
    assert sum(map(len, frames.empty_buffers(value.coded))) <= 1000


def test_checking_a_huge_claim_allocates_nothing_for_it() -> None:
    value = header(coded=coded(tensor((2**40,))))
    codec = make_codec(RAW)
    tracemalloc.start()
    with pytest.raises(TrustError):
        frames.check_activation(value, identity("edge-b"), codec, cap_bytes=2**20)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 100_000


def test_more_than_the_cap_is_refused_where_it_is_made() -> None:
    """Else the receiver ends the connection, and a file's frame is sent again and again."""
    huge = np.broadcast_to(np.float32(0), (frames.PAYLOAD_CAP_BYTES // 4 + 1,))
    with pytest.raises(ModelError, match="exceed the cap"):
        framed(activation(tensors={"x": huge}))


@pytest.mark.parametrize("name", ["fp16", "uint8+zstd", "uint8-channel", "fp32+lz4"])
def test_coded_tensors_arrive_as_their_codec_promises(name: str) -> None:
    codec = parse_codec(name)
    array = np.linspace(-1, 1, 64, dtype=np.float32).repeat(64).reshape(1, 4, 32, 32)
    parts = framed(activation(tensors={"x": array}), identity(codec=codec))
    assert len(parts[1]) < array.nbytes
    taken = received(parts, codec).tensors["x"]
    assert taken.dtype == array.dtype
    assert float(np.abs(taken - array).max()) < 0.01


detections = st.lists(
    st.builds(
        lambda label, score, box: Detection(label=label, score=score, box=box),
        st.text(max_size=10),
        st.floats(0, 1),
        st.tuples(*[st.floats(-1e4, 1e4)] * 4),
    ),
    max_size=6,
)


@given(detections, st.text(max_size=30))
def test_answers_arrive_as_they_were(found: list[Detection], dropped: str) -> None:
    sent = answer_to(
        activation(3),
        detections=tuple(found),
        dropped=dropped,
        hops=(HopTime(source="edge-a", target="edge-b", bytes=10, ms=1.5),),
        stages=(StageTime(device="edge-b", shard=1, ms=2.0),),
        residence_s=0.25,
    )
    prefixed, body = frames.answer_parts(sent)
    value = headers.decode(prefixed[headers.PREFIX_BYTES :])
    assert isinstance(value, headers.AnswerHeader)
    assert value.detections_bytes == len(body)
    assert frames.answer(value, body) == sent


def test_a_thousand_detections_fit() -> None:
    """Accuracy runs keep low scores; the 64 KiB of a header would not hold them."""
    box = Detection(label="person", score=0.5, box=(1.0, 2.0, 3.0, 4.0))
    _, body = frames.answer_parts(answer_to(activation(), detections=(box,) * 1000))
    assert headers.HEADER_CAP_BYTES < len(body) < frames.ANSWER_CAP_BYTES


def test_an_answer_beyond_its_cap_is_refused_on_both_sides() -> None:
    box = Detection(label="p" * 1000, score=0.5, box=(1.0, 2.0, 3.0, 4.0))
    count = math.ceil(frames.ANSWER_CAP_BYTES / 1000)
    with pytest.raises(ConfigError, match="detections take"):
        frames.answer_parts(answer_to(activation(), detections=(box,) * count))
    claim = headers.AnswerHeader(
        stream="s", run="r", frame=1, capture_ns=1, detections_bytes=frames.ANSWER_CAP_BYTES + 1
    )
    with pytest.raises(TrustError, match="the cap is"):
        frames.check_answer(claim)


@given(st.binary(min_size=1, max_size=100))
def test_malformed_detections_are_a_link_error(body: bytes) -> None:
    claim = headers.AnswerHeader(
        stream="s", run="r", frame=1, capture_ns=1, detections_bytes=len(body)
    )
    try:
        taken = frames.answer(claim, body)
    except LinkError as error:
        assert "malformed detections" in error.what
    else:
        assert isinstance(taken, Answer)


def test_a_long_drop_reason_is_cut_not_refused() -> None:
    prefixed, _ = frames.answer_parts(answer_to(activation(), dropped="x" * 5000))
    value = headers.decode(prefixed[headers.PREFIX_BYTES :])
    assert isinstance(value, headers.AnswerHeader)
    assert value.dropped == "x" * headers.REASON_MAX_CHARS
