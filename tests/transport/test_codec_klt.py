"""The transform codec: error bound, the rate knob, refusals, and survival of corrupt bytes."""

import importlib.util

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import ConfigError, LinkError, ModelError, TrustError
from edgekit.spec.base import parse_json, to_json
from edgekit.spec.codec import ChannelBasis, CodecSpec, Packing, parse_codec
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.codecs import fit_klt, make_codec

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A loaded machine must not fail a test."""
CAP_BYTES = 2**22
PACKING: Packing = "zstd" if importlib.util.find_spec("zstandard") else "none"


def activations(seed: int, channels: int = 8, side: int = 24, scale: float = 1.0) -> Array:
    """Smooth, correlated channels, as of a convolution: three sources mixed, and a little noise."""
    generator = np.random.default_rng(seed)
    sources = generator.standard_normal((3, side, side)).cumsum(1).cumsum(2) / side
    mixing = np.random.default_rng(99).standard_normal((channels, 3))
    mixed = np.tensordot(mixing, sources, 1) + 0.01 * generator.standard_normal(
        (channels, side, side)
    )
    return (scale * mixed[None]).astype(np.float32)


FRAMES = [{"x": activations(seed)} for seed in range(4)]
LATER = activations(50)


def there_and_back(spec: CodecSpec, **tensors: Array) -> tuple[dict[str, Array], int]:
    """What arrives, and the bytes it took."""
    codec = make_codec(spec)
    sent = codec.encode(tensors)
    wire = [bytes(buffer) for buffer in sent.buffers]
    return codec.decode(sent.header, wire, cap_bytes=CAP_BYTES), sent.header.payload_bytes


@settings(UNTIMED, max_examples=30)
@given(
    st.integers(0, 1000),
    st.sampled_from([0.01, 0.3, 2.0]),
    st.sampled_from([(1, 5, 6, 7), (2, 3, 8, 8), (1, 50, 4), (64, 3)]),
    st.sampled_from(["float32", "float64"]),
)
def test_with_all_components_a_place_is_off_by_half_a_step_times_root_channels(
    seed: int, step: float, shape: tuple[int, ...], dtype: str
) -> None:
    """A rotation keeps lengths, so the bound of the rounding is the bound of the result."""
    array = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    axis = 1 if len(shape) == 4 else len(shape) - 1
    channels = shape[axis]
    rotation, _ = np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((channels,) * 2))
    basis = ChannelBasis(
        name="x",
        mean=np.full(channels, 0.5, "<f4").tobytes(),
        rows=rotation.astype("<f4").tobytes(),
        step=step,
    )
    spec = CodecSpec(element="klt", packing=PACKING, bases=(basis,))
    taken = there_and_back(spec, x=array)[0]["x"]
    assert (taken.dtype, taken.shape) == (array.dtype, array.shape)
    off = np.sqrt(((taken.astype(np.float64) - array) ** 2).sum(axis=axis))
    assert off.max() <= np.sqrt(channels) * step / 2 + 1e-4


def test_larger_steps_take_fewer_bytes_and_lose_more() -> None:
    """The knob turns one way."""
    sizes, errors = [], []
    for relative_step in (0.02, 0.1, 0.5):
        taken, nbytes = there_and_back(
            fit_klt(FRAMES, relative_step=relative_step, packing=PACKING), x=LATER
        )
        sizes.append(nbytes)
        errors.append(float(np.abs(taken["x"] - LATER).mean()))
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    assert len(set(sizes)) == 3


@pytest.mark.skipif(PACKING == "none", reason="needs zstandard")
def test_correlated_channels_take_fewer_bytes_than_256_steps_at_no_more_error() -> None:
    """What it is for."""
    stepped, stepped_bytes = there_and_back(parse_codec("uint8+zstd"), x=LATER)
    spec = fit_klt(FRAMES, relative_step=0.01)
    taken, nbytes = there_and_back(spec, x=LATER)
    assert np.square(taken["x"] - LATER).mean() <= np.square(stepped["x"] - LATER).mean()
    assert nbytes < stepped_bytes


def test_components_that_would_be_all_zero_are_left_out() -> None:
    coarse = fit_klt(FRAMES, relative_step=0.2, packing=PACKING)
    assert coarse.bases[0].component_count == 3
    assert coarse.bases[0].channel_count == 8


def test_a_float_without_a_basis_travels_as_half_precision_and_the_rest_as_it_is() -> None:
    vector = np.linspace(-1, 1, 10, dtype=np.float32)
    counts = np.arange(10)
    frames = [{**frame, "v": vector, "n": counts} for frame in FRAMES]
    spec = fit_klt(frames, relative_step=0.1, packing=PACKING)
    assert [basis.name for basis in spec.bases] == ["x"]
    taken, _ = there_and_back(spec, x=LATER, v=vector, n=counts)
    assert np.array_equal(taken["v"], vector.astype(np.float16).astype(np.float32))
    assert taken["n"].tobytes() == counts.tobytes()


def test_numbers_far_beyond_calibration_are_cut_off_not_wrapped() -> None:
    spec = fit_klt(FRAMES, relative_step=0.1, packing=PACKING)
    far = 1e6 * LATER
    taken = there_and_back(spec, x=far)[0]["x"]
    assert np.isfinite(taken).all()
    assert (taken * far).sum() > 0  # towards the same side


def test_a_tensor_that_never_changes_is_kept() -> None:
    constant = np.full((1, 4, 8, 8), 3.25, np.float32)
    spec = fit_klt([{"x": constant}], relative_step=0.1, packing=PACKING)
    np.testing.assert_allclose(there_and_back(spec, x=constant)[0]["x"], constant, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e31])
def test_a_tensor_that_steps_cannot_express_is_refused_by_name(bad: float) -> None:
    spec = fit_klt(FRAMES, relative_step=0.1, packing=PACKING)
    broken = LATER.copy()
    broken[0, 0, 0, 0] = bad
    with pytest.raises(ModelError, match="'x' holds NaN"):
        make_codec(spec).encode({"x": broken})
    with pytest.raises(ModelError, match="'x' holds NaN"):
        fit_klt([{"x": broken}], relative_step=0.1)


def test_a_basis_of_other_channels_is_refused_at_both_ends() -> None:
    codec = make_codec(fit_klt(FRAMES, relative_step=0.1, packing=PACKING))
    with pytest.raises(ConfigError, match="for 8 channels of tensor 'x', not for 4"):
        codec.encode({"x": LATER[:, :4]})
    header = codec.encode({"x": LATER}).header
    other = msgspec.structs.replace(
        header.tensors[0], spec=TensorSpec(name="x", dtype="float32", shape=(1, 4, 48, 24))
    )
    with pytest.raises(TrustError, match="not for 4"):
        codec.check(msgspec.structs.replace(header, tensors=(other,)), cap_bytes=CAP_BYTES)


def test_two_bases_of_one_name_refuse_each_other() -> None:
    one, two = (
        fit_klt(frames, relative_step=0.1, packing=PACKING) for frames in (FRAMES, FRAMES[1:])
    )
    sent = make_codec(one).encode({"x": LATER})
    with pytest.raises(TrustError, match="with different parameters"):
        make_codec(two).decode(sent.header, sent.buffers, cap_bytes=CAP_BYTES)


@settings(UNTIMED, max_examples=60)
@given(st.data())
def test_corrupt_bytes_give_arrays_or_a_named_error_never_a_crash(data: st.DataObject) -> None:
    codec = make_codec(fit_klt(FRAMES, relative_step=0.2, packing=PACKING))
    sent = codec.encode({"x": LATER})
    wire = bytearray(bytes(sent.buffers[0]))
    for place in data.draw(st.lists(st.integers(0, len(wire) - 1), min_size=1, max_size=8)):
        wire[place] ^= data.draw(st.integers(1, 255))
    try:
        taken = codec.decode(sent.header, [bytes(wire)], cap_bytes=CAP_BYTES)
    except LinkError as error:
        assert error.hint
    else:
        assert taken["x"].shape == LATER.shape


def test_a_basis_survives_a_plan_file() -> None:
    spec = fit_klt(FRAMES, relative_step=0.1)
    again = parse_json(to_json(spec), CodecSpec, origin="plan.json")
    assert again == spec
    assert again.digest == spec.digest
    assert again.name == "klt:0.1+zstd"


@pytest.mark.parametrize(
    "change",
    [
        {"mean": b""},
        {"mean": b"123"},
        {"rows": b""},
        {"rows": bytes(4)},
        {"rows": bytes(4 * 3 * 2)},
        {"rows": np.array([np.nan, 0], "<f4").tobytes()},
        {"rows": np.array([5, 0], "<f4").tobytes()},
        {"mean": np.array([np.inf, 0], "<f4").tobytes()},
        {"step": 0.0},
        {"step": float("nan")},
    ],
    ids=str,
)
def test_a_basis_that_is_none_is_refused(change: dict[str, object]) -> None:
    good = {"name": "x", "mean": bytes(8), "rows": np.eye(2, dtype="<f4").tobytes(), "step": 0.1}
    assert ChannelBasis(**good)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="channel basis of 'x'"):
        ChannelBasis(**{**good, **change})  # type: ignore[arg-type]


def test_klt_is_made_from_calibration_data_only() -> None:
    with pytest.raises(ConfigError, match="klt is made from calibration data"):
        CodecSpec(element="klt")
    with pytest.raises(ConfigError, match="needs calibration data"):
        parse_codec("klt")
    with pytest.raises(ConfigError, match="no tensor of the calibration frames"):
        fit_klt([{"v": np.ones(4, np.float32)}], relative_step=0.1)
    with pytest.raises(ConfigError, match="relative step"):
        fit_klt(FRAMES, relative_step=0)
    with pytest.raises(ConfigError, match="changes its shape"):
        fit_klt([*FRAMES, {"x": LATER[:, :4]}], relative_step=0.1)
