"""The workload as bit masks: what depends on what, and what would cross below any set of operators.

In: a Workload.  Out: a Dag, on which a set of operators, or of tensors, is one integer.
Pure. A set of operators is *closed* (a down-set) if it holds everything its members depend on; the
legal cuts of a model are exactly its closed sets.
"""

from collections.abc import Iterator
from functools import cached_property

from edgekit.errors import ModelError
from edgekit.spec.plan import Cut
from edgekit.spec.workload import Workload


def bits(mask: int) -> Iterator[int]:
    """Positions of the set bits, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def union(masks: list[int], chosen: int) -> int:
    """Union of the masks at the positions ``chosen``."""
    result = 0
    for position in bits(chosen):
        result |= masks[position]
    return result


class Dag:
    """Dependencies of one workload. Operators and tensors are numbered in workload order."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        order = [*workload.inputs, *(name for op in workload.ops for name in op.outputs)]
        self.tensor_names = tuple(dict.fromkeys(order))
        self.tensor_index = {name: index for index, name in enumerate(self.tensor_names)}
        self.producer: dict[int, int] = {}
        self.reads: list[int] = []
        self.makes: list[int] = []
        self.before: list[int] = []
        """Per operator, itself and all it depends on."""
        self.made_before: list[int] = []
        """Per operator, the tensors that those make."""
        for position, op in enumerate(workload.ops):
            self._add(position, op.inputs, op.outputs)
        self.input_mask = self.mask_of(workload.inputs)
        self.output_mask = self.mask_of(workload.outputs)
        self.all_ops = (1 << len(workload.ops)) - 1

    def _add(self, position: int, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        before, made_before = 1 << position, self.mask_of(outputs)
        for name in inputs:
            if name not in self.tensor_index:
                raise ModelError(
                    f"operator {self.workload.ops[position].name!r} reads {name!r}, which nothing "
                    "makes",
                    hint="load the model again",
                )
            maker = self.producer.get(self.tensor_index[name])
            if maker is not None:
                before |= self.before[maker]
                made_before |= self.made_before[maker]
        for name in outputs:
            self.producer[self.tensor_index[name]] = position
        self.before.append(before)
        self.made_before.append(made_before)
        self.reads.append(self.mask_of(inputs))
        self.makes.append(self.mask_of(outputs))

    def mask_of(self, names: tuple[str, ...] | list[str]) -> int:
        """Tensor names as a mask. Raises: KeyError for a name that is no activation."""
        mask = 0
        for name in names:
            mask |= 1 << self.tensor_index[name]
        return mask

    def names_of(self, tensors: int) -> tuple[str, ...]:
        """A tensor mask as names, in workload order."""
        return tuple(self.tensor_names[index] for index in bits(tensors))

    @cached_property
    def followers(self) -> list[int]:
        """Per operator, the operators that read what it makes."""
        return [union(self.readers, made) for made in self.makes]

    @cached_property
    def after(self) -> list[int]:
        """Per operator, the operators that depend on it, itself included."""
        return self.gathered_after([1 << position for position in range(len(self.reads))])

    def gathered_after(self, masks: list[int]) -> list[int]:
        """Per operator, the union of ``masks`` over it and all that depend on it."""
        gathered = list(masks)
        for position in range(len(masks) - 1, -1, -1):
            gathered[position] |= union(gathered, self.followers[position])
        return gathered

    @cached_property
    def readers(self) -> list[int]:
        """Per tensor, the operators that read it."""
        readers = [0] * len(self.tensor_names)
        for position, read in enumerate(self.reads):
            for tensor in bits(read):
                readers[tensor] |= 1 << position
        return readers

    def closure(self, tensors: int) -> int:
        """The smallest closed set of operators that makes ``tensors``."""
        ops = 0
        for index in bits(tensors):
            maker = self.producer.get(index)
            if maker is not None:
                ops |= self.before[maker]
        return ops

    def crossing(self, ops: int) -> int:
        """Tensors that exist after the closed set ``ops`` and are still needed.

        Needed is what the other operators read, and every model output.
        """
        available, needed = self.input_mask, self.output_mask
        for position in bits(ops):
            available |= self.makes[position]
        for position in bits(self.all_ops & ~ops):
            needed |= self.reads[position]
        return available & needed

    def cut(self, ops: int, crossing: int) -> Cut:
        """The Cut below the closed set ``ops``."""
        workload = self.workload
        return Cut(
            tensors=tuple(workload.tensor[name] for name in self.names_of(crossing)),
            work_flop_before=self.work_flop(ops),
            op_count_before=ops.bit_count(),
        )

    def work_flop(self, ops: int) -> int:
        """Work of a set of operators."""
        tables = self._work_by_byte
        data = ops.to_bytes(len(tables), "little")
        return sum(table[byte] for table, byte in zip(tables, data, strict=True))

    @cached_property
    def _work_by_byte(self) -> list[list[int]]:
        """Per eight operators, the work of each of their 256 subsets: eight times faster sums."""
        flops = [op.work_flop for op in self.workload.ops]
        tables = []
        for start in range(0, len(flops), 8):
            table = [0]
            for flop in flops[start : start + 8]:
                table += [flop + other for other in table]
            tables.append(table)
        return tables

    def ops_before(self, cut: Cut) -> int:
        """The closed set of operators above ``cut``."""
        return self.closure(self.mask_of(cut.names))
