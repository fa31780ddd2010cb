"""The klt transform folded into shards: the same numbers, wherever it is merged or put beside."""

from dataclasses import dataclass

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from edgekit.builder.compare import differences
from edgekit.builder.fold_klt import KltFold, fold_klt
from edgekit.builder.probe import run_proto
from edgekit.errors import ConfigError, ModelError
from edgekit.spec.codec import RAW, ChannelBasis, CodecSpec, Components
from edgekit.spec.plan import Cut
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.codecs import fit_klt, make_codec
from tests.graphs import model

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
MAKERS = ("conv", "conv without bias", "relu", "read twice", "depthwise")
READERS = ("1x1", "valid", "padded", "two", "add", "depthwise", "strided")


@dataclass(frozen=True)
class Chain:
    """Two shards around the tensor "t"."""

    shards: tuple[onnx.ModelProto, ...]
    cuts: tuple[Cut, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def folded(self, *codecs: CodecSpec) -> KltFold:
        return fold_klt(self.shards, self.cuts, codecs, inputs=self.inputs, outputs=self.outputs)

    def run(self, shards: tuple[onnx.ModelProto, ...], image: Array) -> dict[str, Array]:
        """Outputs of the last shard."""
        tensors = {"image": image}
        for shard in shards:
            given = {value.name: tensors[value.name] for value in shard.graph.input}
            tensors |= run_proto(shard, given, optimization="extended")
        return {spec.name: tensors[spec.name] for spec in self.outputs}


def spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def cut(*tensors: TensorSpec) -> Cut:
    return Cut(tensors=tensors, work_flop_before=1, op_count_before=1)


def chain(
    maker: str, reader: str, channels: int = 6, side: tuple[int, int] = (8, 7), batch: int = 1
) -> Chain:
    """A shard that makes "t" (channels) of an image of 3 channels, and one that reads it."""
    generator = np.random.default_rng(channels)

    def weights(*shape: int) -> Array:
        return generator.standard_normal(shape).astype(np.float32)

    conv = helper.make_node("Conv", ["image", "w0", "b0"], ["c0"], pads=[1] * 4, name="stem")
    first = {
        "conv": [conv],
        "conv without bias": [helper.make_node("Conv", ["image", "w0"], ["c0"], pads=[1] * 4)],
        "relu": [conv, helper.make_node("Relu", ["c0"], ["r0"], name="rectify")],
        "read twice": [conv, helper.make_node("Sigmoid", ["c0"], ["aside"], name="aside")],
        "depthwise": [
            conv,
            helper.make_node("Conv", ["c0", "w3"], ["d0"], pads=[1] * 4, group=channels),
        ],
    }[maker]
    made = {"relu": "r0", "depthwise": "d0"}.get(maker, "c0")
    for node in first:
        for index, name in enumerate(node.output):
            node.output[index] = "t" if name == made else name
        for index, name in enumerate(node.input):
            node.input[index] = "t" if name == made else name
    second = {
        "1x1": [helper.make_node("Conv", ["t", "w1", "b1"], ["out"], name="next")],
        "strided": [helper.make_node("Conv", ["t", "w1"], ["out"], strides=[2, 2], name="next")],
        "valid": [helper.make_node("Conv", ["t", "w2"], ["out"], auto_pad="VALID", name="next")],
        "padded": [helper.make_node("Conv", ["t", "w2"], ["out"], pads=[1] * 4, name="next")],
        "two": [
            helper.make_node("Conv", ["t", "w1"], ["one"], name="next"),
            helper.make_node("Conv", ["t", "w1", "b1"], ["two"], name="other"),
            helper.make_node("Add", ["one", "two"], ["out"], name="join"),
        ],
        "add": [helper.make_node("Add", ["t", "t"], ["out"], name="next")],
        "depthwise": [helper.make_node("Conv", ["t", "w3"], ["out"], group=channels, name="next")],
    }[reader]
    stored = {
        "w0": weights(channels, 3, 3, 3), "b0": weights(channels),
        "w1": weights(4, channels, 1, 1), "b1": weights(4),
        "w2": weights(4, channels, 3, 3), "w3": weights(channels, 1, 3, 3),
    }  # fmt: skip
    image, tensor = (batch, 3, *side), (batch, channels, *side)
    outputs = ["t", "aside"] if maker == "read twice" else ["t"]
    head = model(first, {"image": image}, outputs, weights=stored)
    tail = model(second, {"t": tensor}, ["out"], weights=stored)
    crossing = [spec("t", *tensor)]
    leaving = [spec("out", 1)]
    if maker == "read twice":
        crossing.append(spec("aside", *tensor))
        leaving.append(spec("aside", *tensor))
    return Chain((head, tail), (cut(*crossing),), (spec("image", *image),), tuple(leaving))


def basis(channels: int, kept: int | None = None, name: str = "t", step: float = 0.1) -> CodecSpec:
    """A klt codec with a random rotation, or its first rows."""
    generator = np.random.default_rng(channels + 1)
    rotation, _ = np.linalg.qr(generator.standard_normal((channels, channels)))
    one = ChannelBasis(
        name=name,
        mean=generator.standard_normal(channels).astype("<f4").tobytes(),
        rows=np.ascontiguousarray(rotation[: kept or channels]).astype("<f4").tobytes(),
        step=step,
    )
    return CodecSpec(element="klt", packing="none", bases=(one,))


def images(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


@settings(UNTIMED, max_examples=60)
@given(
    st.sampled_from(MAKERS),
    st.sampled_from(READERS),
    st.integers(1, 24),
    st.tuples(st.integers(3, 12), st.integers(3, 12)),
    st.integers(1, 2),
)
def test_with_all_components_the_outputs_stay_where_they_were(
    maker: str, reader: str, channels: int, side: tuple[int, int], batch: int
) -> None:
    """Every way to merge, at any size; stated by the fold itself and found again from outside."""
    one = chain(maker, reader, channels, side, batch)
    fold = one.folded(basis(channels))
    assert fold.relative_error <= 1e-5
    image = images((batch, 3, *side))
    found = differences(one.run(one.shards, image), one.run(fold.shards, image))
    assert max(each.relative_error for each in found.values()) <= 1e-5


@settings(UNTIMED, max_examples=30)
@given(st.sampled_from(MAKERS), st.sampled_from(READERS), st.integers(2, 12), st.data())
def test_with_components_left_out_it_is_the_projection_that_the_codec_would_do(
    maker: str, reader: str, channels: int, data: st.DataObject
) -> None:
    one = chain(maker, reader, channels)
    kept = data.draw(st.integers(1, channels - 1))
    codec = basis(channels, kept)
    fold = one.folded(codec)
    assert fold.cuts[0].tensors[0].shape == (1, kept, 8, 7)
    image = images((1, 3, 8, 7))
    made = run_proto(one.shards[0], {"image": image}, optimization="extended")
    rows = np.frombuffer(codec.bases[0].rows, "<f4").reshape(kept, channels).astype(np.float64)
    mean = np.frombuffer(codec.bases[0].mean, "<f4").astype(np.float64)[:, None, None]
    projected = np.einsum("kc,kd,ndhw->nchw", rows, rows, made["t"] - mean) + mean
    given = {"t": projected.astype(np.float32)}
    want = run_proto(one.shards[1], given, optimization="extended")
    got = one.run(fold.shards, image)
    assert differences(want, {"out": got["out"]})["out"].relative_error <= 1e-5


@pytest.mark.parametrize(
    ("maker", "is_merged"),
    [("conv", True), ("conv without bias", True), ("relu", False), ("read twice", False),
     ("depthwise", False)],
)  # fmt: skip
def test_the_making_shard_gets_an_operator_only_where_no_convolution_can_take_it(
    maker: str, is_merged: bool
) -> None:
    one = chain(maker, "1x1")
    fold = one.folded(basis(6))
    added = len(fold.shards[0].graph.node) - len(one.shards[0].graph.node)
    assert added == (0 if is_merged else 1)
    assert ("merged" in fold.notes[0]) == is_merged


@pytest.mark.parametrize(
    ("reader", "is_merged"),
    [("1x1", True), ("strided", True), ("valid", True), ("two", True), ("padded", False),
     ("add", False), ("depthwise", False)],
)  # fmt: skip
def test_the_reading_shard_gets_an_operator_only_where_no_convolution_can_take_it(
    reader: str, is_merged: bool
) -> None:
    """A border of zeros is not a border of means."""
    one = chain("relu", reader)
    fold = one.folded(basis(6))
    added = len(fold.shards[1].graph.node) - len(one.shards[1].graph.node)
    assert added == (0 if is_merged else 1)


def test_what_crosses_are_the_components_and_the_codec_only_rounds_them() -> None:
    """Both ways to do the transform send the same whole numbers."""
    one = chain("relu", "padded", 8, (16, 16))
    frames = [
        run_proto(one.shards[0], {"image": images((1, 3, 16, 16)) + seed}, optimization="extended")
        for seed in range(3)
    ]
    codec = fit_klt(frames, relative_step=0.3, packing="none")
    fold = one.folded(codec)
    (new,) = fold.codecs
    assert new.bases == ()
    assert new.components == (Components(name="t_components", step=codec.bases[0].step),)
    assert new.name == codec.name
    image = images((1, 3, 16, 16))
    tensors = run_proto(one.shards[0], {"image": image}, optimization="extended")
    components = run_proto(fold.shards[0], {"image": image}, optimization="extended")
    assert list(components) == [spec.name for spec in fold.cuts[0].tensors]
    sent, sent_folded = make_codec(codec).encode(tensors), make_codec(new).encode(components)
    there, back = (np.frombuffer(each.buffers[0], np.uint8) for each in (sent, sent_folded))
    assert sent.header.tensors[0].groups == sent_folded.header.tensors[0].groups
    assert (there != back).mean() < 0.001  # a number on the edge between two steps


def test_what_is_given_stays_as_it_is() -> None:
    one = chain("conv", "1x1")
    before = [shard.SerializeToString(deterministic=True) for shard in one.shards]
    one.folded(basis(6))
    assert [shard.SerializeToString(deterministic=True) for shard in one.shards] == before


def test_the_same_fold_gives_the_same_bytes() -> None:
    folds = [chain("relu", "padded").folded(basis(6)) for _ in range(2)]
    one, two = ([s.SerializeToString(deterministic=True) for s in fold.shards] for fold in folds)
    assert one == two


def test_cuts_of_other_codecs_stay_as_they_are() -> None:
    one = chain("conv", "1x1")
    fold = one.folded(RAW)
    assert fold.shards == one.shards
    assert (fold.cuts, fold.codecs, fold.notes) == (one.cuts, (RAW,), ())


def test_a_tensor_that_is_an_output_of_the_model_keeps_its_basis_in_the_codec() -> None:
    """It must arrive at the last device as itself."""
    one = chain("conv", "1x1")
    one = Chain(one.shards, one.cuts, one.inputs, (*one.outputs, spec("t", 1, 6, 8, 7)))
    codec = basis(6)
    fold = one.folded(codec)
    assert fold.codecs == (codec,)
    assert fold.cuts == one.cuts


def test_a_tensor_that_crosses_two_cuts_is_folded_once_for_both_readers() -> None:
    """The shard between reads it and hands it on; each cut keeps its own step."""
    one = chain("relu", "padded")
    late = model(
        [helper.make_node("Mul", ["t", "t"], ["square"], name="late")],
        {"t": (1, 6, 8, 7)}, ["square"],
    )  # fmt: skip
    cuts = (one.cuts[0], cut(spec("t", 1, 6, 8, 7), spec("out", 1, 4, 8, 7)))
    three = Chain((*one.shards, late), cuts, one.inputs, (spec("out", 1), spec("square", 1)))
    fold = three.folded(basis(6), basis(6, step=0.7))
    assert fold.relative_error <= 1e-5
    assert [found.names for found in fold.cuts] == [("t_components",), ("t_components", "out")]
    assert [codec.components[0].step for codec in fold.codecs] == [0.1, 0.7]
    assert len(fold.notes) == 3


def test_a_tensor_that_one_of_its_cuts_sends_otherwise_is_not_folded() -> None:
    one = chain("relu", "padded")
    late = model(
        [helper.make_node("Mul", ["t", "t"], ["square"], name="late")],
        {"t": (1, 6, 8, 7)}, ["square"],
    )  # fmt: skip
    cuts = (one.cuts[0], cut(spec("t", 1, 6, 8, 7), spec("out", 1, 4, 8, 7)))
    three = Chain((*one.shards, late), cuts, one.inputs, (spec("out", 1), spec("square", 1)))
    codecs = (basis(6), CodecSpec(element="fp16"))
    assert three.folded(*codecs).codecs == codecs


def test_a_name_that_is_taken_is_not_used_again() -> None:
    one = chain("relu", "padded")
    tail = onnx.ModelProto()
    tail.CopyFrom(one.shards[1])
    tail.graph.node[0].output[0] = "t_components"
    tail.graph.output[0].name = "t_components"
    odd = Chain((one.shards[0], tail), one.cuts, one.inputs, (spec("t_components", 1),))
    assert odd.folded(basis(6)).cuts[0].names == ("t_components_",)


def test_a_basis_of_another_tensor_is_refused() -> None:
    with pytest.raises(ConfigError, match="basis of 't' is of 5 channels"):
        chain("conv", "1x1").folded(basis(5))
    with pytest.raises(ConfigError, match="one codec per cut"):
        chain("conv", "1x1").folded()


def test_rows_that_are_no_rotation_are_refused_by_what_they_do() -> None:
    """A basis is data: only its sizes and lengths are checked when it is read."""
    codec = basis(6)
    rows = np.tile(np.eye(6)[0], (6, 1)).astype("<f4").tobytes()
    broken = msgspec.structs.replace(
        codec, bases=(msgspec.structs.replace(codec.bases[0], rows=rows),)
    )
    with pytest.raises(ModelError, match="moved output 'out'"):
        chain("conv", "1x1").folded(broken)
