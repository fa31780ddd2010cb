"""Prove that a folded graph is the graph it was made from.

In:  both, and the rewrites.  Out: relative errors; ModelError that names the block.
Each block is proved alone, in float64 (the reference evaluator of ONNX, which knows nothing of our
algebra) with its rounded weights, then the whole in ONNX Runtime as it will run. In float32 the
unfolded graph is the less exact of the two, for its branches round one by one: where they differ by
more than the limit, the unfolded one in float64 decides.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from edgekit.builder.compare import MAX_RELATIVE_ERROR, difference, differences
from edgekit.builder.fold.onnx_graph import GraphView
from edgekit.builder.fold.onnx_write import Rewrite
from edgekit.builder.load import LoadedModel
from edgekit.builder.probe import probe_tensors, run_proto, seeded_inputs
from edgekit.errors import ModelError
from edgekit.spec.tensors import Array

logger = logging.getLogger(__name__)

_HINT = "look for BatchNorms with a variance near zero, and report this model"


class BatchNormalization(OpRun):  # type: ignore[misc]
    """In evaluation mode; below opset 14 that of the reference evaluator is in training mode."""

    op_domain = ""

    def _run(
        self, x: Array, scale: Array, bias: Array, mean: Array, var: Array, epsilon: float = 1e-5,
        **_: object,
    ) -> tuple[Array]:  # fmt: skip
        shape = (1, -1) + (1,) * (x.ndim - 2)
        norm = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + epsilon)
        return (norm * scale.reshape(shape) + bias.reshape(shape),)


_OPS = [BatchNormalization]


def prove_rewrite(view: GraphView, rewrite: Rewrite, sizes: Mapping[str, Sequence[int]]) -> float:
    """Relative error of one rewrite on random numbers.

    Shapes: ``sizes`` are those of all activations that it reads.
    Returns: max |new - old| / max |old|, both in float64, ``new`` with rounded weights.
    Raises: ModelError naming the block if it is above 1e-5.
    """
    generator = np.random.default_rng(0)
    given = {name: generator.standard_normal(shape) for name, shape in sizes.items()}
    old = [view.node(index) for index in sorted(rewrite.removed)]
    constants = {
        name: view.constant(name) for node in old for name in node.input if view.is_constant(name)
    }
    new = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in rewrite.weights}
    want = _evaluated(view, old, constants, given, rewrite.output)
    got = _evaluated(view, rewrite.nodes, new, given, rewrite.output)
    error = difference(want, got).relative_error
    if not error <= MAX_RELATIVE_ERROR:
        raise ModelError(
            f"block {rewrite.name}: folding moved its output by {error:.1e} of its range, limit "
            f"{MAX_RELATIVE_ERROR:.0e}",
            hint=_HINT,
        )
    return error


def prove_whole(before: LoadedModel, after: LoadedModel, rewrites: Sequence[Rewrite]) -> float:
    """The largest relative error of any output on the inputs of seed 0.

    Raises: ModelError naming the first block that moved if an output moved by more than 1e-5.
    """
    given = seeded_inputs(before.inputs, 0)
    want = run_proto(before.proto, given, optimization="extended")
    got = run_proto(after.proto, given, optimization="extended")
    worst = _worst(want, got)
    if worst <= MAX_RELATIVE_ERROR:
        return worst
    exact = _exact_outputs(before.proto, given)
    if exact is not None:
        logger.info("outputs differ by %.1e in float32; comparing with float64", worst)
        worst = _worst(exact, {name: value.astype(np.float64) for name, value in got.items()})
    if worst <= MAX_RELATIVE_ERROR:
        return worst
    raise ModelError(
        f"folding moved the outputs by {worst:.1e} of their range, limit "
        f"{MAX_RELATIVE_ERROR:.0e}; {_guilty(before, after, rewrites, given)}",
        hint=_HINT,
    )


def _worst(want: Mapping[str, Array], got: Mapping[str, Array]) -> float:
    found = [one.relative_error for one in differences(want, got).values()]
    return max(found, default=0.0)


def _guilty(
    before: LoadedModel,
    after: LoadedModel,
    rewrites: Sequence[Rewrite],
    given: dict[str, Array],
) -> str:
    names = [rewrite.output for rewrite in rewrites]
    want = probe_tensors(before.proto, given, names)
    got = probe_tensors(after.proto, given, names)
    for name, found in differences(want, got).items():
        if not found.relative_error <= MAX_RELATIVE_ERROR:
            block = next(rewrite.name for rewrite in rewrites if rewrite.output == name)
            return f"the first that moved is block {block} ({found.relative_error:.1e})"
    return "no single block moved as much, their errors add up"


def _evaluated(
    view: GraphView,
    nodes: Iterable[onnx.NodeProto],
    constants: Mapping[str, Array],
    given: Mapping[str, Array],
    output: str,
) -> Array:
    """The tensor ``output`` in float64."""
    graph = helper.make_graph(
        list(nodes),
        "part",
        [_declared(name, value.shape) for name, value in given.items()],
        [_declared(output, None)],
        [onnx.numpy_helper.from_array(_wide(value), name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=view.loaded.proto.opset_import, ir_version=8)
    (value,) = ReferenceEvaluator(proto, new_ops=_OPS).run([output], dict(given))
    return np.asarray(value, np.float64)


def _declared(name: str, shape: Sequence[int] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape)


def _wide(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype == np.float32 else value


def _exact_outputs(proto: onnx.ModelProto, given: Mapping[str, Array]) -> dict[str, Array] | None:
    """Outputs of the whole graph in float64; None if the reference evaluator cannot run it."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    for tensor in wide.graph.initializer:
        _widen(tensor)
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in wide.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    inputs = {name: _wide(value) for name, value in given.items()}
    try:
        evaluator = ReferenceEvaluator(wide, new_ops=_OPS)
        values = evaluator.run(None, inputs)
    except Exception as error:  # noqa: BLE001 - the reference raises whatever its numpy code meets
        logger.info("the reference evaluator cannot run this graph: %s", error)
        return None
    return dict(zip(evaluator.output_names, (np.asarray(v) for v in values), strict=True))


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        value = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
