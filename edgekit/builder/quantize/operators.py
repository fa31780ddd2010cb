"""Which operators of a model become integers, which stay in float, and why: by structure alone.

In:  a LoadedModel, folded.  Out: a Selection; or the reason why the model is refused.
The head is every weighted operator behind which no other weighted one comes, decoding is whatever
comes behind the head: errors there are not averaged away by later layers, coordinates and scores
share one tensor and one scale, and together they are a few percent of the work.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx

from edgekit.builder.load import LoadedModel
from edgekit.errors import ConfigError, ModelError

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
_POINTWISE = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Add", "Mul"})
_MOVING = frozenset(
    {"MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Reshape", "Transpose", "Squeeze"}
    | {"Unsqueeze", "Flatten", "Slice", "Split", "Resize", "Gather", "Pad"}
)
INTEGER_KERNELS = WEIGHTED | _POINTWISE | _MOVING
_NO_KERNEL = frozenset({"ConvTranspose", "LSTM", "GRU", "RNN", "Einsum"})
"""Operators with weights that the runtime has no integer kernel for."""
_QUANTIZED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
)

HEAD = "a head: no layer behind it averages its error away"
DECODE = "decoding: it turns the numbers of the head into the answer"
ASKED = "asked for"


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatOperator:
    """One operator that stays in float."""

    name: str
    op_type: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Names of the operators that become integers, and the others with reasons; in graph order."""

    integer: tuple[str, ...]
    float: tuple[FloatOperator, ...]


def refuse_quantized(proto: onnx.ModelProto, name: str) -> None:
    """Raises: ModelError if the graph holds an operator of a quantized model."""
    kinds = Counter(
        node.op_type
        for node in proto.graph.node
        if node.op_type in _QUANTIZED or node.op_type.startswith("QLinear")
    )
    if kinds:
        what = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3))
        raise ModelError(
            f"{name} is quantized already ({what})",
            hint="give the float model that it was made from",
        )


def select_operators(loaded: LoadedModel, keep_float: Collection[str] = ("auto",)) -> Selection:
    """What of ``loaded`` becomes integers.

    ``keep_float``: names of operators, "auto" for head and decoding, "none" for neither.
    Raises: ConfigError if a name is not in the model; ModelError if nothing is left to quantize, or
    if an operator with weights has no integer kernel and is not named.
    """
    graph = loaded.proto.graph
    nodes = [graph.node[index] for index in loaded.parts.activation_nodes]
    names = {node.name for node in nodes}
    asked = set(keep_float) - {"auto", "none"}
    if asked - names:
        raise ConfigError(
            f"--keep-float names {sorted(asked - names)[0]!r}, which {loaded.name} does not have",
            hint="take names from `edgekit inspect`, or use auto",
        )
    _refuse_without_kernel(nodes, asked, loaded.name)
    reasons = dict.fromkeys(asked, ASKED)
    if "auto" in keep_float:
        reasons = _behind_all_layers(nodes, loaded) | reasons
    integer, left = [], []
    for node in nodes:
        reason = reasons.get(node.name) or _unfit(node, loaded)
        if reason:
            left.append(FloatOperator(name=node.name, op_type=node.op_type, reason=reason))
        else:
            integer.append(node.name)
    if not any(node.op_type in WEIGHTED and node.name in set(integer) for node in nodes):
        raise ModelError(
            f"{loaded.name} has no convolution or matrix product that could be quantized",
            hint="keep less in float (--keep-float none), or leave this model in fp32",
        )
    return Selection(integer=tuple(integer), float=tuple(left))


def is_weighted(node: onnx.NodeProto, constants: Collection[str]) -> bool:
    """True for a layer: an operator that multiplies its input with trained weights."""
    kinds = WEIGHTED | _NO_KERNEL
    return node.op_type in kinds and any(name in constants for name in node.input[1:])


def _behind_all_layers(nodes: Iterable[onnx.NodeProto], loaded: LoadedModel) -> dict[str, str]:
    """Head and decoding: the operators from which no layer can be reached."""
    reasons: dict[str, str] = {}
    before_layer: set[str] = set()  # tensors that some layer depends on
    for node in reversed(list(nodes)):
        weighted = is_weighted(node, loaded.parts.constant_names)
        leads_on = any(name in before_layer for name in node.output)
        if weighted or leads_on:
            before_layer.update(name for name in node.input if name)
        if not leads_on:
            reasons[node.name] = HEAD if weighted else DECODE
    return reasons


def _unfit(node: onnx.NodeProto, loaded: LoadedModel) -> str:
    """Why an operator cannot become integers; empty if it can."""
    if node.op_type not in INTEGER_KERNELS or node.domain not in ("", "ai.onnx"):
        return "the runtime has no integer kernel for it"
    made = loaded.activations.get(node.output[0])
    if made is None or made.dtype != "float32":
        return "it does not make float32"
    if node.op_type == "Conv" and not is_weighted(node, loaded.parts.constant_names):
        return "its weights are computed, so they have no fixed scale"
    return ""


def _refuse_without_kernel(
    nodes: Iterable[onnx.NodeProto], asked: Collection[str], name: str
) -> None:
    found = [node for node in nodes if node.op_type in _NO_KERNEL and node.name not in asked]
    if found:
        names = ",".join(["auto", *asked, *(node.name for node in found)])
        raise ModelError(
            f"{name} uses {found[0].op_type} ({found[0].name}), for which there is no int8 kernel",
            hint=f"leave it in float: --keep-float {names}",
        )
