"""Cost a loaded model: its DAG of operators with work and traffic.

In: a LoadedModel.  Out: a Workload, all that the planner needs to know.  Pure.
"""

from collections.abc import Mapping

from edgekit.builder.kernel_shapes import kernel_of
from edgekit.builder.load import LoadedModel
from edgekit.builder.op_costs import NodeShapes, work_of
from edgekit.builder.twins import twins_of
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import OpCost, Workload

_INTEGER_WEIGHTS = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm"}


def workload_of(loaded: LoadedModel) -> Workload:
    """Operators in topological order; constant operators are part of the weights they make.

    Raises: ModelError naming an operator whose work is not known.
    """
    nodes = loaded.proto.graph.node
    read = {name for i in loaded.parts.activation_nodes for name in nodes[i].input}
    used = read | set(loaded.parts.output_names)
    counted: set[str] = set()
    twins, stored = twins_of(loaded), _stored(loaded)
    ops = tuple(
        _cost(loaded, index, used, counted, stored, twins.get(nodes[index].name, ""))
        for index in loaded.parts.activation_nodes
    )
    named = {name for op in ops for name in (*op.inputs, *op.outputs)}
    inputs = tuple(spec.name for spec in loaded.inputs)
    return Workload(
        model=loaded.name,
        model_sha256=loaded.source_sha256,
        ops=ops,
        tensors=tuple(
            spec for name, spec in loaded.activations.items() if name in named or name in inputs
        ),
        inputs=inputs,
        outputs=loaded.parts.output_names,
        opset=next((one.version for one in loaded.proto.opset_import if not one.domain), 17),
    )


def _stored(loaded: LoadedModel) -> dict[str, TensorSpec]:
    """Constants that a DequantizeLinear makes, with the integers that are in the file for them."""
    nodes = loaded.proto.graph.node
    return {
        nodes[index].output[0]: loaded.constants[nodes[index].input[0]]
        for index in loaded.parts.constant_nodes
        if nodes[index].op_type == "DequantizeLinear" and nodes[index].input[0] in loaded.constants
    }


def _cost(
    loaded: LoadedModel,
    index: int,
    used: set[str],
    counted: set[str],
    stored: Mapping[str, TensorSpec],
    twin: str,
) -> OpCost:
    """Cost of one node. ``counted`` holds the parameters that an earlier node already counted."""
    node = loaded.proto.graph.node[index]
    inputs = tuple(dict.fromkeys(name for name in node.input if name in loaded.activations))
    outputs = tuple(name for name in node.output if name in used)
    constants = tuple(dict.fromkeys(name for name in node.input if name in loaded.constants))
    weight_bytes = sum(stored.get(name, loaded.constants[name]).nbytes for name in constants)
    activation_bytes = sum(loaded.activations[name].nbytes for name in (*inputs, *outputs))
    shapes = NodeShapes(
        node=node,
        inputs=tuple(_spec(loaded, name) for name in node.input),
        outputs=tuple(loaded.activations[name] for name in node.output if name),
    )
    fresh = [name for name in constants if name not in counted]
    counted.update(fresh)
    return OpCost(
        name=node.name,
        op_type=node.op_type,
        inputs=inputs,
        outputs=outputs,
        work_flop=work_of(shapes),
        traffic_bytes=weight_bytes + activation_bytes,
        weight_bytes=weight_bytes,
        parameter_count=sum(
            loaded.constants[name].element_count
            for name in fresh
            if _is_trained(loaded.constants[name], node.op_type)
        ),
        kernel=kernel_of(shapes, set(constants)),
        dequantized=tuple(stored[name] for name in constants if name in stored),
        twin=twin,
    )


def _spec(loaded: LoadedModel, name: str) -> TensorSpec | None:
    return (loaded.activations.get(name) or loaded.constants.get(name)) if name else None


def _is_trained(spec: TensorSpec, op_type: str) -> bool:
    """Shapes, axes and indices are integers too, but nobody trained them."""
    return "float" in spec.dtype or op_type in _INTEGER_WEIGHTS
