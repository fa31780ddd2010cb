"""Quantize a float model in several ways and take the one closest to it.

In:  a float model, a Selection, calibration frames, a recipe.  Out: the best Candidate, and all.
Close means: the signal-to-noise ratio of what the head reads (of the last integers, without a
head), a measure that needs no labels and does not drown in the large numbers of box coordinates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import onnx

from edgekit.builder.load import LoadedModel
from edgekit.builder.quantize.bias import correct_biases
from edgekit.builder.quantize.loss import TensorLoss, tensor_losses
from edgekit.builder.quantize.operators import HEAD, Selection
from edgekit.builder.quantize.qdq import dequantized_weights, quantized
from edgekit.builder.quantize.ranges import ranges_of
from edgekit.builder.quantize.recipes import Recipe
from edgekit.builder.quantize.sensitive import spare_sensitive
from edgekit.spec.tensors import Array

_JUDGED_FRAMES = 6
_CORRECTION_FRAMES = 16
ShowStep = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """One quantized form of a model."""

    proto: onnx.ModelProto
    calibrator: str
    bias_corrected: bool
    selection: Selection
    fidelity_db: float
    losses: tuple[TensorLoss, ...]
    """Worst first."""


def plain_candidate(
    model: LoadedModel,
    selection: Selection,
    frames: Sequence[dict[str, Array]],
    recipe: Recipe,
    calibrator: str = "minmax",
) -> Candidate:
    """Quantized in one go, nothing corrected and nothing spared: what others are compared with."""
    ranges = ranges_of(model.proto, _kinds(model, selection), frames, calibrator)
    proto = quantized(model.proto, selection.integer, ranges, recipe)
    return _judged(model, proto, selection, frames, calibrator, corrected=False)


def best_candidate(
    model: LoadedModel,
    selection: Selection,
    frames: Sequence[dict[str, Array]],
    recipe: Recipe,
    calibrators: Sequence[str],
    *,
    spare: bool,
    progress: ShowStep = lambda text, done, total: None,
) -> tuple[Candidate, tuple[Candidate, ...]]:
    """The closest candidate, and all tried: each calibrator with and without corrected biases.

    ``spare``: leave layers in float in which one scale per tensor loses too much.
    """
    tried = []
    for calibrator in calibrators:
        ranges = ranges_of(
            model.proto,
            _kinds(model, selection),
            frames,
            calibrator,
            watch=partial(_show_done, progress, f"calibrate, {calibrator}", len(frames)),
        )
        progress(f"quantize, {calibrator}", 0, 0)
        chosen = spare_sensitive(model, selection, ranges, recipe, frames) if spare else selection
        plain = quantized(model.proto, chosen.integer, ranges, recipe)
        tried.append(_judged(model, plain, chosen, frames, calibrator, corrected=False))
        weights = dequantized_weights(plain)
        biased = correct_biases(model.proto, weights, frames[:_CORRECTION_FRAMES])
        better = quantized(biased, chosen.integer, ranges, recipe)
        tried.append(_judged(model, better, chosen, frames, calibrator, corrected=True))
    return max(tried, key=lambda candidate: candidate.fidelity_db), tuple(tried)


def _show_done(progress: ShowStep, text: str, total: int, done: int) -> None:
    progress(text, done, total)


def _kinds(model: LoadedModel, selection: Selection) -> set[str]:
    chosen = set(selection.integer)
    return {node.op_type for node in model.proto.graph.node if node.name in chosen}


def _judged(
    model: LoadedModel,
    proto: onnx.ModelProto,
    selection: Selection,
    frames: Sequence[dict[str, Array]],
    calibrator: str,
    *,
    corrected: bool,
) -> Candidate:
    losses = tensor_losses(model.proto, proto, _spread(frames))
    heads = {one.name for one in selection.float if one.reason == HEAD}
    read = {
        name for node in model.proto.graph.node if node.name in heads for name in node.input[:1]
    }
    at_head = [loss.sqnr_db for loss in losses if loss.tensor in read]
    return Candidate(
        proto=proto,
        calibrator=calibrator,
        bias_corrected=corrected,
        selection=selection,
        fidelity_db=fmean(at_head) if at_head else _last(model, losses),
        losses=losses,
    )


def _last(model: LoadedModel, losses: Sequence[TensorLoss]) -> float:
    """The ratio of the tensor that is rounded last."""
    order = {name: k for k, node in enumerate(model.proto.graph.node) for name in node.output}
    return max(losses, key=lambda loss: order[loss.tensor]).sqnr_db


def _spread(frames: Sequence[dict[str, Array]]) -> Sequence[dict[str, Array]]:
    return frames[:: max(1, len(frames) // _JUDGED_FRAMES)][:_JUDGED_FRAMES]
