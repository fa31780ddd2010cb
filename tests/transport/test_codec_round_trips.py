"""Activation codecs there and back: bit for bit where they say so, else within the stated bound."""

import importlib.util

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.errors import ConfigError, ModelError
from edgekit.spec.codec import RANGE_LIMIT, CodecSpec, TensorRange, parse_codec
from edgekit.spec.tensors import Array
from edgekit.transport.codecs import calibrate, make_codec
from edgekit.transport.codecs.steps import channel_axis, error_bound

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A loaded machine must not fail a test."""
CAP_BYTES = 2**24
_LIBRARIES = {"lz4": "lz4", "zstd": "zstandard"}
DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32",
          "uint16", "uint8", "bool"]  # fmt: skip


def needs(*names: str) -> list[object]:
    """Codec names as parameters, skipped where their library is not installed."""
    return [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                (library := _LIBRARIES.get(name.partition("+")[2])) is not None
                and importlib.util.find_spec(library) is None,
                reason=f"needs the Python package {library}: pip install 'edgekit[codecs]'",
            ),
        )
        for name in names
    ]


PACKINGS = ("", "+lz4", "+zstd")
LOSSLESS = needs(*(f"fp32{packing}" for packing in PACKINGS))
HALF = needs(*(f"fp16{packing}" for packing in PACKINGS))
STEPPED = needs(*(f"{element}{packing}" for element in ("uint8", "uint8-channel")
                  for packing in PACKINGS))  # fmt: skip

shapes = hnp.array_shapes(min_dims=0, max_dims=5, max_side=6)
anything = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, shapes))
several = st.dictionaries(st.text(max_size=8), anything, min_size=1, max_size=3)


def numbers(limit: float, width: int = 32) -> st.SearchStrategy[Array]:
    """Float arrays, some with channels worth a range of their own."""
    dtype = f"float{width}"
    some = st.one_of(shapes, st.tuples(*[st.integers(1, 2), st.integers(1, 5)], *[st.just(8)] * 2))
    return hnp.arrays(dtype, some, elements=st.floats(-limit, limit, width=width))


def there_and_back(spec: CodecSpec, tensors: dict[str, Array]) -> dict[str, Array]:
    sent = make_codec(spec).encode(tensors)
    wire = tuple(bytes(buffer) for buffer in sent.buffers)
    assert [len(one) for one in wire] == [tensor.nbytes for tensor in sent.header.tensors]
    return make_codec(spec).decode(sent.header, wire, cap_bytes=CAP_BYTES)


def bound_of(codec: str, array: Array) -> Array:
    """The bound of the ranges of this very array, shaped to meet it."""
    axis = channel_axis(array.shape) if codec.startswith("uint8-channel") else None
    others = tuple(one for one in range(array.ndim) if one != axis)
    low, high = array.min(axis=others, keepdims=True), array.max(axis=others, keepdims=True)
    return error_bound(low, high, array.dtype)


@pytest.mark.parametrize("codec", LOSSLESS)
@settings(UNTIMED, max_examples=60)
@given(several)
def test_a_lossless_codec_returns_every_bit(codec: str, tensors: dict[str, Array]) -> None:
    """NaN payloads, -0.0, denormals and infinities included: hypothesis draws them all."""
    taken = there_and_back(parse_codec(codec), tensors)
    assert list(taken) == list(tensors)
    for name, array in tensors.items():
        assert (taken[name].dtype, taken[name].shape) == (array.dtype, array.shape)
        assert taken[name].tobytes() == array.tobytes()
        assert taken[name].flags.writeable
        assert taken[name].flags.aligned


@pytest.mark.parametrize("codec", LOSSLESS)
def test_the_numbers_that_trip_others_arrive_bit_for_bit(codec: str) -> None:
    odd = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 1, 0x80000001, 0x7F800000])
    array = np.tile(odd.astype(np.uint32).view(np.float32), 100)
    assert there_and_back(parse_codec(codec), {"x": array})["x"].tobytes() == array.tobytes()


@pytest.mark.parametrize("codec", [*HALF, *STEPPED])
@settings(UNTIMED, max_examples=10)
@given(several.map(lambda found: {k: v for k, v in found.items() if v.dtype.kind != "f"}))
def test_whole_numbers_and_truths_are_never_rewritten(
    codec: str, tensors: dict[str, Array]
) -> None:
    taken = there_and_back(parse_codec(codec), tensors)
    for name, array in tensors.items():
        assert taken[name].dtype == array.dtype
        assert taken[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("codec", HALF)
@settings(UNTIMED, max_examples=30)
@given(numbers(65504.0))
def test_half_precision_is_off_by_half_a_unit_in_its_last_place(codec: str, array: Array) -> None:
    (taken,) = there_and_back(parse_codec(codec), {"x": array}).values()
    assert (taken.dtype, taken.shape) == (array.dtype, array.shape)
    assert (np.abs(taken - array) <= np.maximum(np.abs(array) * 2.0**-11, 2.0**-25)).all()


@pytest.mark.parametrize("codec", HALF)
def test_numbers_beyond_half_precision_become_its_largest_not_infinity(codec: str) -> None:
    """An infinity made here would be NaN one subtraction later."""
    array = np.array([1e6, -1e38, np.inf, -np.inf, np.nan, 3.0], np.float32)
    taken = there_and_back(parse_codec(codec), {"x": array})["x"]
    np.testing.assert_array_equal(taken, [65504, -65504, np.inf, -np.inf, np.nan, 3])


@pytest.mark.parametrize("codec", STEPPED)
@settings(UNTIMED, max_examples=40)
@given(
    st.one_of(
        numbers(1.0),
        numbers(1000.0, 16),
        numbers(2.0**99),
        numbers(2.0**-100),
        numbers(1e6, 64),
    )
)
def test_256_steps_are_off_by_no_more_than_the_stated_bound(codec: str, array: Array) -> None:
    (taken,) = there_and_back(parse_codec(codec), {"x": array}).values()
    assert (taken.dtype, taken.shape) == (array.dtype, array.shape)
    off = np.abs(taken.astype(np.float64) - array.astype(np.float64))
    assert (off <= bound_of(codec, array)).all(), (off.max(), bound_of(codec, array).max())


@pytest.mark.parametrize("codec", STEPPED)
def test_a_small_spread_far_from_zero_keeps_its_256_steps(codec: str) -> None:
    """x / step - low / step would lose it: both are huge, their difference is not."""
    array = (1e4 + np.linspace(0, 1, 2048, dtype=np.float32)).reshape(1, 2, 32, 32)
    taken = there_and_back(parse_codec(codec), {"x": array})["x"]
    assert np.abs(taken - array).max() < 0.5 / 255 + 0.002
    assert len(np.unique(taken)) > 250


@pytest.mark.parametrize("codec", STEPPED)
@settings(UNTIMED, max_examples=20)
@given(numbers(8.0), st.floats(0.1, 10))
def test_calibrated_ranges_bound_the_error_and_cut_off_what_lies_outside(
    codec: str, array: Array, gain: float
) -> None:
    spec = calibrate(parse_codec(codec), [{"x": array}])
    later = (array * np.float32(gain)).astype(np.float32)
    taken = there_and_back(spec, {"x": later})["x"]
    axis = channel_axis(array.shape) if codec.startswith("uint8-channel") else None
    others = tuple(one for one in range(array.ndim) if one != axis)
    low, high = array.min(axis=others, keepdims=True), array.max(axis=others, keepdims=True)
    nearest = np.clip(later, low, high)
    bound = error_bound(low, high, array.dtype)
    exact = taken.astype(np.float64)
    # Steps have a least size, so a range next to nothing reaches a little further than its end.
    error = np.minimum(np.abs(exact - nearest), np.abs(exact - later))
    assert (error <= bound).all()


def test_calibrated_ranges_do_not_travel() -> None:
    array = np.random.default_rng(0).random((1, 4, 16, 16), np.float32)
    plain = make_codec(parse_codec("uint8-channel")).encode({"x": array})
    spec = calibrate(parse_codec("uint8-channel"), [{"x": array}])
    fixed = make_codec(spec).encode({"x": array})
    assert plain.header.payload_bytes == array.size + 8 * 4
    assert fixed.header.payload_bytes == array.size


def test_calibration_takes_the_widest_range_of_all_frames() -> None:
    frames = [{"x": np.array([[1.0, 2.0]], np.float32)}, {"x": np.array([[-3.0, 0.0]], np.float32)}]
    assert calibrate(parse_codec("uint8"), frames).ranges == (
        TensorRange(name="x", low=(-3.0,), high=(2.0,)),
    )
    assert calibrate(parse_codec("fp16"), frames) == parse_codec("fp16")


def test_a_channel_with_few_elements_shares_a_range() -> None:
    """Two numbers a channel for one element each would make the tensor larger, not smaller."""
    vector = np.random.default_rng(0).random((1, 512), np.float32)
    sent = make_codec(parse_codec("uint8-channel")).encode({"x": vector})
    assert sent.header.payload_bytes == 512 + 8
    assert channel_axis((1, 64, 20, 20)) == 1
    assert channel_axis((1, 3549, 85)) == 2


@pytest.mark.parametrize("codec", needs("fp32+lz4", "fp32+zstd", "uint8+zstd", "fp16+lz4"))
def test_packing_never_makes_a_tensor_larger(codec: str) -> None:
    """Byte coders grow small and random tensors; those stay as they are."""
    noise = np.random.default_rng(0).integers(0, 256, 64, np.uint8)
    zeros = np.zeros((1, 16, 32, 32), np.float32)
    sent = make_codec(parse_codec(codec)).encode({"noise": noise, "zeros": zeros})
    small, large = sent.header.tensors
    assert (small.nbytes, small.is_packed) == (64, False)
    assert large.is_packed
    assert large.nbytes < zeros.nbytes / 50


@pytest.mark.parametrize("codec", needs("uint8", "uint8-channel+zstd"))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2 * RANGE_LIMIT])
@pytest.mark.parametrize("is_calibrated", [False, True])
def test_a_tensor_that_256_steps_cannot_express_is_refused_by_name(
    codec: str, bad: float, is_calibrated: bool
) -> None:
    """Never silent: NaN would arrive as some innocent number."""
    good = np.ones((1, 2, 8, 8), np.float32)
    spec = parse_codec(codec)
    spec = calibrate(spec, [{"heat": good}]) if is_calibrated else spec
    array = good.copy()
    array[0, 1, 3, 4] = bad
    with pytest.raises(ModelError, match="'heat' holds NaN"):
        make_codec(spec).encode({"heat": array})


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(24, dtype=np.float32)[::3],
        np.arange(6, dtype=">f4").reshape(2, 3),
    ],
    ids=["transposed", "strided", "big-endian"],
)
def test_an_odd_layout_is_straightened_on_the_way(array: Array) -> None:
    for name in ("fp32", "fp16", "uint8", "uint8-channel"):
        taken = there_and_back(parse_codec(name), {"x": array})["x"]
        np.testing.assert_allclose(taken, array, atol=0.05)


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 4), np.float32), np.zeros(2, np.complex64), np.array(["a"]), np.zeros((1,) * 17)],
    ids=["empty", "complex", "text", "17 dimensions"],
)
def test_a_tensor_that_cannot_travel_is_named(array: Array) -> None:
    with pytest.raises(ModelError, match="'heat'"):
        make_codec(parse_codec("fp16")).encode({"heat": array})


def test_the_input_is_not_changed() -> None:
    array = np.linspace(-3, 3, 4096, dtype=np.float32).reshape(1, 4, 32, 32)
    before = array.copy()
    for name in ("fp32", "fp16", "uint8", "uint8-channel"):
        make_codec(parse_codec(name)).encode({"x": array})
    assert np.array_equal(array, before)


def test_a_raw_tensor_is_sent_without_a_copy() -> None:
    array = np.arange(1000, dtype=np.float32)
    (part,) = make_codec(parse_codec("fp32")).encode({"x": array}).buffers
    assert np.shares_memory(np.frombuffer(part, np.uint8), array)


def test_calibration_without_frames_is_refused() -> None:
    with pytest.raises(ConfigError, match="no calibration frames"):
        calibrate(parse_codec("uint8"), [])


def test_calibration_with_frames_of_two_sizes_is_refused() -> None:
    frames = [{"x": np.ones((1, c, 8, 8), np.float32)} for c in (2, 3)]
    with pytest.raises(ConfigError, match="'x' changes its shape"):
        calibrate(parse_codec("uint8-channel"), frames)
