"""Fold the blocks of a loaded ONNX model as chosen, block by block; the result proves itself.

In:  a LoadedModel and rules.  Out: a LoadedModel in the same normal form, the same bytes for the
same input, in which each block is one convolution and the branches that its strategy keeps live,
without BatchNorms. The tensor that leaves a block keeps its name, so a cut means the same under
every strategy. The model given is never changed.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx

from edgekit.builder.fold.onnx_blocks import Block
from edgekit.builder.fold.onnx_conv_bn import find_normed_convs, rewrite_normed_conv
from edgekit.builder.fold.onnx_emit import live_branches, rewrite_block
from edgekit.builder.fold.onnx_find import Findings, find_blocks
from edgekit.builder.fold.onnx_graph import GraphView, view_of
from edgekit.builder.fold.onnx_prove import prove_rewrite, prove_whole
from edgekit.builder.fold.onnx_write import Names, Rewrite, apply_rewrites
from edgekit.builder.load import LoadedModel
from edgekit.errors import ModelError
from edgekit.spec.fusion import S3, FusionRule, FusionStrategy, choose_strategies

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedBlock:
    """What became of one block."""

    name: str
    kind: str
    strategy: FusionStrategy
    folded_count: int
    """Branches in the main convolution, the main one included."""
    live_count: int
    ops_before: int
    ops_after: int
    relative_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldReport:
    """What was folded in a model, and how far its outputs moved."""

    blocks: tuple[FoldedBlock, ...]
    conv_bn_count: int
    """Convolutions outside blocks that took what scaled and shifted their outputs."""
    ops_before: int
    ops_after: int
    max_relative_error: float
    """Of the model's outputs on random input; at most 1e-5."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Folding:
    """A folded model that is not proved yet, and what was rewritten in it."""

    model: LoadedModel
    blocks: tuple[tuple[Block, Rewrite], ...]
    conv_bns: tuple[Rewrite, ...]

    @property
    def rewrites(self) -> tuple[Rewrite, ...]:
        """All of them."""
        return (*(rewrite for _, rewrite in self.blocks), *self.conv_bns)


def fold_model(
    loaded: LoadedModel,
    rules: Sequence[FusionRule],
    *,
    default: FusionStrategy | None = None,
    conv_bn: bool = True,
) -> tuple[LoadedModel, FoldReport]:
    """``loaded`` with every block folded as the last rule says that matches it.

    ``default``: the strategy of other blocks; without one, what takes the least work: S3 for every
    block of kind "sum".
    ``conv_bn``: also fold BatchNorms and per-channel constants outside blocks.
    Returns: the folded model, and how far each block and the outputs moved (at most 1e-5).
    Raises: ConfigError if a rule matches no block; ModelError naming the block if it only looks
    like one, if its numbers define no function, or if it is not equal after folding.
    """
    findings = find_blocks(loaded)
    strategies = strategies_for(findings, rules, default=default)
    return fold_chosen(loaded, findings, strategies, conv_bn=conv_bn)


def fold_chosen(
    loaded: LoadedModel,
    findings: Findings,
    strategies: Mapping[str, FusionStrategy],
    *,
    conv_bn: bool,
) -> tuple[LoadedModel, FoldReport]:
    """As fold_model, with the blocks that were found and the strategy of each by name.

    Returns and raises as fold_model.
    """
    folding = fold_found(loaded, findings, strategies, conv_bn=conv_bn)
    view = view_of(loaded)
    errors = [_proved(view, block, rewrite) for block, rewrite in folding.blocks]
    worst = prove_whole(loaded, folding.model, folding.rewrites) if folding.rewrites else 0.0
    report = FoldReport(
        blocks=tuple(
            _told(block, rewrite, strategies[block.name], error)
            for (block, rewrite), error in zip(folding.blocks, errors, strict=True)
        ),
        conv_bn_count=len(folding.conv_bns),
        ops_before=len(loaded.parts.activation_nodes),
        ops_after=len(folding.model.parts.activation_nodes),
        max_relative_error=worst,
    )
    log.info(
        "folded %s: blocks=%d conv_bn=%d operators=%d->%d error=%.1e",
        loaded.name, len(report.blocks), report.conv_bn_count, report.ops_before,
        report.ops_after, worst,
    )  # fmt: skip
    return folding.model, report


def fold_blocks(loaded: LoadedModel, strategies: Mapping[str, FusionStrategy]) -> onnx.ModelProto:
    """The graph of ``loaded`` with the named blocks folded, nothing else; each block is proved.

    Raises: ConfigError if there is no such block; ModelError as fold_model.
    """
    findings = find_blocks(loaded)
    for name in strategies:
        if name not in findings.names:
            strategies_for(findings, [FusionRule(strategy=S3, blocks=name)])
    folding = fold_found(loaded, findings, strategies, conv_bn=False)
    view = view_of(loaded)
    for block, rewrite in folding.blocks:
        _proved(view, block, rewrite)
    return folding.model.proto


def strategies_for(
    findings: Findings, rules: Sequence[FusionRule], *, default: FusionStrategy | None = None
) -> Mapping[str, FusionStrategy]:
    """The strategy of each block that was found; as fold_model.

    Raises: ModelError with the reason if a rule names what only looks like a block, or if the
    numbers of one define no function; ConfigError if a rule matches nothing at all.
    """
    for miss in findings.near_misses:
        if miss.is_damage:
            raise ModelError(
                f"block {miss.name}: {miss.reason}",
                hint="repair the model, or export it again from a good checkpoint after eval()",
            )
    for part in (part.strip() for rule in rules for part in rule.blocks.split(",")):
        if any(fnmatchcase(name, part) for name in findings.names):
            continue
        for miss in findings.near_misses:
            if fnmatchcase(miss.name, part) and part != "*":
                raise ModelError(
                    f"{miss.name} looks like a block, but cannot be folded: {miss.reason}",
                    hint="leave it out of --blocks",
                )
    unset = FusionStrategy()  # told by identity from an S3 that a rule gave
    chosen = choose_strategies(findings.names, rules, default=default or unset)
    return {
        block.name: block.least_work if chosen[block.name] is unset else chosen[block.name]
        for block in findings.blocks
    }


def fold_found(
    loaded: LoadedModel,
    findings: Findings,
    strategies: Mapping[str, FusionStrategy],
    *,
    conv_bn: bool,
) -> Folding:
    """The blocks among ``strategies``, folded; neither run nor proved.

    Raises: ModelError naming the operator whose numbers define no function.
    """
    view, names = view_of(loaded), Names(loaded.proto)
    index_of = {node.name: index for index, node in enumerate(loaded.proto.graph.node)}
    chosen = [block for block in findings.blocks if block.name in strategies]
    blocks = tuple(
        (block, rewrite_block(view, names, block, strategies[block.name], index_of))
        for block in chosen
    )
    taken = {index_of[op] for block in findings.blocks for op in block.ops}
    pairs = find_normed_convs(view, taken) if conv_bn else ()
    conv_bns = tuple(rewrite_normed_conv(view, names, pair) for pair in pairs)
    rewrites = [*(rewrite for _, rewrite in blocks), *conv_bns]
    model = apply_rewrites(loaded, rewrites) if rewrites else loaded
    return Folding(model=model, blocks=blocks, conv_bns=conv_bns)


def _proved(view: GraphView, block: Block, rewrite: Rewrite) -> float:
    return prove_rewrite(view, rewrite, _probe_shapes(view, block))


def _probe_shapes(view: GraphView, block: Block) -> dict[str, tuple[int, ...]]:
    """Small inputs that treat borders as the real ones do: enough for each kernel, same remainder
    of the stride; the real sizes where the inputs of a block differ in size.
    """
    real = {view.shape(name)[2:] for name in block.inputs}
    if len(real) > 1:
        return {name: (1, *view.shape(name)[1:]) for name in (*block.inputs, *block.added)}
    (size,) = real
    geometries = [branch.kernel.geometry for branch in block.branches]
    rows, columns = (
        _probe_size(
            size[axis],
            max(one.dilation[axis] * one.kernel[axis] for one in geometries),
            block.geometry.stride[axis],
        )
        for axis in (0, 1)
    )
    shapes = {name: (1, view.shape(name)[1], rows, columns) for name in block.inputs}
    behind = block.geometry.output_size((rows, columns)) if block.added else ()
    return shapes | {name: (1, view.shape(name)[1], *behind) for name in block.added}


def _probe_size(real: int, extent: int, stride: int) -> int:
    wanted = extent + 4 * stride
    return min(real, wanted + (real - wanted) % stride)


def _told(block: Block, rewrite: Rewrite, strategy: FusionStrategy, error: float) -> FoldedBlock:
    live = len(live_branches(block, strategy))
    return FoldedBlock(
        name=block.name,
        kind=block.kind,
        strategy=strategy,
        folded_count=len(block.branches) - live,
        live_count=live,
        ops_before=len(block.ops),
        ops_after=len(rewrite.nodes),
        relative_error=error,
    )
