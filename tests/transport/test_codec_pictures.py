"""Camera frames as pictures: what a peer sends is looked at before it is decoded."""

import sys
import tracemalloc

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import ConfigError, LinkError, ModelError, TrustError
from edgekit.profiler.frame_cost import LOSSY
from edgekit.spec.base import parse_json, to_json
from edgekit.spec.codec import CodecRequest, CodecSpec, parse_codec, parse_request
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.codecs import CodedHeader, Encoded, fit_codec, make_codec

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A loaded machine must not fail a test."""
CAP_BYTES = 2**22
NAMES = ("jpeg-90", "webp-80", "png")


def picture(height: int = 48, width: int = 64, seed: int = 0) -> Array:
    """Smooth colours and a little noise."""
    rows, columns = np.mgrid[:height, :width]
    planes = np.stack([rows * 3, columns * 2, 255 - rows - columns], axis=2).astype(float)
    noise = np.random.default_rng(seed).normal(0, 3, planes.shape)
    return np.clip(planes + noise, 0, 255).astype(np.uint8)


def encoded(name: str, **tensors: Array) -> Encoded:
    return make_codec(parse_codec(name)).encode(tensors or {"frame": picture()})


def decoded(name: str, header: CodedHeader, wire: bytes, cap: int = CAP_BYTES) -> dict[str, Array]:
    return make_codec(parse_codec(name)).decode(header, [wire], cap_bytes=cap)


def claiming(sent: Encoded, wire: bytes, **fields: object) -> CodedHeader:
    """The header with the length of other bytes, and other facts of its tensor."""
    tensor = msgspec.structs.replace(sent.header.tensors[0], nbytes=len(wire), **fields)
    return msgspec.structs.replace(sent.header, tensors=(tensor,))


@pytest.mark.parametrize("name", NAMES)
@settings(UNTIMED, max_examples=25)
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 9))
def test_a_frame_of_any_size_arrives_in_its_own_shape(
    name: str, height: int, width: int, seed: int
) -> None:
    image = picture(height, width, seed)
    sent = encoded(name, frame=image)
    taken = decoded(name, sent.header, bytes(sent.buffers[0]))["frame"]
    assert (taken.shape, taken.dtype) == (image.shape, image.dtype)
    assert taken.flags.writeable
    if name == "png":
        assert np.array_equal(taken, image)
    else:
        assert np.abs(taken.astype(int) - image).mean() < 12


@pytest.mark.parametrize("name", NAMES)
def test_noise_which_nothing_can_pack_still_travels(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    sent = encoded(name.replace("-90", "-100").replace("-80", "-100"), frame=image)
    codec = make_codec(parse_codec(sent.header.codec))
    assert codec.decode(sent.header, sent.buffers, cap_bytes=CAP_BYTES)["frame"].shape == (
        40,
        50,
        3,
    )


def test_a_higher_quality_takes_more_bytes() -> None:
    sizes = [encoded(f"jpeg-{quality}").header.payload_bytes for quality in (10, 50, 90, 100)]
    assert sizes == sorted(sizes)


def test_a_frame_that_is_a_view_of_a_larger_one_is_sent_as_it_looks() -> None:
    image = picture()[4:40, 8:50]
    sent = encoded("png", frame=image)
    assert np.array_equal(decoded("png", sent.header, bytes(sent.buffers[0]))["frame"], image)


@pytest.mark.parametrize(
    "tensor",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 3, 4, 4), np.uint8),
    ],
    ids=["floats", "grey", "four channels", "a tensor of a model"],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_camera_frame_is_refused_by_name(name: str, tensor: Array) -> None:
    with pytest.raises(ModelError, match=r"tensor heat .* cannot be a picture"):
        encoded(name, heat=tensor)


def test_a_frame_beyond_the_format_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot write"):
        encoded("webp-80", frame=np.zeros((1, 16400, 3), np.uint8))


# What a peer may say.


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_of_another_size_than_announced_is_refused_before_it_is_decoded(
    name: str,
) -> None:
    """A bomb: few bytes that would become a large picture."""
    bomb = encoded(name, frame=np.zeros((3000, 3000, 3), np.uint8))
    wire = bytes(bomb.buffers[0])
    small = encoded(name, frame=np.full((1024, 1024, 3), 7, np.uint8))
    tracemalloc.start()
    with pytest.raises(LinkError, match=r"claim the size \(3000, 3000\)"):
        decoded(name, claiming(small, wire), wire)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_cut_off_or_with_bytes_left_over_is_refused(name: str) -> None:
    sent = encoded(name)
    wire = bytes(sent.buffers[0])
    for wrong in (wire[:-1], wire[: len(wire) // 2], wire[:10], wire + b"\0", b"\0"):
        with pytest.raises(LinkError, match="announced"):
            decoded(name, sent.header, wrong)
        with pytest.raises(LinkError, match=r"no .* picture"):
            decoded(name, claiming(sent, wrong), wrong)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", NAMES)
def test_a_picture_of_another_format_is_refused(name: str, other: str) -> None:
    """OpenCV reads whatever it recognises; the plan says what it must be."""
    if name != other:
        wire = bytes(encoded(other).buffers[0])
        with pytest.raises(LinkError, match="claim the size None"):
            decoded(name, claiming(encoded(name), wire), wire)


def test_a_progressive_jpeg_is_refused() -> None:
    """Each of its many scans would cost a pass over the picture."""
    _, data = cv2.imencode(".jpg", picture(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    with pytest.raises(LinkError, match="claim the size None"):
        decoded("jpeg-90", claiming(encoded("jpeg-90"), data.tobytes()), data.tobytes())


@pytest.mark.parametrize("name", NAMES)
@settings(UNTIMED, max_examples=60)
@given(data=st.data())
def test_corrupt_bytes_give_a_frame_of_the_announced_shape_or_a_named_error(
    name: str, data: st.DataObject
) -> None:
    sent = encoded(name)
    wire = bytearray(bytes(sent.buffers[0]))
    for place in data.draw(st.lists(st.integers(0, len(wire) - 1), min_size=1, max_size=8)):
        wire[place] ^= data.draw(st.integers(1, 255))
    try:
        taken = decoded(name, sent.header, bytes(wire))
    except LinkError as error:
        assert error.hint
    else:
        assert taken["frame"].shape == (48, 64, 3)


@pytest.mark.parametrize("name", NAMES)
@settings(UNTIMED, max_examples=40)
@given(wire=st.binary(min_size=1, max_size=200))
def test_any_bytes_are_survived(name: str, wire: bytes) -> None:
    starts = {"jpeg-90": b"\xff\xd8\xff\xc0", "webp-80": b"RIFF", "png": b"\x89PNG\r\n\x1a\n"}
    for data in (wire, starts[name] + wire, starts[name] + wire + b"\xff\xd9"):
        with pytest.raises(LinkError):
            decoded(name, claiming(encoded(name), data), data)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"spec": TensorSpec(name="f", dtype="float32", shape=(4, 4, 3))}, "cannot be a picture"),
        ({"spec": TensorSpec(name="f", dtype="uint8", shape=(4, 4, 1))}, "cannot be a picture"),
        ({"spec": TensorSpec(name="f", dtype="uint8", shape=(0, 0, 3))}, "shape"),
        ({"spec": TensorSpec(name="f", dtype="uint8", shape=(2**20, 2**20, 3))}, "exceed the cap"),
        ({"is_packed": True}, "cannot be a picture"),
        ({"nbytes": 0}, "cannot take 0 bytes"),
        ({"nbytes": 2**40}, "cannot take"),
    ],
)
def test_a_header_that_cannot_be_of_a_picture_is_refused_before_anything_is_received(
    fields: dict[str, object], reason: str
) -> None:
    sent = encoded("jpeg-90")
    tensor = msgspec.structs.replace(sent.header.tensors[0], **fields)
    header = msgspec.structs.replace(sent.header, tensors=(tensor,))
    with pytest.raises(TrustError, match=reason):
        make_codec(parse_codec("jpeg-90")).check(header, cap_bytes=CAP_BYTES)


def test_two_qualities_refuse_each_other() -> None:
    """Not for the bytes: the plan promised another accuracy."""
    sent = encoded("jpeg-50")
    with pytest.raises(TrustError, match="coded as 'jpeg-50', this end expects 'jpeg-90'"):
        decoded("jpeg-90", sent.header, bytes(sent.buffers[0]))


def test_without_opencv_a_picture_codec_is_refused_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "edgekit.transport.codecs.pictures", None)
    with pytest.raises(ConfigError, match="opencv"):
        make_codec(parse_codec("jpeg-90"))
    assert make_codec(parse_codec("fp16"))


# The names.


@pytest.mark.parametrize("name", [*NAMES, *LOSSY, "jpeg-1", "webp-100"])
def test_a_picture_codec_is_found_by_the_name_that_the_planner_uses(name: str) -> None:
    request = parse_request(name)
    spec = parse_codec(name)
    assert (request.name, spec.name, fit_codec(request, [])) == (name, name, spec)
    assert spec.is_lossless == request.is_lossless == (name == "png")
    assert parse_json(to_json(spec), CodecSpec, origin="plan.json") == spec


@pytest.mark.parametrize(
    "text",
    ["jpeg", "webp", "jpeg-", "jpeg-0", "jpeg-101", "jpeg--5", "jpeg-x", "png-3", "png-",
     "jpeg-90+zstd", "png+lz4", "jpeg:0.5", "gif"],
)  # fmt: skip
def test_a_picture_codec_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="jpeg-90"):
        parse_request(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"element": "jpeg"},
        {"element": "png", "quality": 90},
        {"element": "fp16", "quality": 90},
        {"element": "webp", "quality": 0},
        {"element": "jpeg", "quality": 90, "packing": "zstd"},
    ],
    ids=str,
)
def test_a_quality_without_use_and_a_picture_without_one_are_refused(
    fields: dict[str, object],
) -> None:
    for kind in (CodecSpec, CodecRequest):
        with pytest.raises(ConfigError, match="codec"):
            kind(**fields)  # type: ignore[arg-type]
