"""A model whose chosen operators alone are integers: made once, then for any sub-model at once.

In:  a LoadedModel, a strategy, calibration frames, a recipe.  Out: QDQ graphs.
The whole model is quantized in every way that ``quantize.candidates`` tries; the ranges, the
corrections and the operators left in float of the closest one hold for its sub-models too.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx

from edgekit.builder.load import LoadedModel
from edgekit.builder.quantize.bias import correct_biases
from edgekit.builder.quantize.candidates import Candidate, ShowStep, best_candidate
from edgekit.builder.quantize.equalize import equalized
from edgekit.builder.quantize.float_model import float_model
from edgekit.builder.quantize.operators import Selection, select_operators
from edgekit.builder.quantize.qdq import dequantized_weights, quantized
from edgekit.builder.quantize.ranges import ranges_of
from edgekit.builder.quantize.recipes import Recipe
from edgekit.spec.card import ModelCard
from edgekit.spec.fusion import S3, FusionRule, parse_strategy
from edgekit.spec.tensors import Array

_CORRECTION_FRAMES = 16


def float_under(loaded: LoadedModel, strategy: str) -> LoadedModel:
    """``loaded`` folded by one strategy throughout, as quantization needs it.

    Raises: ModelError if it cannot be folded so, or not be brought to a newer opset.
    """
    chosen = parse_strategy(strategy)
    return float_model(loaded, () if chosen == S3 else (FusionRule(strategy=chosen),))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """What quantization is made from."""

    frames: Sequence[Mapping[str, Array]]
    recipe: Recipe
    calibrators: tuple[str, ...]
    card: ModelCard | None


class IntegerModel:
    """Quantizes the operators asked for, the rest stays as it was."""

    def __init__(self, model: LoadedModel, given: Calibration, progress: ShowStep) -> None:
        self.model, self._given = model, given
        self._frames = [dict(frame) for frame in given.frames]
        self.best: Candidate = best_candidate(
            model, select_operators(model), self._frames, given.recipe, given.calibrators,
            spare=True, card=given.card, progress=progress,
        )[0]  # fmt: skip
        self._base = model
        if self.best.equalized:
            self._base, _ = equalized(model, select_operators(model).integer)
        kinds = {node.op_type for node in model.proto.graph.node if node.name in set(self.integer)}
        progress("calibrate", 0, 0)
        self._ranges = ranges_of(self._base.proto, kinds, self._frames, self.best.calibrator)

    @property
    def integer(self) -> tuple[str, ...]:
        """Operators that may become integers."""
        return self.best.selection.integer

    @property
    def selection(self) -> Selection:
        """Those, and the others with reasons."""
        return self.best.selection

    def over(self, names: Collection[str]) -> onnx.ModelProto | None:
        """The whole model with those of the operators ``names`` quantized that can be.

        None if none of them can. Raises: ModelError if the quantizer refuses the model.
        """
        chosen = [name for name in self.integer if name in set(names)]
        if not chosen:
            return None
        if set(chosen) == set(self.integer):
            return self.best.proto
        plain = quantized(self._base.proto, chosen, self._ranges, self._given.recipe)
        if not self.best.bias_corrected:
            return plain
        weights = dequantized_weights(plain)
        better = correct_biases(self._base.proto, weights, self._frames[:_CORRECTION_FRAMES])
        return quantized(better, chosen, self._ranges, self._given.recipe)
