"""The model in integers, as the planner prices it: a QDQ graph and its workload for each strategy.

In:  a LoadedModel, what stays in float, a recipe.  Out: Variants with their graphs.
The ranges come from made-up input: they change what the graph computes, not what is launched or how
long that takes. Accuracy is measured elsewhere (``builder.accuracy``), and a build calibrates anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from edgekit.builder.accuracy.integers import float_under
from edgekit.builder.load import LoadedModel
from edgekit.builder.probe import seeded_inputs
from edgekit.builder.quantize.float_model import reloaded
from edgekit.builder.quantize.qdq import quantized
from edgekit.builder.quantize.ranges import ranges_of
from edgekit.builder.quantize.recipes import recipe_for
from edgekit.builder.workload import workload_of
from edgekit.planner.scenario import Variant
from edgekit.spec.accuracy import FloatOperators

_DEQUANTIZE = "DequantizeLinear"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegerVariant:
    """A variant in int8, and the graph that it was taken from."""

    variant: Variant
    model: LoadedModel


def integer_variants(
    loaded: LoadedModel, in_float: Sequence[FloatOperators], target: str
) -> tuple[IntegerVariant, ...]:
    """One for each strategy that was quantized when accuracy was measured.

    Raises: ModelError if the model cannot be quantized so any more.
    """
    return tuple(_integer_variant(loaded, one, target) for one in in_float)


def _integer_variant(loaded: LoadedModel, known: FloatOperators, target: str) -> IntegerVariant:
    model = float_under(loaded, known.strategy)
    nodes = [model.proto.graph.node[index] for index in model.parts.activation_nodes]
    integer = [node for node in nodes if node.name not in set(known.operators)]
    frames = [seeded_inputs(model.inputs, 0)]
    ranges = ranges_of(model.proto, {node.op_type for node in integer}, frames, "minmax")
    proto = quantized(model.proto, [one.name for one in integer], ranges, recipe_for(target))
    made = reloaded(dedicated(proto), model)
    names = frozenset(node.name for node in integer)
    variant = Variant(known.strategy, workload_of(made), "int8", names)
    return IntegerVariant(variant=variant, model=made)


def dedicated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """``proto`` with a DequantizeLinear of its own for every reader of an activation.

    The numbers are the same, and the runtime does so anyway. Between two readers the graph can then
    be cut at the integers: with a common one, its floats would have to cross as well.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    constants = {tensor.name for tensor in graph.initializer}
    shared = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == _DEQUANTIZE and node.input[0] not in constants
    }
    nodes, seen = [], dict.fromkeys(shared, 0)
    for node in graph.node:
        for at, name in enumerate(node.input):
            if name not in shared:
                continue
            seen[name] += 1
            if seen[name] > 1:
                own = onnx.NodeProto()
                own.CopyFrom(shared[name])
                own.output[0] = f"{name}_{seen[name]}"
                own.name = f"{shared[name].name}_{seen[name]}"
                nodes.append(own)
                node.input[at] = own.output[0]
        nodes.append(node)
    kept = [onnx.NodeProto() for _ in nodes]
    for copy, node in zip(kept, nodes, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(kept)
    return result
