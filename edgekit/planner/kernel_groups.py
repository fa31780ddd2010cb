"""Which operators a runtime launches as one unit, as far as the graph alone tells.

In: a Dag.  Out: the tensors that live inside such a unit.  Pure.
ONNX Runtime merges a convolution or matrix product with the normalisation, scaling, bias and
activation behind it. A cut inside costs an extra pass over memory, moves no fewer bytes, and rounds
the weights differently than the merged kernel does; so automatic cuts stay outside.
"""

from edgekit.planner.dag import Dag, bits

_HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_FOLLOWERS = {"BatchNormalization", "Relu", "LeakyRelu", "Clip", "HardSigmoid", "Tanh"}
_SCALING = {"Mul", "Add", "Sub", "Div"}
"""These merge only where the other operand is a constant, so with one activation as input."""


def tensors_inside_kernels(dag: Dag) -> int:
    """Tensors, as a mask, that a merged kernel never writes to memory."""
    inside = 0
    in_kernel = 0
    for position, op in enumerate(dag.workload.ops):
        if op.op_type in _HEAVY:
            in_kernel |= 1 << position
            continue
        if len(op.inputs) != 1 or op.op_type not in _FOLLOWERS | _SCALING:
            continue
        tensor = dag.tensor_index[op.inputs[0]]
        maker = dag.producer.get(tensor)
        if maker is None or not in_kernel & (1 << maker):
            continue
        read_once = dag.readers[tensor].bit_count() == 1
        if read_once and not dag.output_mask & (1 << tensor):
            inside |= 1 << tensor
            in_kernel |= 1 << position
    return inside


def inner_names(dag: Dag) -> frozenset[str]:
    """Names of ``tensors_inside_kernels``."""
    return frozenset(dag.tensor_names[index] for index in bits(tensors_inside_kernels(dag)))
