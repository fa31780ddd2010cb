"""Quantize a float model in several ways and take the one closest to it.

In:  a float model, a Selection, calibration frames, a recipe.  Out: the best Candidate, and all.
Close means, without labels: for a detector, that it finds the same boxes with the same scores; for
other models the signal-to-noise ratio of what the head reads (of the last integers, without a
head), which does not drown in the large numbers of an output.
Layers are left in float only as far as that takes: first none, then those that int8 ruins, then
those that it harms, until one candidate is close enough.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import onnx

from edgekit.builder.load import LoadedModel
from edgekit.builder.quantize.agreement import Referee
from edgekit.builder.quantize.bias import correct_biases
from edgekit.builder.quantize.equalize import equalized
from edgekit.builder.quantize.loss import TensorLoss, tensor_losses
from edgekit.builder.quantize.operators import HEAD, Selection
from edgekit.builder.quantize.qdq import dequantized_weights, quantized
from edgekit.builder.quantize.ranges import ranges_of
from edgekit.builder.quantize.recipes import Recipe
from edgekit.builder.quantize.sensitive import FALLS_DB, spare_sensitive
from edgekit.builder.quantize.targets import level_here
from edgekit.spec.card import ModelCard
from edgekit.spec.tensors import Array

_JUDGED_FRAMES = 6
_CORRECTION_FRAMES = 16
_CLASSES = "classes"
"""The decoder of classifiers."""
ENOUGH_AGREEMENT, ENOUGH_DB = 0.65, 15.0
"""Closer than this, leaving more in float costs time and gains no accuracy that could be measured;
what is ruined is far below (YOLOX-nano: 0.14 and a drop of 29 pp, with 0.8 none)."""
_CLEAR_AGREEMENT, _CLEAR_DB = 0.05, 1.0
"""Less is chance with some dozen frames: then the earlier candidate is taken."""
Frames = Sequence[dict[str, Array]]
ShowStep = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """One quantized form of a model."""

    proto: onnx.ModelProto
    calibrator: str
    bias_corrected: bool
    equalized: bool
    selection: Selection
    fidelity_db: float
    agreement: float | None
    """Of the detections with those in fp32, 0..1; None for what is no detector."""
    losses: tuple[TensorLoss, ...]
    """Worst first."""

    @property
    def is_close_enough(self) -> bool:
        """True if it may be expected to be as good as fp32."""
        if self.agreement is not None:
            return self.agreement >= ENOUGH_AGREEMENT
        return self.fidelity_db >= ENOUGH_DB

    def is_clearly_closer(self, other: "Candidate") -> bool:
        """True if it is closer to fp32 than ``other`` by more than chance."""
        if self.agreement is not None and other.agreement is not None:
            return self.agreement > other.agreement + _CLEAR_AGREEMENT
        return self.fidelity_db > other.fidelity_db + _CLEAR_DB


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Form:
    """A float graph with ranges: what can be quantized with more or fewer layers in float."""

    model: LoadedModel
    ranges: Any
    calibrator: str
    equalized: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Work:
    """What all candidates of one model share."""

    frames: Frames
    recipe: Recipe
    referee: Referee | None
    progress: ShowStep


def plain_candidate(
    model: LoadedModel,
    selection: Selection,
    frames: Frames,
    recipe: Recipe,
    calibrator: str = "minmax",
) -> Candidate:
    """Quantized in one go, nothing corrected and nothing spared: what others are compared with."""
    work = _Work(frames=frames, recipe=recipe, referee=None, progress=_say_nothing)
    form = _form(model, selection, work, calibrator)
    proto = quantized(model.proto, selection.integer, form.ranges, recipe)
    return _judged(form, proto, selection, work, corrected=False)


def best_candidate(
    model: LoadedModel,
    selection: Selection,
    frames: Frames,
    recipe: Recipe,
    calibrators: Sequence[str],
    *,
    spare: bool,
    card: ModelCard | None = None,
    progress: ShowStep = lambda text, done, total: None,
) -> tuple[Candidate, tuple[Candidate, ...]]:
    """The closest candidate, and all tried: biases corrected, by each calibrator, then by the best
    of them on the equalised model if there is anything to equalise.

    ``spare``: if none is close enough, again with layers left in float in which one scale per
    tensor loses too much.
    ``card``: how the outputs of a detector are read; without it candidates are judged by numbers.
    """
    is_detector = card is not None and card.output.decoder != _CLASSES
    referee = None
    if card is not None and is_detector:
        referee = Referee(model, card, frames, level_here(recipe))
    work = _Work(frames=frames, recipe=recipe, referee=referee, progress=progress)
    forms = [_form(model, selection, work, name) for name in calibrators]
    chosen = dict.fromkeys(range(len(forms) + 1), selection)
    even, changed_count = equalized(model, selection.integer)
    tried: list[Candidate] = []
    for fall_db in (None, *FALLS_DB) if spare else (None,):
        here: list[Candidate] = []
        for number, form in enumerate(forms):
            chosen[number] = _spared(form, chosen[number], work, fall_db)
            here.append(_corrected(form, chosen[number], work))
        if changed_count and len(forms) == len(calibrators):
            best = forms[here.index(_closest(here))]
            forms.append(_form(even, selection, work, best.calibrator, equalized=True))
            chosen[len(calibrators)] = _spared(forms[-1], selection, work, fall_db)
            here.append(_corrected(forms[-1], chosen[len(calibrators)], work))
        tried += here
        if enough := [one for one in here if one.is_close_enough]:
            return _closest(enough), tuple(tried)
    return _closest(tried), tuple(tried)


def _closest(candidates: Sequence[Candidate]) -> Candidate:
    """The first that no later one is clearly closer than."""
    best = candidates[0]
    for candidate in candidates[1:]:
        if candidate.is_clearly_closer(best):
            best = candidate
    return best


def _form(
    model: LoadedModel, selection: Selection, work: _Work, calibrator: str, *,
    equalized: bool = False,
) -> _Form:  # fmt: skip
    watch = partial(_show_done, work.progress, f"calibrate, {calibrator}", len(work.frames))
    kinds = _kinds(model, selection)
    ranges = ranges_of(model.proto, kinds, work.frames, calibrator, watch=watch)
    return _Form(model=model, ranges=ranges, calibrator=calibrator, equalized=equalized)


def _spared(form: _Form, selection: Selection, work: _Work, fall_db: float | None) -> Selection:
    """``selection``, less what loses ``fall_db`` or more; all of it without a limit."""
    if fall_db is None:
        return selection
    return spare_sensitive(
        form.model, selection, form.ranges, work.recipe, work.frames, most_fall_db=fall_db
    )


def _corrected(form: _Form, selection: Selection, work: _Work) -> Candidate:
    """Quantized twice: the second time with biases that make up for the rounded weights."""
    work.progress(f"quantize, {form.calibrator}", 0, 0)
    plain = quantized(form.model.proto, selection.integer, form.ranges, work.recipe)
    frames = work.frames[:_CORRECTION_FRAMES]
    biased = correct_biases(form.model.proto, dequantized_weights(plain), frames)
    proto = quantized(biased, selection.integer, form.ranges, work.recipe)
    return _judged(form, proto, selection, work, corrected=True)


def _say_nothing(text: str, done: int, total: int) -> None:
    pass


def _show_done(progress: ShowStep, text: str, total: int, done: int) -> None:
    progress(text, done, total)


def _kinds(model: LoadedModel, selection: Selection) -> set[str]:
    chosen = set(selection.integer)
    return {node.op_type for node in model.proto.graph.node if node.name in chosen}


def _judged(
    form: _Form, proto: onnx.ModelProto, selection: Selection, work: _Work, *, corrected: bool
) -> Candidate:
    graph = form.model.proto.graph
    losses = tensor_losses(form.model.proto, proto, _spread(work.frames))
    heads = {one.name for one in selection.float if one.reason == HEAD}
    read = {name for node in graph.node if node.name in heads for name in node.input[:1]}
    at_head = [loss.sqnr_db for loss in losses if loss.tensor in read]
    return Candidate(
        proto=proto,
        calibrator=form.calibrator,
        bias_corrected=corrected,
        equalized=form.equalized,
        selection=selection,
        fidelity_db=fmean(at_head) if at_head else _last(form.model, losses),
        agreement=work.referee.judge(proto) if work.referee else None,
        losses=losses,
    )


def _last(model: LoadedModel, losses: Sequence[TensorLoss]) -> float:
    """The ratio of the tensor that is rounded last."""
    order = {name: k for k, node in enumerate(model.proto.graph.node) for name in node.output}
    return max(losses, key=lambda loss: order[loss.tensor]).sqnr_db


def _spread(frames: Frames) -> Frames:
    return frames[:: max(1, len(frames) // _JUDGED_FRAMES)][:_JUDGED_FRAMES]
