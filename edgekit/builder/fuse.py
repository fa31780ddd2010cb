"""Choose the cuts of a model and fold its blocks, each as the device that runs it likes it.

In:  a LoadedModel with its branches, a fleet, a cut rule and fusion rules.  Out: the folded model,
its workload, the cuts, and the strategy of every block.
The cuts are chosen on the model with everything folded: a cut inside a block would make the block
impossible to fold. Blocks keep the names of their outputs, so the cuts hold under any strategy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.builder.fold.onnx_find import Findings, find_blocks
from edgekit.builder.fold.onnx_fold import FoldReport, fold_chosen, fold_found, strategies_for
from edgekit.builder.load import LoadedModel
from edgekit.builder.workload import workload_of
from edgekit.errors import PlanError
from edgekit.planner.balance import choose_cuts
from edgekit.planner.cuts import names_in, partition, resolve_cut
from edgekit.spec.fleet import Fleet
from edgekit.spec.fusion import S3, FusionRule, FusionStrategy, choose_strategies, rules_on
from edgekit.spec.plan import Cut
from edgekit.spec.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """A model as it will be split."""

    model: LoadedModel
    workload: Workload
    cuts: tuple[Cut, ...]
    strategies: tuple[Mapping[str, FusionStrategy], ...]
    """For each shard: the strategy of each of its blocks, by name, in model order."""
    report: FoldReport | None
    """None if the model has no block, or is to be left as it came."""


def fuse(
    loaded: LoadedModel,
    fleet: Fleet,
    rule: str | Sequence[str],
    fusion: Sequence[FusionRule] | None = (),
) -> Fused:
    """``loaded``, cut for ``fleet``, with each block folded as its device's rules say.

    ``rule`` is what ``choose_cuts`` takes. The rules of the fleet file come first, then ``fusion``;
    the last that matches wins, and without any a block takes the strategy of least work: S3, unless
    its branches have different inputs. ``fusion=None`` leaves the model as it came.
    Raises: PlanError if a cut is not legal or lies inside a block; ConfigError if a rule matches no
    block; ModelError if a block does not compute the same after folding.
    """
    findings = find_blocks(loaded)
    if fusion is None or not findings.blocks:
        choose_strategies(findings.names, fusion or ())  # refuses a rule for some blocks of none
        workload = workload_of(loaded)
        cuts = choose_cuts(workload, fleet, rule)
        nothing: tuple[Mapping[str, FusionStrategy], ...] = ({},) * (len(cuts) + 1)
        return Fused(model=loaded, workload=workload, cuts=cuts, strategies=nothing, report=None)
    workload = workload_of(folded_whole(loaded, findings))
    _refuse_cuts_inside(loaded, workload, findings, rule)
    cuts = choose_cuts(workload, fleet, rule)
    rules = [one for device in fleet.device for one in device.fusion_rules] + list(fusion)
    strategies = _by_shard(findings, workload, cuts, fleet, rules)
    chosen = {name: one for shard in strategies for name, one in shard.items()}
    model, report = fold_chosen(loaded, findings, chosen, conv_bn=False)
    final = workload_of(model)
    return Fused(
        model=model,
        workload=final,
        cuts=tuple(resolve_cut(final, cut.names) for cut in cuts),
        strategies=strategies,
        report=report,
    )


def folded_whole(loaded: LoadedModel, findings: Findings) -> LoadedModel:
    """``loaded`` with every block folded: what all strategies have in common can be cut in it.

    Not proved. Raises: ModelError naming the block whose numbers define no function.
    """
    everything = dict.fromkeys(findings.names, S3)
    return fold_found(loaded, findings, everything, conv_bn=False).model


def _by_shard(
    findings: Findings,
    workload: Workload,
    cuts: Sequence[Cut],
    fleet: Fleet,
    rules: Sequence[FusionRule],
) -> tuple[Mapping[str, FusionStrategy], ...]:
    shards = []
    for index, ops in enumerate(partition(workload, cuts)):
        made = {name for op in ops for name in workload.ops[op].outputs}
        here = rules_on(fleet.device[index].name, rules)
        wanted = strategies_for(findings, here)
        shards.append(
            {block.name: wanted[block.name] for block in findings.blocks if block.output in made}
        )
    return tuple(shards)


def _refuse_cuts_inside(
    loaded: LoadedModel, folded: Workload, findings: Findings, rule: str | Sequence[str]
) -> None:
    """Raises: PlanError if a named cut runs through a block."""
    inside = {
        name: block
        for node in loaded.proto.graph.node
        for block in findings.blocks
        for name in node.output
        if node.name in block.ops
    }
    for text in (rule,) if isinstance(rule, str) else rule:
        for name in () if text in {"auto", "none"} else names_in(folded, text):
            if name not in folded.tensor and name in inside:
                block = inside[name]
                raise PlanError(
                    f"tensor {name!r} lies inside the block {block.name!r}, which is folded",
                    hint=f"cut at its output {block.output!r}, or leave the branches alone with "
                    "--strategy none",
                )
