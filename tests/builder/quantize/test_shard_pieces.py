"""Shards cut on the integers: what crosses, and that the pieces are the whole."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import seeded_inputs, to_bytes
from edgekit.builder.quantize.operators import select_operators
from edgekit.builder.quantize.pieces import Chain, Model, ShardMaker, Ways, leaving_of
from edgekit.builder.quantize.recipes import recipe_for
from edgekit.builder.verify import random_labelled, verify_chain
from edgekit.builder.workload import workload_of
from edgekit.errors import ModelError
from edgekit.planner.cuts import legal_cuts, partition, resolve_cut
from edgekit.spec.codec import parse_request
from tests.builder.quantize.quantize_nets import frames, loaded_net
from tests.graphs import model, random_models, saved

PRECISIONS = ("fp32", "fp16", "int8")


def model_of(loaded: LoadedModel, *cuts: str) -> Model:
    workload = workload_of(loaded)
    return Model(
        loaded=loaded,
        workload=workload,
        cuts=tuple(resolve_cut(workload, cut.split(",")) for cut in cuts),
    )


def chain_of(
    cut: Model,
    precisions: tuple[str, ...],
    given: list[dict[str, np.ndarray]],
    *,
    targets: tuple[str, ...] = (),
    codecs: tuple[str, ...] = (),
    keep_float: tuple[str, ...] = ("auto",),
) -> Chain:
    ways = Ways(
        recipes=tuple(map(recipe_for, targets or ("x86",) * len(precisions))),
        selection=select_operators(cut.loaded, keep_float),
        calibrators=("minmax",),
        codecs=tuple(map(parse_request, codecs)),
    )
    return ShardMaker(cut, ways, given).chain(precisions)  # type: ignore[arg-type]


def assert_pieces_are_the_whole(chain: Chain, level: str = "extended") -> None:
    """Level "none" where the processor here may lack the integer kernels of the target."""
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.onnx" for index in range(len(chain.shards))]
        for path, shard in zip(paths, chain.shards, strict=True):
            path.write_bytes(to_bytes(shard))
        inputs = random_labelled(chain.whole.inputs, (0, 1))
        report = verify_chain(
            chain.whole, paths, leaving_of(chain, chain.cuts), inputs, levels=(level,)
        )
    equal, compared = report.bit_equal(level)
    assert compared > 0
    if "fp16" in chain.precisions:  # the runtime leaves out casts, more of them in one piece
        assert max(check.noise for check in report.checks) < 0.05
    else:
        assert equal == compared


def crossing(chain: Chain) -> list[list[tuple[str, str]]]:
    return [[(one.name, one.dtype) for one in cut.tensors] for cut in chain.cuts]


def branching(folder: Path) -> LoadedModel:
    """conv -> relu (r0), read by two later convolutions and by the end; a head behind."""
    generator = np.random.default_rng(3)
    weights = {
        name: (generator.standard_normal((4, size, 3, 3)) / 4).astype(np.float32)
        for name, size in (("w0", 3), ("w1", 4), ("w2", 4), ("w3", 4))
    }
    pads = [1, 1, 1, 1]
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["c0"], name="stem", pads=pads),
        helper.make_node("Relu", ["c0"], ["r0"], name="stem_relu"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="first", pads=pads),
        helper.make_node("Relu", ["c1"], ["r1"], name="first_relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="second", pads=pads),
        helper.make_node("Add", ["c2", "r0"], ["sum"], name="join"),
        helper.make_node("Conv", ["sum", "w3"], ["out"], name="head", pads=pads),
    ]
    proto = model(nodes, {"image": (1, 3, 16, 16)}, ["out"], weights=weights)
    return load_model(saved(proto, folder / "branching.onnx"))


def pictures(loaded: LoadedModel) -> list[dict[str, np.ndarray]]:
    return [seeded_inputs(loaded.inputs, seed) for seed in range(10, 18)]


def test_between_int8_shards_the_integers_themselves_travel(tmp_path: Path) -> None:
    """A quarter of the bytes; the reader begins by dequantizing."""
    chain = chain_of(model_of(loaded_net(tmp_path), "r0"), ("int8", "int8"), frames(8))
    assert crossing(chain) == [[("r0_QuantizeLinear_Output", "uint8")]]
    assert chain.shards[0].graph.node[-1].op_type == "QuantizeLinear"
    assert chain.shards[1].graph.node[0].op_type == "DequantizeLinear"
    assert chain.precisions == ("int8", "int8")
    assert_pieces_are_the_whole(chain)


def test_a_float_shard_rounds_for_the_int8_shard_behind_it(tmp_path: Path) -> None:
    """The reader would round anyway: doing it before the hop saves three quarters of the bytes."""
    chain = chain_of(model_of(loaded_net(tmp_path), "r0"), ("fp32", "int8"), frames(8))
    assert [dtype for _, dtype in crossing(chain)[0]] == ["uint8"]
    kinds = [node.op_type for node in chain.shards[0].graph.node]
    assert kinds == ["Conv", "Relu", "QuantizeLinear"]
    assert_pieces_are_the_whole(chain)


def test_an_int8_shard_hands_integers_to_a_float_shard(tmp_path: Path) -> None:
    chain = chain_of(model_of(loaded_net(tmp_path), "r0"), ("int8", "fp32"), frames(8))
    assert [dtype for _, dtype in crossing(chain)[0]] == ["uint8"]
    kinds = [node.op_type for node in chain.shards[1].graph.node]
    assert kinds[0] == "DequantizeLinear" and "QuantizeLinear" not in kinds
    assert_pieces_are_the_whole(chain)


def test_integers_that_pass_through_a_shard_stay_integers(tmp_path: Path) -> None:
    """Each shard that reads them has a DequantizeLinear of its own, so no float has to cross."""
    loaded = branching(tmp_path)
    chain = chain_of(model_of(loaded, "r0", "r0,r1"), ("int8",) * 3, pictures(loaded))
    names = [{name for name, _ in cut} for cut in crossing(chain)]
    assert names[0] == {"r0_QuantizeLinear_Output"}
    assert names[1] == {"r0_QuantizeLinear_Output", "r1_QuantizeLinear_Output"}
    assert {dtype for cut in crossing(chain) for _, dtype in cut} == {"uint8"}
    assert_pieces_are_the_whole(chain)


@pytest.mark.parametrize("targets", [("tensorrt", "x86"), ("x86", "tensorrt")])
def test_each_shard_has_the_integers_of_its_device(
    tmp_path: Path, targets: tuple[str, str]
) -> None:
    """What crosses are signed integers, where one of both ends takes no others: a reader of
    another kind than the producer rounds again, the one that cannot read unsigned ones already
    before the hop."""
    cut = model_of(loaded_net(tmp_path), "r0")
    chain = chain_of(cut, ("int8", "int8"), frames(8), targets=targets)
    own = {"x86": onnx.TensorProto.UINT8, "tensorrt": onnx.TensorProto.INT8}
    assert crossing(chain)[0][0][1] == "int8"
    for shard, target in zip(chain.shards, targets, strict=True):
        constants = {one.name: one for one in shard.graph.initializer}
        sent = {value.name for value in shard.graph.output}
        rounders = [
            node
            for node in shard.graph.node
            if node.op_type == "QuantizeLinear" and node.output[0] not in sent
        ]
        assert {constants[node.input[2]].data_type for node in rounders} == {own[target]}
    assert_pieces_are_the_whole(chain)


def test_weights_of_one_shard_have_seven_bits_and_of_the_other_eight(tmp_path: Path) -> None:
    cut = model_of(loaded_net(tmp_path), "c1")
    chain = chain_of(cut, ("int8", "int8"), frames(8), targets=("x86", "x86-vnni"))
    largest = []
    for shard in chain.shards:
        values = [onnx.numpy_helper.to_array(one) for one in shard.graph.initializer]
        weights = [one for one in values if one.dtype == np.int8 and one.ndim == 4]
        largest.append(max(int(np.abs(one.astype(int)).max()) for one in weights))
    assert largest[0] <= 64 < largest[1]
    assert_pieces_are_the_whole(chain)


def test_a_shard_without_a_layer_to_quantize_stays_fp32(tmp_path: Path) -> None:
    """Its operators are head and decoding."""
    chain = chain_of(model_of(loaded_net(tmp_path), "p"), ("int8", "int8"), frames(8))
    assert chain.precisions == ("int8", "fp32")
    assert_pieces_are_the_whole(chain)


def test_a_codec_acts_on_floats_and_only_packs_integers(tmp_path: Path) -> None:
    """Rewriting integers would make other integers of them."""
    cut = model_of(loaded_net(tmp_path), "r0")
    as_integers = chain_of(cut, ("int8", "int8"), frames(8), codecs=("uint8+zstd",))
    assert [one.name for one in as_integers.shipped.codecs] == ["fp32+zstd"]
    as_floats = chain_of(cut, ("fp32", "fp32"), frames(8), codecs=("uint8+zstd",))
    (codec,) = as_floats.shipped.codecs
    assert codec.name == "uint8+zstd" and [one.name for one in codec.ranges] == ["r0"]


def test_a_shard_is_calibrated_on_what_the_codec_before_it_lets_through(tmp_path: Path) -> None:
    """Coarse steps before a float -> klt -> int8 cut change the ranges behind it."""
    cut = model_of(loaded_net(tmp_path), "r0")
    fine, coarse = (
        chain_of(cut, ("fp32", "int8"), frames(8), codecs=(name,)) for name in ("klt:0.05", "klt:4")
    )
    scales = [
        {
            one.name: onnx.numpy_helper.to_array(one).item()
            for one in chain.pieces[1].proto.graph.initializer
            if one.name in ("c1_scale", "r2_scale")
        }
        for chain in (fine, coarse)
    ]
    assert scales[0] != scales[1]


def test_two_chains_share_what_they_have_in_common(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quantizing takes seconds; trying other precisions behind a shard does not repeat it."""
    import edgekit.builder.quantize.pieces as module

    calls = []
    real = module.best_candidate
    monkeypatch.setattr(module, "best_candidate", lambda *a, **k: calls.append(1) or real(*a, **k))
    cut = model_of(loaded_net(tmp_path), "r0")
    ways = Ways(
        recipes=(recipe_for("x86"),) * 2, selection=select_operators(cut.loaded),
        calibrators=("minmax",),
    )  # fmt: skip
    maker = ShardMaker(cut, ways, frames(8))
    maker.chain(("int8", "int8"))
    maker.chain(("int8", "fp32"))
    assert len(calls) == 2


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(random_models(), st.data())
def test_any_cuts_of_any_model_in_any_precisions_are_the_whole_graph(
    proto: onnx.ModelProto, data: st.DataObject
) -> None:
    """Early outputs, shared and computed weights, tensors that pass through, mixed targets."""
    with TemporaryDirectory() as folder:
        loaded = load_model(saved(proto, Path(folder) / "net.onnx"))
    workload = workload_of(loaded)
    cuts = legal_cuts(workload).cuts
    assume(cuts)
    chosen = sorted(
        data.draw(st.lists(st.sampled_from(range(len(cuts))), min_size=1, max_size=2, unique=True))
    )
    found = tuple(cuts[index] for index in chosen)
    try:
        partition(workload, found)
    except Exception:  # noqa: BLE001 - two cuts that do not lie below each other are no case
        assume(False)
    count = len(found) + 1
    precisions = tuple(data.draw(st.sampled_from(PRECISIONS)) for _ in range(count))
    targets = tuple(data.draw(st.sampled_from(("x86", "tensorrt"))) for _ in range(count))
    given = [seeded_inputs(loaded.inputs, seed) for seed in range(4)]
    cut = Model(loaded=loaded, workload=workload, cuts=found)
    try:
        select_operators(loaded, ("none",))
    except ModelError:
        assume(False)
    chain = chain_of(cut, precisions, given, targets=targets, keep_float=("none",))
    assert_pieces_are_the_whole(chain, "none")
    if "tensorrt" not in targets:
        assert_pieces_are_the_whole(chain)
    floats = {one.name: one for one in loaded.activations.values()}
    for before, after in zip(found, chain.cuts, strict=True):
        assert len(before.tensors) == len(after.tensors)
        assert all(one.dtype in ("uint8", "int8") or one.name in floats for one in after.tensors)
