"""Which operators a runtime launches as one unit, as far as the graph alone tells.

In: a Dag.  Out: the tensors that live inside such a unit.  Pure.
Runtimes merge a convolution or matrix product with the normalisation, scaling, bias and activation
behind it. A cut inside moves no fewer bytes, costs an extra pass over memory, and rounds weights
differently than the merged kernel does (up to 7e-7 of the range, measured where a
BatchNormalization stands apart; every other cut is bit-equal). So automatic cuts stay outside.
"""

from edgekit.planner.dag import Dag, bits

_HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_FOLLOWERS = {
    "BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid",
    "HardSwish", "Tanh", "Elu", "Gelu", "Mish",
}  # fmt: skip
_SCALING = {"Mul", "Add", "Sub", "Div"}
"""These merge where the other operand is a constant, so with one activation as input."""
_GATES = {"Sigmoid", "HardSigmoid"}


def inner_names(dag: Dag) -> frozenset[str]:
    """Tensors that a merged kernel never writes to memory; no good cut holds one of them."""
    inside = in_kernel = 0
    for position, op in enumerate(dag.workload.ops):
        if op.op_type in _HEAVY:
            in_kernel |= 1 << position
            continue
        merged = _follows(dag, position, in_kernel) | _gated(dag, position, in_kernel)
        if merged:
            inside |= merged
            in_kernel |= 1 << position
    return frozenset(dag.tensor_names[index] for index in bits(inside))


def _follows(dag: Dag, position: int, in_kernel: int) -> int:
    """The input of a follower, as a mask, if a kernel makes it for this operator alone."""
    read = dag.reads[position]
    is_follower = dag.workload.ops[position].op_type in _FOLLOWERS | _SCALING
    if not is_follower or read.bit_count() != 1:
        return 0
    tensor = read.bit_length() - 1
    is_private = dag.readers[tensor] == 1 << position and not dag.output_mask & read
    return read if is_private and _maker(dag, tensor) & in_kernel else 0


def _gated(dag: Dag, position: int, in_kernel: int) -> int:
    """Both inputs of ``x * sigmoid(x)``, as a mask, if a kernel makes x for these two alone."""
    reads = list(bits(dag.reads[position]))
    if dag.workload.ops[position].op_type != "Mul" or len(reads) != 2:
        return 0
    for value, gate in (reads, reads[::-1]):
        maker = dag.producer.get(gate)
        if maker is None or dag.workload.ops[maker].op_type not in _GATES:
            continue
        is_gate = dag.reads[maker] == 1 << value and dag.readers[gate] == 1 << position
        is_private = dag.readers[value] == 1 << position | 1 << maker
        is_hidden = not dag.output_mask & dag.reads[position]
        if is_gate and is_private and is_hidden and _maker(dag, value) & in_kernel:
            return dag.reads[position]
    return 0


def _maker(dag: Dag, tensor: int) -> int:
    """The operator that makes ``tensor``, as a mask; 0 for a model input."""
    maker = dag.producer.get(tensor)
    return 0 if maker is None else 1 << maker
