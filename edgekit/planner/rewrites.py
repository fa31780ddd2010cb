"""What a runtime makes of a graph before it chooses kernels: fewer operators, on other types.

In:  a Workload, some of its operators, and habits of a runtime.  Out: the operators that remain, in
order, each with the position that it belongs to.  Pure.
Rules are those of ONNX Runtime's graph optimiser: operators that compute the same run once; a
channel shuffle is one view, its halves gathered straight from it; gathered or sliced parts of one
tensor are one Split, from operator set 13 on; QDQ chains run on integers; integer convolutions run
with the channels last.
"""

from collections.abc import Sequence, Set

import msgspec

from edgekit.planner import channels_last, integer_chains
from edgekit.planner.integer_chains import DEQUANTIZE, Step
from edgekit.spec.workload import KernelShape, OpCost, Workload

_SPLIT_OPSET = 13


def rewritten(
    workload: Workload, ops: Sequence[int], fused: Set[str], leaving: Set[str]
) -> list[Step]:
    """The operators ``ops`` of ``workload`` as the runtime rewrites them.

    ``fused`` are its habits, ``leaving`` the tensors that must exist as the model names them.
    """
    steps = [(position, workload.ops[position]) for position in ops]
    steps = _without_twins(steps, leaving)
    steps = integer_chains.joined(steps, fused, workload.tensor, leaving)
    steps = _shuffled(steps, leaving)
    if workload.opset >= _SPLIT_OPSET:
        steps = _split(steps, workload, leaving)
    if channels_last.HABIT in fused:
        steps = channels_last.laid_out(steps, workload.tensor, leaving)
    return steps


def _without_twins(steps: list[Step], leaving: Set[str]) -> list[Step]:
    """Each operator once; the others' results get the name of the first one's."""
    if not any(op.twin for _, op in steps):
        return steps
    renamed: dict[str, str] = {}
    known: dict[str, OpCost] = {}
    found = []
    for position, op in steps:
        if renamed and any(name in renamed for name in op.inputs):
            inputs = tuple(dict.fromkeys(renamed.get(name, name) for name in op.inputs))
            op = msgspec.structs.replace(op, inputs=inputs)
        twin = known.get(op.twin) if op.twin else None
        if twin is not None and twin.inputs == op.inputs and not leaving & set(op.outputs):
            renamed.update(zip(op.outputs, twin.outputs, strict=True))
            continue
        known.setdefault(op.twin or op.name, op)
        found.append((position, op))
    return found


def _readers(steps: Sequence[Step]) -> dict[str, list[OpCost]]:
    found: dict[str, list[OpCost]] = {}
    for _, op in steps:
        for name in op.inputs:
            found.setdefault(name, []).append(op)
    return found


def _key(op: OpCost) -> str:
    return op.kernel.key if op.kernel is not None else ""


def _shuffled(steps: list[Step], leaving: Set[str]) -> list[Step]:
    """Reshape, Transpose of channel groups, Reshape, Gather: one Reshape, and Gathers from it."""
    if not any(_key(op).startswith("Transpose 102") for _, op in steps):
        return steps
    readers = _readers(steps)
    gone: set[str] = set()
    moved: dict[str, tuple[str, int]] = {}
    for _, op in steps:
        if not _key(op).startswith("Transpose 102") or op.kernel is None:
            continue
        after = readers.get(op.outputs[0], [])
        if len(after) != 1 or not _key(after[0]).startswith("View Reshape"):
            continue
        names = {*op.outputs, *after[0].outputs}
        parts = readers.get(after[0].outputs[0], [])
        if names & leaving or not parts or not all(_key(p).startswith("Gather") for p in parts):
            continue
        gone.update((op.name, after[0].name))
        moved[after[0].outputs[0]] = (op.inputs[0], op.kernel.sizes[-1])
    found = []
    for position, op in steps:
        if op.name in gone:
            continue
        if op.inputs and op.inputs[0] in moved and op.kernel is not None:
            source, run = moved[op.inputs[0]]
            kernel = KernelShape(key=op.kernel.key, sizes=(op.kernel.sizes[0], run, 1))
            op = msgspec.structs.replace(op, inputs=(source,), kernel=kernel)
        found.append((position, op))
    return found


def _split(steps: list[Step], workload: Workload, leaving: Set[str]) -> list[Step]:
    """Parts of one tensor that make up the whole of it are made by one Split."""
    apart = {name for _, op in steps if op.op_type == DEQUANTIZE for name in op.outputs}
    whole = {
        name: parts
        for name, parts in _readers(steps).items()
        if len(parts) > 1 and name not in leaving | apart and _is_whole(name, parts, workload)
    }
    if not whole:
        return steps
    found = []
    for position, op in steps:
        name = op.inputs[0] if op.inputs else ""
        parts = whole.get(name)
        if parts is None:
            found.append((position, op))
            continue
        if op.name == parts[0].name:
            found.append((position, _joint(parts, workload)))
        if op.op_type.startswith("Gather"):
            found.append((position, _squeezed(op)))
    return found


def _joint(parts: Sequence[OpCost], workload: Workload) -> OpCost:
    """One Split instead of all of ``parts``."""
    outputs = tuple(op.outputs[0] for op in parts)
    count = sum(workload.tensor[name].element_count for name in outputs)
    run = sum(op.kernel.sizes[1] for op in parts if op.kernel is not None)
    suffix = " u8" if _key(parts[0]).endswith(" u8") else ""
    return msgspec.structs.replace(
        parts[0], op_type="Split", outputs=outputs, twin="",
        kernel=KernelShape(key=f"Split{suffix}", sizes=(count, run, len(parts))),
    )  # fmt: skip


def _squeezed(op: OpCost) -> OpCost:
    """What drops the dimension of length 1 that a Split leaves and a Gather does not."""
    count = op.kernel.sizes[0] if op.kernel is not None else 1
    return msgspec.structs.replace(
        op, name=f"{op.name} squeezed", op_type="Squeeze", inputs=(), outputs=(), work_flop=0,
        traffic_bytes=0, kernel=KernelShape(key="View Squeeze", sizes=(count,)),
    )  # fmt: skip


def _is_whole(name: str, parts: Sequence[OpCost], workload: Workload) -> bool:
    words = {_key(op).split(" ", 1)[0] for op in parts}
    if words not in ({"Slice"}, {"Gather"}) or any("stepped" in _key(op) for op in parts):
        return False
    kernels = [op.kernel for op in parts if op.kernel is not None]
    if len(workload.tensor[name].shape) == 4 and any(
        one.sizes[0] != one.sizes[1] for one in kernels
    ):
        # Images are sliced along rows to take every other one.
        return False
    counts = [workload.tensor[op.outputs[0]].element_count for op in parts]
    return sum(counts) == workload.tensor[name].element_count
