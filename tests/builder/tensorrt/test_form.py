"""The operators that TensorRT takes are proved to compute what those of the shard do."""

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from edgekit.builder.load import load_model
from edgekit.builder.quantize.operators import select_operators
from edgekit.builder.quantize.pieces import Chain, Model, ShardMaker, Ways
from edgekit.builder.quantize.recipes import recipe_for
from edgekit.builder.tensorrt_build import form
from edgekit.builder.tensorrt_build.form import prove_form, tensorrt_form
from edgekit.builder.workload import workload_of
from edgekit.errors import ModelError
from edgekit.planner.cuts import resolve_cut
from edgekit.spec.codec import parse_request
from tests.builder.quantize.quantize_nets import frames, loaded_net
from tests.graphs import residual_model, saved


def chain_of(folder: Path, *precisions: str, codecs: tuple[str, ...] = ()) -> Chain:
    loaded = loaded_net(folder)
    workload = workload_of(loaded)
    cuts = tuple(resolve_cut(workload, [name]) for name in ("r0", "c1"))
    ways = Ways(
        recipes=tuple(map(recipe_for, ("x86", "tensorrt", "x86"))),
        selection=select_operators(loaded), calibrators=("minmax",),
        codecs=tuple(map(parse_request, codecs)),
    )  # fmt: skip
    model = Model(loaded=loaded, workload=workload, cuts=cuts)
    return ShardMaker(model, ways, frames(8)).chain(precisions)  # type: ignore[arg-type]


@pytest.mark.parametrize("own", ["fp32", "int8"])
def test_what_ships_is_the_form_of_what_was_proved(tmp_path: Path, own: str) -> None:
    """On TensorRT's device alone."""
    chain = chain_of(tmp_path, "int8", own, "int8")
    prove_form(chain.shards[1])
    assert chain.shipped.shards[1] == tensorrt_form(chain.shards[1]) != chain.shards[1]
    assert (chain.shipped.shards[0], chain.shipped.shards[2]) == (chain.shards[0], chain.shards[2])


def test_it_goes_together_with_codecs_folded_in(tmp_path: Path) -> None:
    """Principal components are floats; the form is of the shard that gives and takes them."""
    chain = chain_of(tmp_path, "fp32", "fp32", "int8", codecs=("klt:0.05", "fp32"))
    kinds = [node.op_type for node in chain.shipped.shards[1].graph.node]
    assert kinds[-1] == "Cast" and "QuantizeLinear" not in kinds


def test_a_shard_of_floats_is_its_own_form(tmp_path: Path) -> None:
    proto = load_model(saved(residual_model(), tmp_path / "net.onnx")).proto
    assert tensorrt_form(proto) == proto
    prove_form(proto)


def test_a_form_that_computes_something_else_is_not_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousandth in one scale is enough."""
    shard = chain_of(tmp_path, "int8", "fp32", "int8").shards[1]
    real = form.without_unsigned

    def wrong(proto: onnx.ModelProto) -> onnx.ModelProto:
        made = real(proto)
        for tensor in made.graph.initializer:
            if tensor.name.startswith("r0_scale"):
                value = numpy_helper.to_array(tensor)
                tensor.CopyFrom(
                    numpy_helper.from_array(value * value.dtype.type(1.001), tensor.name)
                )
        return made

    monkeypatch.setattr(form, "without_unsigned", wrong)
    with pytest.raises(ModelError, match="not the same in the operators that TensorRT takes"):
        prove_form(shard)
