"""The integers themselves: what is written, corrected, spared, and what it costs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.builder.load import LoadedModel
from edgekit.builder.probe import probe_tensors, run_proto
from edgekit.builder.quantize.bias import correct_biases, mean_shifts
from edgekit.builder.quantize.candidates import best_candidate, plain_candidate
from edgekit.builder.quantize.loss import PERFECT_DB, decibels, tensor_losses
from edgekit.builder.quantize.operators import Selection, select_operators
from edgekit.builder.quantize.qdq import dequantized_weights, quantized
from edgekit.builder.quantize.ranges import ALL_CALIBRATORS, CALIBRATORS, ranges_of
from edgekit.builder.quantize.recipes import RECIPES, recipe_for
from edgekit.builder.quantize.sensitive import spare_sensitive
from edgekit.errors import ConfigError
from tests.builder.quantize.quantize_nets import frames, loaded_net

KINDS = ("Conv", "Relu", "GlobalAveragePool")


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    return loaded_net(tmp_path)


def written(loaded: LoadedModel, target: str) -> tuple[onnx.ModelProto, Selection]:
    selection = select_operators(loaded)
    ranges = ranges_of(loaded.proto, KINDS, frames(16), "minmax")
    return quantized(loaded.proto, selection.integer, ranges, recipe_for(target)), selection


@pytest.mark.parametrize("target", RECIPES)
def test_every_target_gets_the_integers_it_takes(loaded: LoadedModel, target: str) -> None:
    """Signs, zero points, width of weights and kind of biases, read from the graph."""
    recipe = recipe_for(target)
    proto, _ = written(loaded, target)
    values = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
    rounders = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    zeros = [values[node.input[2]] for node in rounders]
    assert {zero.dtype for zero in zeros} == {
        np.dtype(np.uint8 if recipe.unsigned_activations else np.int8)
    }
    if recipe.symmetric_activations:
        assert not any(zero.any() for zero in zeros)
    weights = [value for value in values.values() if value.dtype == np.int8 and value.ndim == 4]
    limit = 64 if recipe.seven_bit_weights else 127
    assert len(weights) == 3
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) <= limit
    assert any(value.dtype == np.int32 for value in values.values()) == recipe.quantize_bias
    assert (proto.ir_version, proto.opset_import[0].version) == (8, 13)


def test_the_head_of_the_graph_stays_in_float(loaded: LoadedModel) -> None:
    """Its weights are read as they are."""
    proto, _ = written(loaded, "x86")
    assert set(dequantized_weights(proto)) == {"stem", "depthwise", "pointwise"}


def test_an_unknown_target_is_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match="x86-vnni"):
        recipe_for("x87")


@pytest.mark.parametrize("calibrator", ALL_CALIBRATORS)
def test_the_range_of_a_tensor_covers_its_values(loaded: LoadedModel, calibrator: str) -> None:
    """MinMax to the last value; the percentile all but the rarest."""
    given = frames(16)
    low, high = (
        float(np.ravel(bound)[0])
        for bound in ranges_of(loaded.proto, KINDS, given, calibrator)["c1"].range_value
    )
    values = np.concatenate(
        [probe_tensors(loaded.proto, one, ["c1"])["c1"].ravel() for one in given]
    )
    assert ((values >= low - 1e-5) & (values <= high + 1e-5)).mean() >= 0.999
    assert low <= np.percentile(values, 1)
    assert high >= np.percentile(values, 99)
    if calibrator == "minmax":
        assert (low, high) == pytest.approx((values.min(), values.max()))


def test_the_measured_shift_is_that_of_the_rounded_weights(loaded: LoadedModel) -> None:
    """Borders included: compared with the network run with these weights."""
    proto, _ = written(loaded, "x86")
    rounded = {"depthwise": dequantized_weights(proto)["depthwise"]}
    given = frames(4, seed=3)
    changed = onnx.ModelProto()
    changed.CopyFrom(loaded.proto)
    for tensor in changed.graph.initializer:
        if tensor.name == "w1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(rounded["depthwise"], "w1"))
    want = [
        probe_tensors(changed, one, ["c1"])["c1"] - probe_tensors(loaded.proto, one, ["c1"])["c1"]
        for one in given
    ]
    shifts = mean_shifts(loaded.proto, rounded, given)
    assert set(shifts) == {"depthwise"}
    assert shifts["depthwise"] == pytest.approx(np.mean(want, axis=(0, 1, 3, 4)), abs=1e-6)


def test_corrected_biases_bring_the_mean_back_and_leave_the_model_alone(
    loaded: LoadedModel,
) -> None:
    """Also of a layer that had no bias."""
    proto, _ = written(loaded, "x86")
    before = loaded.proto.SerializeToString()
    corrected = correct_biases(loaded.proto, dequantized_weights(proto), frames(8))
    assert loaded.proto.SerializeToString() == before
    assert all(
        len(node.input) == 3
        for node in corrected.graph.node
        if node.name in {"stem", "depthwise", "pointwise"}
    )
    run_proto(corrected, frames(1)[0], optimization="all")


def test_losses_are_listed_worst_first_and_name_their_operator(loaded: LoadedModel) -> None:
    proto, _ = written(loaded, "x86-vnni")
    losses = tensor_losses(loaded.proto, proto, frames(4, seed=5))
    ratios = [loss.sqnr_db for loss in losses]
    assert ratios == sorted(ratios)
    assert {loss.op for loss in losses} >= {"stem_relu", "depthwise"}
    assert all(loss.sqnr_db <= loss.own_db + 0.5 for loss in losses)


def test_what_a_relu_cuts_off_is_no_loss(loaded: LoadedModel) -> None:
    """The tensor before it is rounded to the range behind it."""
    proto, _ = written(loaded, "x86-vnni")
    rounded = {node.input[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    assert "c0" in rounded
    losses = {loss.tensor: loss for loss in tensor_losses(loaded.proto, proto, frames(4))}
    assert "c0" not in losses
    assert losses["r0"].sqnr_db > 30


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_decibels_of_ten_times_the_noise_are_ten_less(signal: float, noise: float) -> None:
    assert decibels(signal, 10 * noise) == pytest.approx(decibels(signal, noise) - 10, abs=1e-6)
    assert decibels(signal, 0.0) == PERFECT_DB == -decibels(0.0, noise)


def test_a_layer_ruined_by_one_wild_channel_is_spared(tmp_path: Path) -> None:
    """One channel spans a thousand times the others: a single scale leaves these nothing."""
    tame, wild = (
        _spared(loaded_net(tmp_path / name, wild_channel=scale))
        for name, scale in (("tame", 1.0), ("wild", 2000.0))
    )
    assert not tame
    assert wild


def _spared(loaded: LoadedModel) -> set[str]:
    selection = select_operators(loaded)
    given = frames(16)
    ranges = ranges_of(loaded.proto, KINDS, given, "minmax")
    after = spare_sensitive(loaded, selection, ranges, recipe_for("x86-vnni"), given)
    assert set(after.integer) | {one.name for one in after.float} == {
        node.name for node in loaded.proto.graph.node
    }
    return set(selection.integer) - set(after.integer)


def test_entropy_takes_other_ranges_than_minmax(tmp_path: Path) -> None:
    """With as many bins as integers, ONNX Runtime's default, they would be the same."""
    loaded = loaded_net(tmp_path)
    given = frames(16)
    highs = [
        {name: float(np.ravel(ranges[name].range_value[1])[0]) for name in ("c1", "p")}
        for ranges in (ranges_of(loaded.proto, KINDS, given, one) for one in ("minmax", "entropy"))
    ]
    assert all(highs[1][name] <= highs[0][name] for name in highs[0])
    assert sum(highs[1][name] < 0.99 * highs[0][name] for name in highs[0]) >= 2


def test_every_tensor_of_the_float_model_keeps_its_name(loaded: LoadedModel) -> None:
    """A model is cut at them, in integers as in float."""
    proto, _ = written(loaded, "x86")
    wanted = {name for node in loaded.proto.graph.node for name in node.output}
    assert wanted <= {name for node in proto.graph.node for name in node.output}


def test_one_scale_for_a_whole_weight_tensor_is_worse(loaded: LoadedModel) -> None:
    """The plain form that others are compared with."""
    selection, given, recipe = select_operators(loaded), frames(16), recipe_for("x86-vnni")
    per_channel, per_tensor = (
        plain_candidate(loaded, selection, given, replace(recipe, weights_per_channel=value))
        for value in (True, False)
    )
    assert per_channel.fidelity_db > per_tensor.fidelity_db


def test_the_candidate_is_no_worse_than_plain_and_nothing_is_spared_in_vain(
    loaded: LoadedModel,
) -> None:
    """Two calibrators and the equalised model: close enough at once, so nothing stays in float."""
    selection, given = select_operators(loaded), frames(16)
    recipe = recipe_for("x86-vnni")
    best, tried = best_candidate(loaded, selection, given, recipe, CALIBRATORS, spare=True)
    plain = plain_candidate(loaded, selection, given, recipe)
    assert [one.equalized for one in tried] == [False, False, True]
    assert best.is_close_enough
    assert best.selection == selection
    assert not any(one.is_clearly_closer(best) for one in tried)
    assert best.fidelity_db >= plain.fidelity_db


def test_layers_are_spared_until_a_candidate_is_close_enough(tmp_path: Path) -> None:
    """Only if sparing is allowed."""
    loaded = loaded_net(tmp_path, wild_channel=2000.0, can_be_equalized=False)
    selection, given, recipe = select_operators(loaded), frames(16), recipe_for("x86")
    best, tried = best_candidate(loaded, selection, given, recipe, ("minmax",), spare=True)
    kept, all_kept = best_candidate(loaded, selection, given, recipe, ("minmax",), spare=False)
    assert len(tried) > len(all_kept)
    assert len(best.selection.float) > len(selection.float)
    assert kept.selection == selection
    assert best.fidelity_db > kept.fidelity_db
