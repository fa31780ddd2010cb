"""One block as operators, under one strategy.

In:  a GraphView, a Block and its strategy.  Out: a Rewrite, not proved yet: the main convolution
with all branches that fold, the live branches with their BatchNorms folded, and the sum of these.
"""

from collections.abc import Mapping, Sequence

from edgekit.builder.fold.algebra import Kernel
from edgekit.builder.fold.merge import split_concat, sum_branches
from edgekit.builder.fold.onnx_blocks import CONCAT, Block, Branch
from edgekit.builder.fold.onnx_graph import GraphView
from edgekit.builder.fold.onnx_linear import Pool
from edgekit.builder.fold.onnx_write import Draft, Names, Rewrite
from edgekit.errors import ModelError
from edgekit.spec.fusion import POINTWISE, FusionStrategy


def rewrite_block(
    view: GraphView,
    names: Names,
    block: Block,
    strategy: FusionStrategy,
    index_of: Mapping[str, int],
) -> Rewrite:
    """``block`` under ``strategy``; ``index_of`` knows every operator by name.

    Raises: ModelError naming the block if its numbers leave the range of floats.
    """
    draft = Draft(view=view, names=names, dtype=view.dtype(block.output))
    try:
        if block.kind == CONCAT:
            _write_concat(draft, block, strategy)
        else:
            _write_sum(draft, block, strategy)
    except ModelError as error:
        raise ModelError(f"block {block.name}: {error.what}", hint=error.hint) from None
    return draft.finished(block.name, block.output, (index_of[op] for op in block.ops))


def _write_sum(draft: Draft, block: Block, strategy: FusionStrategy) -> None:
    live = live_branches(block, strategy)
    folded = sum_branches([branch.kernel for branch in block.branches if branch not in live])
    alone = not live and not block.added
    output = block.output if alone else None
    main = draft.conv(folded, block.main.source, f"{block.name}.main", output)
    if not alone:
        terms = [main, *(_write_live(draft, block, branch) for branch in live), *block.added]
        draft.total(terms, f"{block.name}.sum", block.output)


def live_branches(block: Block, strategy: FusionStrategy) -> list[Branch]:
    """The branches of ``block`` that stay live, in its order."""
    return [branch for branch in block.optional if strategy.keeps(branch.kind)]


def _write_live(draft: Draft, block: Block, branch: Branch) -> str:
    tensor, wish = branch.source, f"{block.name}.{branch.kind}"
    for layer in branch.layers:
        if isinstance(layer, Pool):
            tensor = draft.pool(layer, tensor, wish)
        else:
            tensor = draft.conv(layer, tensor, wish)
    return tensor


def _write_concat(draft: Draft, block: Block, strategy: FusionStrategy) -> None:
    *parts, pointwise = block.branches
    if strategy.keeps(POINTWISE):
        ends = [_write_live(draft, block, part) for part in parts]
        joined = draft.concat(ends, f"{block.name}.concat")
        draft.conv(pointwise.kernel, joined, f"{block.name}.{POINTWISE}", block.output)
        return
    kernels = split_concat([part.kernel for part in parts], pointwise.kernel)
    merged: dict[str, list[Kernel]] = {}
    for part, kernel in zip(parts, kernels, strict=True):
        merged.setdefault(part.source, []).append(kernel)
    rows = [(source, kernel) for source, several in merged.items() for kernel in _joined(several)]
    output = block.output if len(rows) == 1 else None
    ends = [draft.conv(kernel, source, f"{block.name}.main", output) for source, kernel in rows]
    if len(rows) > 1:
        draft.total(ends, f"{block.name}.sum", block.output)


def _joined(kernels: Sequence[Kernel]) -> Sequence[Kernel]:
    """Kernels over one tensor as one, unless that takes more work than they do."""
    try:
        total = sum_branches(kernels)
    except ModelError:
        return kernels
    is_less = total.weight.size <= sum(kernel.weight.size for kernel in kernels)
    return [total] if is_less else kernels
