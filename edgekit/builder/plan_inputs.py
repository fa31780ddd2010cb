"""What the planner may choose from in a model: one workload for each fusion strategy.

In:  a LoadedModel.  Out: Variants, everything folded first.  Nothing is written or proved here: a
build proves the strategies that a plan chose.
The tensors that leave blocks keep their names, so a cut of the first variant is one of them all.
"""

from edgekit.builder.fold.onnx_find import Findings, find_blocks
from edgekit.builder.fold.onnx_fold import fold_found
from edgekit.builder.load import LoadedModel
from edgekit.builder.workload import workload_of
from edgekit.planner.scenario import Variant
from edgekit.spec.fusion import S3, STRATEGIES, FusionStrategy
from edgekit.spec.workload import Workload


def variants_of(loaded: LoadedModel) -> tuple[Variant, ...]:
    """The model under each strategy that makes a difference; under S3 alone if it has no block.

    Raises: ModelError naming the block whose numbers define no function.
    """
    findings = find_blocks(loaded)
    if not findings.blocks:
        return (Variant(strategy=str(S3), workload=workload_of(loaded)),)
    found: list[Variant] = []
    for strategy in STRATEGIES:
        workload = workload_of(folded_alike(loaded, findings, strategy))
        if all(_shape(workload) != _shape(one.workload) for one in found):
            found.append(Variant(strategy=str(strategy), workload=workload))
    return tuple(found)


def folded_alike(loaded: LoadedModel, findings: Findings, strategy: FusionStrategy) -> LoadedModel:
    """``loaded`` with every block folded by one strategy. Not proved.

    Raises: ModelError naming the block whose numbers define no function.
    """
    chosen = dict.fromkeys(findings.names, strategy)
    return fold_found(loaded, findings, chosen, conv_bn=False).model


def _shape(workload: Workload) -> list[tuple[str, int, int, int]]:
    """What tells two variants apart: what is launched, and what that costs."""
    return [(op.op_type, op.work_flop, op.traffic_bytes, len(op.inputs)) for op in workload.ops]
