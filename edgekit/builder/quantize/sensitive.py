"""Layers that one scale per tensor ruins: found by what they lose on the calibration frames.

In:  the float model, what would become integers, ranges, a recipe.  Out: a Selection in which the
worst of these layers stay in float.
A depthwise convolution reads each channel alone: where one channel spans a hundred times the range
of the others, these have a handful of levels left, and no scale per tensor helps. Seen from
outside: the signal-to-noise ratio falls within one layer by far more than its own rounding costs.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from edgekit.builder.load import LoadedModel
from edgekit.builder.quantize.loss import TensorLoss, tensor_losses
from edgekit.builder.quantize.operators import FloatOperator, Selection, is_weighted
from edgekit.builder.quantize.qdq import quantized
from edgekit.builder.quantize.recipes import Recipe
from edgekit.spec.tensors import Array

log = logging.getLogger(__name__)

FALLS_DB = (8.0, 5.0, 3.5)
"""Within one layer, what is too much: first only for ruined layers, then for less. Healthy layers
lose 0 to 5 dB."""
_MIN_INPUT_DB = 12.0
"""Below it the signal is gone already, and what falls further says nothing."""
MOST_ROUNDS = 12
_CLEAN_DB = 32.0
"""A picture of integers 0 to 255 loses nothing at all; it counts as well rounded."""
_LOSS_FRAMES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fall:
    layer: onnx.NodeProto
    fall_db: float
    spared: frozenset[str]
    """What would have to leave the integers; never empty."""


def spare_sensitive(
    model: LoadedModel,
    selection: Selection,
    ranges: Any,
    recipe: Recipe,
    frames: Sequence[dict[str, Array]],
    *,
    most_fall_db: float = FALLS_DB[0],
    watch: Callable[[int], None] = lambda done: None,
) -> Selection:
    """``selection`` without the layers in which the signal-to-noise ratio falls by
    ``most_fall_db`` or more.

    One layer at a time, since the next ones are judged by what reaches them; each together with
    what makes its input, because the tensor between them is what must not be rounded.
    """
    nodes = {node.name: node for node in model.proto.graph.node}
    for done in range(MOST_ROUNDS):
        watch(done)
        graph = quantized(model.proto, selection.integer, ranges, recipe)
        losses = tensor_losses(model.proto, graph, frames[:_LOSS_FRAMES])
        worst = _worst_fall(model, selection.integer, losses)
        if worst is None or worst.fall_db < most_fall_db:
            break
        spared = worst.spared
        rest = tuple(name for name in selection.integer if name not in spared)
        if not any(is_weighted(nodes[name], model.parts.constant_names) for name in rest):
            break
        reason = f"int8 loses {worst.fall_db:.0f} dB in {worst.layer.name}, more than it can afford"
        log.info("%s: %s", model.name, reason)
        left = [
            FloatOperator(name=name, op_type=nodes[name].op_type, reason=reason)
            for name in selection.integer
            if name in spared
        ]
        selection = Selection(integer=rest, float=(*selection.float, *left))
    return selection


def _worst_fall(
    model: LoadedModel, integer: Collection[str], losses: Sequence[TensorLoss]
) -> _Fall | None:
    """The layer whose output is rounded, and so much worse than what was last rounded before."""
    by_tensor = {loss.tensor: loss.sqnr_db for loss in losses}
    makers, readers = _makers(model), _readers(model.proto)
    falls = []
    for node in model.proto.graph.node:
        if not is_weighted(node, model.parts.constant_names):
            continue
        # A Relu merges with its layer, whose own output is then not rounded.
        behind = [node.output[0], *(one.output[0] for one in readers.get(node.output[0], ()))]
        result = next((by_tensor[name] for name in behind if name in by_tensor), None)
        if result is None:
            continue
        source = min(
            (by_tensor[name] for name in _last_rounded(node, makers, by_tensor)), default=0
        )
        spared = _with_makers(model, node, integer) & set(integer)
        if source >= _MIN_INPUT_DB and spared:
            fall_db = min(source, _CLEAN_DB) - result
            falls.append(_Fall(layer=node, fall_db=fall_db, spared=frozenset(spared)))
    return max(falls, key=lambda fall: fall.fall_db, default=None)


def _last_rounded(
    layer: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], rounded: Collection[str]
) -> set[str]:
    """The tensors before ``layer`` that are rounded, nearest on every path."""
    found, waiting, seen = set(), [layer.input[0]], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in rounded:
            found.add(name)
        elif name in makers:
            waiting.extend(makers[name].input)
    return found


def _with_makers(model: LoadedModel, layer: onnx.NodeProto, integer: Collection[str]) -> set[str]:
    """``layer`` and the operators that make its input, back to the last integer layers before it.

    Operators that are in float already are passed through.
    """
    makers = _makers(model)
    names, waiting, seen = {layer.name}, [layer.input[0]], set()
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is None or maker.name in seen:
            continue
        seen.add(maker.name)
        names.add(maker.name)
        if not (is_weighted(maker, model.parts.constant_names) and maker.name in integer):
            waiting.extend(name for name in maker.input if name in model.activations)
    return names


def _makers(model: LoadedModel) -> dict[str, onnx.NodeProto]:
    nodes = (model.proto.graph.node[index] for index in model.parts.activation_nodes)
    return {name: node for node in nodes for name in node.output}


def _readers(proto: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers
