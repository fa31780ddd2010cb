"""Cut a loaded model into shards, one ONNX graph per device.

In: a LoadedModel, its Workload and a chain of Cuts.  Out: ModelProtos with deterministic bytes.
Each shard holds its operators, only the weights they use (constant operators are copied into every
shard that needs them), and declares as inputs and outputs only what it reads and makes: a tensor
that merely passes through a device is carried by whoever chains the shards (``bundle.chain``).
"""

from collections.abc import Sequence

import onnx
import onnx.numpy_helper

from edgekit.builder.load import LoadedModel
from edgekit.builder.normalize import value_info
from edgekit.planner.cuts import partition
from edgekit.spec.plan import Cut
from edgekit.spec.workload import Workload


def split_model(
    loaded: LoadedModel, workload: Workload, cuts: Sequence[Cut]
) -> tuple[onnx.ModelProto, ...]:
    """The shards of ``loaded`` between ``cuts``, first device first.

    Raises: PlanError if the cuts are not a chain of legal cuts, each below the one before.
    """
    leaving = [*(cut.names for cut in cuts), loaded.parts.output_names]
    return tuple(
        _shard(loaded, ops, set(leaving[index]), index)
        for index, ops in enumerate(partition(workload, cuts))
    )


def shard_weight_bytes(loaded: LoadedModel, ops: Sequence[int]) -> int:
    """Bytes of the weights that the operators ``ops`` of the workload read, each counted once."""
    nodes = loaded.proto.graph.node
    read = {name for op in ops for name in nodes[loaded.parts.activation_nodes[op]].input}
    return sum(spec.nbytes for name, spec in loaded.constants.items() if name in read)


def stored_weight_bytes(shard: onnx.ModelProto) -> int:
    """Bytes of the weights in the file of ``shard``: integers are counted as integers."""
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in shard.graph.initializer)


def _shard(
    loaded: LoadedModel, ops: Sequence[int], leaving: set[str], index: int
) -> onnx.ModelProto:
    graph = loaded.proto.graph
    own = {loaded.parts.activation_nodes[op] for op in ops}
    needed = {name for i in own for name in graph.node[i].input if name}
    for i in reversed(loaded.parts.constant_nodes):
        if needed & set(graph.node[i].output):
            own.add(i)
            needed.update(name for name in graph.node[i].input if name)
    nodes = [graph.node[i] for i in sorted(own)]
    made = {name for node in nodes for name in node.output}
    entering = [
        spec
        for name, spec in loaded.activations.items()
        if name in needed and name not in made and name not in loaded.constants
    ]
    outgoing = [
        spec for name, spec in loaded.activations.items() if name in made and name in leaving
    ]
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            f"shard-{index}",
            [value_info(spec) for spec in entering],
            [value_info(spec) for spec in outgoing],
            [tensor for tensor in graph.initializer if tensor.name in needed],
        ),
        opset_imports=_domains(loaded.proto, nodes),
        ir_version=loaded.proto.ir_version,
        producer_name=loaded.proto.producer_name,
    )


def _domains(
    proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]
) -> list[onnx.OperatorSetIdProto]:
    used = {node.domain for node in nodes} | {""}
    return [entry for entry in proto.opset_import if entry.domain in used]
