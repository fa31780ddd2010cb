"""What each strategy of each block would cost: work, traffic, operators, parameters.

In:  a LoadedModel and its blocks.  Out: costs, counted by folding for real and counting as for any
other model, so that they are what the folded model will cost; nothing is run. Traffic is that of
operators one by one.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from edgekit.builder.fold.onnx_blocks import Block
from edgekit.builder.fold.onnx_find import Findings
from edgekit.builder.fold.onnx_fold import Folding, fold_found
from edgekit.builder.load import LoadedModel
from edgekit.builder.workload import workload_of
from edgekit.spec.fusion import COPY, IDENTITY, POINTWISE, POOL, FusionStrategy
from edgekit.spec.workload import OpCost, Workload

_MOST_KINDS = 4
"""So many kinds of branches give 16 strategies; of more kinds not every subset is counted."""
_ORDER = (IDENTITY, POINTWISE, POOL, COPY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What some operators cost together."""

    work_flop: int
    traffic_bytes: int
    op_count: int
    parameter_count: int

    @property
    def intensity_flop_per_byte(self) -> float:
        """Operational intensity: work / traffic."""
        return self.work_flop / self.traffic_bytes if self.traffic_bytes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldCosts:
    """Costs of one block, or of a model: as it is, and under each strategy that differs."""

    unfolded: Cost
    by_strategy: tuple[tuple[FusionStrategy, Cost], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCosts:
    """Costs of a model and, in the order of the findings, of its blocks."""

    model: FoldCosts
    blocks: tuple[FoldCosts, ...]


def strategies_of(kinds: Collection[str]) -> tuple[FusionStrategy, ...]:
    """Every strategy that differs for branches of these kinds, from S3 to all of them live.

    Returns: all subsets of up to four kinds; of more kinds none, each alone, and all.
    """
    ordered = [kind for kind in _ORDER if kind in kinds]
    ordered += sorted(set(kinds) - set(_ORDER))
    few = len(ordered) <= _MOST_KINDS
    sizes = range(len(ordered) + 1) if few else (0, 1, len(ordered))
    return tuple(
        FusionStrategy(live=live) for size in sizes for live in combinations(ordered, size)
    )


def cost_strategies(loaded: LoadedModel, findings: Findings) -> ModelCosts:
    """What the blocks and the whole model cost under each strategy.

    Raises: ModelError naming a block or operator whose numbers define no function, or an operator
    of unknown work.
    """
    kinds = [kind for block in findings.blocks for kind in block.live_kinds]
    strategies = strategies_of(kinds)
    workload = workload_of(loaded)
    foldings = [
        fold_found(loaded, findings, dict.fromkeys(findings.names, strategy), conv_bn=True)
        for strategy in strategies
    ]
    workloads = [workload_of(folding.model) for folding in foldings]
    return ModelCosts(
        model=FoldCosts(
            unfolded=cost_of(workload.ops),
            by_strategy=tuple(
                (strategy, cost_of(one.ops))
                for strategy, one in zip(strategies, workloads, strict=True)
            ),
        ),
        blocks=tuple(
            FoldCosts(
                unfolded=_cost_of_named(workload, block.ops),
                by_strategy=_of_block(block, position, strategies, foldings, workloads),
            )
            for position, block in enumerate(findings.blocks)
        ),
    )


def cost_of(ops: Iterable[OpCost]) -> Cost:
    """The sum of operators."""
    several = list(ops)
    return Cost(
        work_flop=sum(op.work_flop for op in several),
        traffic_bytes=sum(op.traffic_bytes for op in several),
        op_count=len(several),
        parameter_count=sum(op.parameter_count for op in several),
    )


def _cost_of_named(workload: Workload, names: Iterable[str]) -> Cost:
    wanted = set(names)
    return cost_of(op for op in workload.ops if op.name in wanted)


def _of_block(
    block: Block,
    position: int,
    strategies: Sequence[FusionStrategy],
    foldings: Sequence[Folding],
    workloads: Sequence[Workload],
) -> tuple[tuple[FusionStrategy, Cost], ...]:
    """Only strategies that differ for this block, each under its shortest name."""
    found: dict[FusionStrategy, Cost] = {}
    for strategy, folding, workload in zip(strategies, foldings, workloads, strict=True):
        live = tuple(kind for kind in strategy.live if kind in block.live_kinds)
        own = FusionStrategy(live=live)
        if own not in found:
            _, rewrite = folding.blocks[position]
            found[own] = _cost_of_named(workload, (node.name for node in rewrite.nodes))
    return tuple(found.items())
