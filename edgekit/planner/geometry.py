"""Shards as matrices: what lies between any two candidate cuts of one variant of a model.

In:  a Workload and the tensor names of its candidate cuts.  Out: work, weights and bytes of every
shard, by (node, node). Node 0 is the model's start, node i + 1 is cut i, the last its end.
Pure.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from edgekit.planner.dag import Dag, bits
from edgekit.spec.tensors import Array
from edgekit.spec.workload import Workload


class Geometry:
    """Sums over operators between nodes. Matrices have shape (nodes, nodes): from, to."""

    def __init__(self, workload: Workload, cuts: Sequence[tuple[str, ...]]) -> None:
        """A cut without names is one that this variant does not have."""
        self.workload, self.cuts = workload, tuple(cuts)
        self.dag = Dag(workload)
        self.sets = (
            0,
            *(self.dag.closure(self.dag.mask_of(names)) for names in cuts),
            self.dag.all_ops,
        )
        """Operators above each node, as bit masks."""
        self.has_node = np.array([True, *map(bool, cuts), True])
        self.above = np.array([self._row(ops) for ops in self.sets])
        """Shape (nodes, operators): 1.0 where the operator lies above."""
        counts = self.above.sum(axis=1)
        self.is_shard = (self.above @ self.above.T == counts[:, None]) & (
            counts[:, None] < counts[None, :]
        )
        self.is_shard &= self.has_node[:, None] & self.has_node[None, :]
        """Whether the second node lies wholly below the first."""

    def _row(self, ops: int) -> Array:
        row = np.zeros(len(self.workload.ops))
        row[list(bits(ops))] = 1.0
        return row

    def ops_between(self, begin: int, end: int) -> tuple[int, ...]:
        """Operators of the shard from node ``begin`` to node ``end``."""
        return tuple(bits(self.sets[end] & ~self.sets[begin]))

    def summed(self, per_op: Sequence[float]) -> Array:
        """Per node, the sum over the operators above it."""
        total: Array = self.above @ np.asarray(per_op, dtype=float)
        return total

    def widest(self, values: Array, owner: Array) -> Array:
        """Largest of ``values``, each owned by an operator, inside each shard; 0 where none is."""
        inside = self.above[:, owner]
        result = np.zeros_like(self.is_shard, dtype=float)
        for begin in range(len(self.sets)):
            alive = inside * (values * (1.0 - inside[begin]))
            result[begin] = alive.max(axis=1, initial=0.0)
        return result

    @cached_property
    def work_flop(self) -> Array:
        """Per node, the work above it."""
        return self.summed([op.work_flop for op in self.workload.ops])

    @cached_property
    def weight_bytes(self) -> Array:
        """Per node, the weights above it."""
        return self.summed([op.weight_bytes for op in self.workload.ops])

    @cached_property
    def traffic_bytes(self) -> Array:
        """Per node, the traffic of the operators above it."""
        return self.summed([op.traffic_bytes for op in self.workload.ops])

    @cached_property
    def parameter_count(self) -> Array:
        """Per node, the trained numbers above it."""
        return self.summed([op.parameter_count for op in self.workload.ops])

    @cached_property
    def handed_bytes(self) -> Array:
        """Bytes that enter each shard and are read there, and those that it makes and hands on."""
        dag, tensors = self.dag, len(self.dag.tensor_names)
        sizes = np.array([self.workload.tensor[name].nbytes for name in dag.tensor_names], float)
        is_output = np.array([dag.output_mask >> tensor & 1 for tensor in range(tensors)], float)
        reads, makes = np.zeros((2, len(dag.reads), tensors))
        for position, (read, made) in enumerate(zip(dag.reads, dag.makes, strict=True)):
            reads[position, list(bits(read))] = 1.0
            makes[position, list(bits(made))] = 1.0
        read_above, made_above = self.above @ reads, self.above @ makes
        needed_below = (read_above[-1] - read_above > 0) * (1.0 - is_output)
        crosses = made_above * needed_below
        outputs = made_above @ (sizes * is_output)
        leaving = (crosses @ sizes)[None, :] - (crosses * sizes) @ crosses.T
        available = made_above + np.array([dag.input_mask >> t & 1 for t in range(tensors)], float)
        entering = np.zeros_like(leaving)
        for begin in range(len(self.sets)):
            here = np.flatnonzero(available[begin] * (read_above[-1] - read_above[begin]))
            is_read = read_above[:, here] > read_above[begin, here]
            entering[begin] = is_read @ sizes[here]
        result: Array = entering + leaving + outputs[None, :] - outputs[:, None]
        return result
