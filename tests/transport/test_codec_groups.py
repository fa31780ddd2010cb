"""Groups of components: every number back, less when the budget says so, nothing believed."""

import importlib.util

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.errors import ConfigError, LinkError, ModelError, TrustError
from edgekit.spec.base import parse_json, to_json
from edgekit.spec.codec import CodecRequest, CodecSpec, Components, Packing, parse_request
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.codecs import (
    CodedGroup,
    CodedHeader,
    Encoded,
    fit_codec,
    fit_klt,
    make_codec,
)
from edgekit.transport.codecs.groups import BITS, EIGHTHS, Writer, choose, group_bytes, read_groups
from edgekit.transport.codecs.packings import make_packer

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A loaded machine must not fail a test."""
CAP_BYTES = 2**22
LIBRARIES: dict[Packing, str] = {"none": "numpy", "lz4": "lz4", "zstd": "zstandard"}
PACKINGS = [name for name, library in LIBRARIES.items() if importlib.util.find_spec(library)]
FOLDED = CodecSpec(
    element="klt", packing=PACKINGS[-1], components=(Components(name="y", step=0.25),)
)

numbers = hnp.arrays(
    np.int16,
    st.tuples(st.integers(1, 20), st.integers(1, 40)),
    elements=st.one_of(st.integers(-1, 1), st.integers(-9, 9), st.integers(-32767, 32767)),
)


def falling(seed: int, channels: int = 16, side: int = 12) -> Array:
    """Components as of a natural tensor: smooth, each half as loud as the one before."""
    generator = np.random.default_rng(seed)
    loud = 8.0 * 0.6 ** np.arange(channels)
    fields = generator.standard_normal((channels, side, side)).cumsum(2)
    return np.asarray((loud[:, None, None] * fields / 3)[None], np.float32)


def pair(seed: int) -> dict[str, Array]:
    return {"y": falling(seed), "z": falling(seed + 100, channels=8, side=20)}


PAIR = CodecSpec(
    element="klt",
    packing=PACKINGS[-1],
    components=(Components(name="y", step=0.25), Components(name="z", step=0.25)),
)


def arrives(spec: CodecSpec, sent: Encoded) -> dict[str, Array]:
    wire = [bytes(buffer) for buffer in sent.buffers]
    assert [len(one) for one in wire] == [tensor.nbytes for tensor in sent.header.tensors]
    return make_codec(spec).decode(sent.header, wire, cap_bytes=CAP_BYTES)


@pytest.mark.parametrize("packing", PACKINGS)
@settings(UNTIMED, max_examples=60)
@given(whole=numbers)
def test_whole_numbers_come_back_whatever_bits_they_were_put_in(
    packing: Packing, whole: Array
) -> None:
    """Lossless: all that is lost is lost in the rounding before."""
    packer = make_packer(packing)
    (written,) = choose([Writer(whole, 1.0, packer)], None)
    groups = [one.group for one in written]
    assert sum(group.component_count for group in groups) == len(whole)
    assert [group.bits for group in groups] == sorted((g.bits for g in groups), reverse=True)
    wire = memoryview(b"".join(one.data for one in written))
    assert np.array_equal(read_groups(wire, groups, whole.shape, packer), whole)


@settings(UNTIMED, max_examples=60)
@given(numbers, st.sampled_from(EIGHTHS))
def test_larger_steps_are_off_by_half_of_one_also_at_the_end_of_16_bits(
    whole: Array, eighths: int
) -> None:
    """Nothing wraps around on the way back."""
    written = list(Writer(whole, 1.0, None).write(eighths))
    wire = memoryview(b"".join(one.data for one in written))
    taken = read_groups(wire, [one.group for one in written], whole.shape, None)
    limit = eighths / 16 + 0.01 if eighths > 8 else 0
    assert np.abs(taken - whole).max() <= limit


@settings(UNTIMED, max_examples=40)
@given(numbers)
def test_quiet_components_share_bytes(whole: Array) -> None:
    """No group takes more than its largest number needs."""
    (written,) = choose([Writer(whole, 1.0, None)], None)
    places = whole.shape[1]
    assert sum(one.group.nbytes for one in written) == sum(
        group_bytes(one.group.component_count, places, one.group.bits) for one in written
    )
    last = whole[-1].astype(np.int64)
    folded = np.where(last < 0, -2 * last - 1, 2 * last)
    least = next(bits for bits in BITS if folded.max() < 2**bits)
    assert written[-1].group.bits == least


def test_components_that_the_shards_make_are_off_by_half_a_step() -> None:
    tensor = falling(1)
    taken = arrives(FOLDED, make_codec(FOLDED).encode({"y": tensor}))["y"]
    assert (taken.dtype, taken.shape) == (tensor.dtype, tensor.shape)
    assert np.abs(taken - tensor).max() <= 0.125 + 1e-5


@settings(UNTIMED, max_examples=40)
@given(st.integers(0, 50), st.integers(0, 20_000))
def test_a_budget_is_kept_or_is_less_than_the_least_that_can_be_sent(
    seed: int, budget_bytes: int
) -> None:
    codec, tensors = make_codec(PAIR), pair(seed)
    sent = codec.encode(tensors, budget_bytes=budget_bytes)
    least = codec.encode(tensors, budget_bytes=0)
    assert [len(tensor.groups) for tensor in least.header.tensors] == [1, 1]
    assert sent.header.payload_bytes <= max(budget_bytes, least.header.payload_bytes)
    taken = arrives(PAIR, sent)
    for tensor in sent.header.tensors:
        count, (eighths,) = tensor.component_count, {group.eighths for group in tensor.groups}
        assert 0 < count <= tensor.spec.shape[1]
        assert eighths == 64 or count == tensor.spec.shape[1]
        assert not taken[tensor.spec.name][:, count:].any()  # the mean of what stayed behind
        off = np.abs(taken[tensor.spec.name] - tensors[tensor.spec.name])[:, :count]
        assert off.max() <= 0.126 * eighths / 8 + (0.125 if eighths > 8 else 0)


def test_more_bytes_are_never_worse_on_average() -> None:
    """Rate and distortion, over frames; and with room enough everything is sent."""
    codec = make_codec(PAIR)
    errors, counts = [], []
    for budget_bytes in (0, 500, 1000, 2000, 4000, 8000, 10**6):
        error = count = 0.0
        for seed in range(8):
            tensors = pair(seed)
            sent = codec.encode(tensors, budget_bytes=budget_bytes)
            taken = arrives(PAIR, sent)
            error += sum(float(np.square(taken[n] - tensors[n]).sum()) for n in tensors)
            count += sum(tensor.component_count for tensor in sent.header.tensors)
        errors.append(error)
        counts.append(count)
    assert errors == sorted(errors, reverse=True)
    assert counts == sorted(counts)
    assert counts[-1] == counts[-3] == 8 * (16 + 8)
    assert counts[0] < counts[-1] / 4
    assert errors[0] > 2 * errors[-1]


def test_a_budget_is_spent_where_it_lowers_the_error_most() -> None:
    """Not tensor by tensor: the louder one gets more."""
    tensors = {"y": 100 * falling(1), "z": 0.5 * falling(2, channels=8, side=20)}
    whole = make_codec(PAIR).encode(tensors)
    budget_bytes = whole.header.payload_bytes // 2
    sent = make_codec(PAIR).encode(tensors, budget_bytes=budget_bytes)
    loud, quiet = sent.header.tensors
    assert loud.component_count / 16 > quiet.component_count / 8
    assert sent.header.payload_bytes > 0.6 * budget_bytes


def test_most_of_a_budget_is_used() -> None:
    """Steps grow little by little."""
    codec, tensors = make_codec(FOLDED), {"y": falling(1, side=40)}
    whole = codec.encode(tensors).header.payload_bytes
    shares = [
        codec.encode(tensors, budget_bytes=whole * percent // 100).header.payload_bytes
        / (whole * percent / 100)
        for percent in (40, 50, 60, 70, 80, 90)
    ]
    assert min(shares) > 0.75
    assert max(shares) <= 1


def test_what_is_sent_otherwise_counts_against_the_budget_too() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 500, np.uint8)
    tensors = {"v": noise, "y": falling(3)}
    sent = make_codec(FOLDED).encode(tensors, budget_bytes=900)
    alone = make_codec(FOLDED).encode({"y": falling(3)}, budget_bytes=900)
    assert sent.header.tensors[1].nbytes < alone.header.tensors[0].nbytes
    assert sent.header.payload_bytes <= 900
    assert [tensor.spec.name for tensor in sent.header.tensors] == ["v", "y"]
    assert np.array_equal(arrives(FOLDED, sent)["v"], noise)


def test_components_that_stay_behind_come_back_as_their_mean() -> None:
    """With the basis in the codec: the tensor's own mean, not zero."""
    frames = [{"x": falling(seed) + 5} for seed in range(4)]
    spec = fit_klt(frames, relative_step=0.1, packing=PACKINGS[-1])
    sent = make_codec(spec).encode(frames[0], budget_bytes=0)
    taken = arrives(spec, sent)["x"]
    assert sent.header.tensors[0].component_count < spec.bases[0].component_count
    assert abs(float(taken.mean()) - 5) < 1


def test_other_codecs_do_not_mind_a_budget() -> None:
    for name in ("fp32", "fp16", "uint8"):
        spec = fit_codec(parse_request(name), [{"y": falling(1)}])
        codec = make_codec(spec)
        sent = codec.encode({"y": falling(1)}, budget_bytes=1)
        assert sent.header == codec.encode({"y": falling(1)}).header


# What a peer may say.


def hostile(sent: Encoded, *groups: CodedGroup, nbytes: int | None = None) -> CodedHeader:
    tensor = msgspec.structs.replace(
        sent.header.tensors[0],
        groups=groups,
        nbytes=sum(group.nbytes for group in groups) if nbytes is None else nbytes,
    )
    return msgspec.structs.replace(sent.header, tensors=(tensor,))


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ((), "0 groups"),
        ((CodedGroup(component_count=17, bits=8, eighths=8, nbytes=5),), "17 of 16 components"),
        (
            (CodedGroup(component_count=2**31 - 1, bits=16, eighths=8, nbytes=2**40),),
            "of 16 components",
        ),
        ((CodedGroup(component_count=9, bits=8, eighths=8, nbytes=5),) * 2, "18 of 16 components"),
        ((CodedGroup(component_count=1, bits=3, eighths=8, nbytes=5),), "components of 3 bits"),
        ((CodedGroup(component_count=1, bits=2, eighths=65, nbytes=5),), "steps of 65 eighths"),
        (
            (CodedGroup(component_count=1, bits=2, eighths=8, nbytes=37),),
            "37 bytes where components take 36",
        ),
    ],
    ids=[
        "none",
        "too many",
        "huge",
        "too many together",
        "bits",
        "steps",
        "longer than its numbers",
    ],
)
def test_groups_that_cannot_be_are_refused_before_anything_is_received(
    groups: tuple[CodedGroup, ...], reason: str
) -> None:
    codec = make_codec(FOLDED)
    header = hostile(codec.encode({"y": falling(1)}), *groups)
    with pytest.raises(TrustError, match=reason):
        codec.check(header, cap_bytes=CAP_BYTES)


def test_groups_must_add_up_to_the_bytes_of_their_tensor() -> None:
    codec = make_codec(FOLDED)
    header = hostile(
        codec.encode({"y": falling(1)}),
        CodedGroup(component_count=1, bits=8, eighths=8, nbytes=100),
        nbytes=101,
    )
    with pytest.raises(TrustError, match="100 bytes of groups in 101"):
        codec.check(header, cap_bytes=CAP_BYTES)


def test_groups_of_a_tensor_that_has_none_are_refused() -> None:
    codec = make_codec(CodecSpec())
    sent = codec.encode({"y": falling(1)})
    group = CodedGroup(component_count=1, bits=8, eighths=8, nbytes=sent.header.payload_bytes)
    with pytest.raises(TrustError, match="comes in 1 groups"):
        codec.check(hostile(sent, group), cap_bytes=CAP_BYTES)


def test_a_group_that_no_packer_made_must_be_whole() -> None:
    codec = make_codec(msgspec.structs.replace(FOLDED, packing="none"))
    header = hostile(
        codec.encode({"y": falling(1)}),
        CodedGroup(component_count=1, bits=8, eighths=8, nbytes=100),
    )
    with pytest.raises(TrustError, match="100 bytes where components take 144"):
        codec.check(header, cap_bytes=CAP_BYTES)


def test_a_header_that_was_accepted_is_not_accepted_with_a_smaller_cap() -> None:
    codec = make_codec(FOLDED)
    header = codec.encode({"y": falling(1)}).header
    codec.check(header, cap_bytes=CAP_BYTES)
    with pytest.raises(TrustError, match="exceed the cap of 10"):
        codec.check(header, cap_bytes=10)


@settings(UNTIMED, max_examples=80)
@given(st.data())
def test_any_bytes_behind_any_groups_are_survived(data: st.DataObject) -> None:
    """The header's claims agree with each other and with nothing else."""
    codec = make_codec(FOLDED)
    group = st.builds(
        CodedGroup,
        component_count=st.integers(1, 20),
        bits=st.sampled_from([1, 2, 4, 8, 16]),
        eighths=st.integers(8, 70),
        nbytes=st.integers(1, 400),
    )
    groups = data.draw(st.lists(group, min_size=1, max_size=4))
    header = hostile(codec.encode({"y": falling(1)}), *groups)
    wire = data.draw(st.binary(min_size=header.payload_bytes, max_size=header.payload_bytes))
    try:
        taken = codec.decode(header, [wire], cap_bytes=CAP_BYTES)
    except (LinkError, TrustError) as error:
        assert error.hint
    else:
        assert taken["y"].shape == (1, 16, 12, 12)


@settings(UNTIMED, max_examples=60)
@given(st.data())
def test_corrupt_and_cut_off_bytes_give_arrays_or_a_named_error(data: st.DataObject) -> None:
    codec = make_codec(PAIR)
    sent = codec.encode(pair(1))
    wires = [bytearray(bytes(buffer)) for buffer in sent.buffers]
    for wire in wires:
        for place in data.draw(st.lists(st.integers(0, len(wire) - 1), max_size=4)):
            wire[place] ^= data.draw(st.integers(1, 255))
    left = data.draw(st.integers(0, len(wires[1])))
    try:
        taken = codec.decode(
            sent.header, [bytes(wires[0]), bytes(wires[1][:left])], cap_bytes=CAP_BYTES
        )
    except LinkError as error:
        assert error.hint
    else:
        assert taken["z"].shape == (1, 8, 20, 20)


def test_a_header_with_groups_survives_its_own_wire_format() -> None:
    header = make_codec(PAIR).encode(pair(1)).header
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(header), type=CodedHeader) == header


def test_components_of_any_size_are_taken_from_the_tensor_itself() -> None:
    """The receiving shard knows its input; the codec need not."""
    one_place = np.full((1, 40, 1, 1), 3.0, np.float32)
    for tensor in (falling(1, channels=1), one_place, falling(1).transpose(0, 2, 3, 1)):
        taken = arrives(FOLDED, make_codec(FOLDED).encode({"y": tensor}))["y"]
        assert np.abs(taken - tensor).max() <= 0.126


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e31])
def test_components_that_steps_cannot_express_are_refused_by_name(bad: float) -> None:
    tensor = falling(1)
    tensor[0, 3, 2, 1] = bad
    with pytest.raises(ModelError, match="'y' holds NaN"):
        make_codec(FOLDED).encode({"y": tensor})


def test_half_precision_and_double_travel_as_components_too() -> None:
    for dtype in (np.float16, np.float64):
        tensor = falling(1).astype(dtype)
        taken = arrives(FOLDED, make_codec(FOLDED).encode({"y": tensor}))["y"]
        assert taken.dtype == dtype
        assert np.abs(taken.astype(np.float64) - tensor).max() <= 0.14


# The spec.


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("klt", "klt:0.5+zstd"),
        ("klt:0.25", "klt:0.25+zstd"),
        ("klt:1", "klt:1+zstd"),
        (" klt:0.50+lz4 ", "klt:0.5+lz4"),
        ("uint8-channel+lz4", "uint8-channel+lz4"),
        ("fp32", "fp32"),
    ],
)
def test_a_codec_is_asked_for_by_its_name(text: str, name: str) -> None:
    request = parse_request(text)
    assert request.name == name
    assert parse_request(name) == request
    assert request.is_lossless == (name == "fp32")


@pytest.mark.parametrize(
    "text",
    ["klt:", "klt:0", "klt:-1", "klt:nan", "klt:inf", "klt:x", "klt:1+none", "uint8:0.5", "klt+"],
)
def test_a_rate_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"klt:0\.5\+zstd"):
        parse_request(text)


def test_what_is_fitted_bears_the_name_that_was_asked_for() -> None:
    frames = [{"y": falling(seed)} for seed in range(3)]
    for text in ("fp32+zstd", "fp16", "uint8-channel", "klt:0.25+lz4"):
        request = parse_request(text)
        assert fit_codec(request, frames).name == request.name
    assert fit_codec(CodecRequest(), []) == CodecSpec()


@pytest.mark.parametrize(
    "fields",
    [
        {"deadline_s": 0.0},
        {"deadline_s": float("nan")},
        {"relative_step": -1.0},
        {"element": "fp16", "components": (), "deadline_s": 0.1},
        {"element": "fp16", "components": (), "relative_step": 0.1},
        {"element": "fp16"},
        {"components": (Components(name="y", step=1.0),) * 2},
    ],
    ids=str,
)
def test_a_codec_that_contradicts_itself_is_refused(fields: dict[str, object]) -> None:
    good = {"element": "klt", "components": (Components(name="y", step=1.0),)}
    assert CodecSpec(**good, deadline_s=0.02)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="codec"):
        CodecSpec(**{**good, **fields})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="step"):
        Components(name="y", step=0.0)


def test_a_folded_codec_survives_a_plan_file_and_every_field_changes_its_digest() -> None:
    values = [FOLDED, PAIR, msgspec.structs.replace(FOLDED, deadline_s=0.02)]
    assert len({value.digest for value in values}) == len(values)
    for value in values:
        assert parse_json(to_json(value), CodecSpec, origin="plan.json") == value


def test_a_tensor_of_a_hostile_shape_is_refused_by_its_size() -> None:
    codec = make_codec(FOLDED)
    sent = codec.encode({"y": falling(1)})
    tensor = msgspec.structs.replace(
        sent.header.tensors[0],
        spec=TensorSpec(name="y", dtype="float32", shape=(2**20, 2**20, 2**10, 1)),
    )
    header = msgspec.structs.replace(sent.header, tensors=(tensor,))
    with pytest.raises(TrustError, match="exceed the cap"):
        codec.check(header, cap_bytes=CAP_BYTES)
