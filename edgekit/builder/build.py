"""Build a bundle: load, cost, cut, fold, split, prove, write.

In: a trained model and a fleet.  Out: a bundle folder, or an error and nothing at all.
A bundle is written only after its shards, in a chain, gave the numbers of the whole model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from edgekit.builder.fold.onnx_fold import FoldReport
from edgekit.builder.fuse import Fused, fuse
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import seeded_inputs, to_bytes
from edgekit.builder.split import shard_weight_bytes, split_model
from edgekit.builder.verify import VerifyReport, random_labelled, verify_chain
from edgekit.bundle.bundle import Bundle, shard_path, write_bundle
from edgekit.bundle.chain import run_chain
from edgekit.bundle.golden import MAX_GOLDEN_BYTES, Golden, golden_to_bytes
from edgekit.errors import PlanError
from edgekit.planner.cuts import partition
from edgekit.runtime.ort import OrtSession
from edgekit.spec.card import ModelCard
from edgekit.spec.fleet import Fleet
from edgekit.spec.fusion import FusionRule
from edgekit.spec.plan import BlockFusion, Placement, Plan
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import Workload

_SEEDS = (0, 1, 2)
_STEPS = ("load", "choose the cut, fold", "split", "verify", "write")

_ROUNDING = ("QuantizeLinear", "DequantizeLinear")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done and steps in all."""
CardFor = Callable[[LoadedModel], ModelCard | None]
"""Finds the model card once inputs and outputs are known."""
Check = Callable[[Plan, Workload, Sequence[bytes]], None]
"""Raises if the shards, as they turned out, are not acceptable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """A bundle, and how it was proved."""

    bundle: Bundle
    workload: Workload
    folded: FoldReport | None
    """How blocks were folded; None if there was none, or nothing was to be folded."""
    report: VerifyReport
    notes: tuple[str, ...]


def build_bundle(
    model_path: Path,
    *,
    fleet: Fleet,
    out: Path,
    rule: str | Sequence[str] = "auto",
    fusion: Sequence[FusionRule] | None = (),
    card: ModelCard | CardFor | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    model_sha256: str = "",
    check: Check | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> BuildResult:
    """Turn the model at ``model_path`` into a bundle for ``fleet`` at ``out``.

    ``rule`` is what ``planner.balance.choose_cuts`` takes, ``fusion`` what ``builder.fuse.fuse``
    takes; ``card`` a card, or a function that finds one. ``model_sha256``: the model that it must
    be, where a plan says so. ``check`` may refuse the proved shards before they are written. Same
    input, same bytes (golden vectors: on the same kind of processor).
    Raises: ConfigError, ModelError or PlanError; then nothing was written.
    """
    say = progress or (lambda text, done, total: None)

    def step(index: int) -> None:
        say(_STEPS[index], index, len(_STEPS))

    step(0)
    loaded = load_model(model_path, input_shapes=input_shapes)
    _refuse_other_model(loaded, model_sha256)
    found = card(loaded) if callable(card) else card
    step(1)
    fused = fuse(loaded, fleet, rule, fusion)
    plan = plan_for(fused, fleet, rule)
    step(2)
    shards = [to_bytes(shard) for shard in split_model(fused.model, fused.workload, fused.cuts)]
    step(3)
    report, golden = _prove(loaded, plan, shards)
    if check is not None:
        check(plan, fused.workload, shards)
    step(4)
    bundle = write_bundle(out, plan=plan, shards=shards, card=found, golden=golden, force=force)
    say("done", len(_STEPS), len(_STEPS))
    return BuildResult(
        bundle=bundle,
        workload=fused.workload,
        folded=fused.report,
        report=report,
        notes=loaded.notes,
    )


def _refuse_other_model(loaded: LoadedModel, model_sha256: str) -> None:
    if model_sha256 and loaded.source_sha256 != model_sha256:
        raise PlanError(
            f"the plan was made for another model (sha256 {model_sha256[:16]}…) than {loaded.path} "
            f"(sha256 {loaded.source_sha256[:16]}…)",
            hint="run edgekit plan on this model",
        )


def plan_for(fused: Fused, fleet: Fleet, rule: str | Sequence[str]) -> Plan:
    """The plan that runs the shards between the cuts on the first devices of ``fleet``."""
    loaded, workload, cuts = fused.model, fused.workload, fused.cuts
    entering = [loaded.inputs, *(cut.tensors for cut in cuts)]
    leaving = [*(cut.tensors for cut in cuts), loaded.outputs]
    placements = tuple(
        Placement(
            device=fleet.device[index].name,
            shard=shard_path(index),
            inputs=entering[index],
            outputs=leaving[index],
            work_flop=sum(workload.ops[op].work_flop for op in ops),
            weight_bytes=shard_weight_bytes(loaded, ops),
            precision=_precision([workload.ops[op].op_type for op in ops]),
            fusion=tuple(
                BlockFusion(block=name, strategy=str(strategy))
                for name, strategy in fused.strategies[index].items()
            ),
        )
        for index, ops in enumerate(partition(workload, cuts))
    )
    named = rule if isinstance(rule, str) else rule[0] if len(rule) == 1 else ""
    return Plan(
        model=loaded.name,
        model_sha256=loaded.source_sha256,
        rule=named if named in {"auto", "none"} else "given",
        placements=placements,
        cuts=tuple(cuts),
        model_inputs=loaded.inputs,
        model_outputs=loaded.outputs,
    )


def _precision(op_types: Sequence[str]) -> Precision:
    is_integer = any(kind.startswith("QLinear") or kind in _ROUNDING for kind in op_types)
    return "int8" if is_integer else "fp32"


def leaving_names(plan: Plan) -> list[tuple[str, ...]]:
    """Names of what leaves each device of ``plan``, the model outputs last."""
    return [
        *(cut.names for cut in plan.cuts),
        tuple(spec.name for spec in plan.model_outputs),
    ]


def _prove(
    loaded: LoadedModel, plan: Plan, shards: Sequence[bytes]
) -> tuple[VerifyReport, list[bytes]]:
    """Verify the shards as files on random inputs; golden vectors from the first of them."""
    with TemporaryDirectory(prefix="edgekit-") as folder:
        paths = [Path(folder) / f"shard-{index}.onnx" for index in range(len(shards))]
        for path, data in zip(paths, shards, strict=True):
            path.write_bytes(data)
        report = verify_chain(
            loaded, paths, leaving_names(plan), random_labelled(loaded.inputs, _SEEDS)
        )
        report.raise_if_bad()
        return report, _golden(loaded.inputs, plan, paths)


def _golden(inputs: tuple[TensorSpec, ...], plan: Plan, paths: Sequence[Path]) -> list[bytes]:
    """Self-test vectors of every shard, or none if they are large together."""
    sessions = [OrtSession(path, optimization="extended") for path in paths]
    vectors = []
    chain = run_chain(sessions, leaving_names(plan), seeded_inputs(inputs, _SEEDS[0]))
    for session, (entered, left) in zip(sessions, chain, strict=True):
        reads = {spec.name: entered[spec.name] for spec in session.inputs}
        makes = {spec.name: left[spec.name] for spec in session.outputs}
        vectors.append(Golden(inputs=reads, outputs=makes))
    if sum(golden.nbytes for golden in vectors) > MAX_GOLDEN_BYTES:
        return []
    return [golden_to_bytes(golden) for golden in vectors]
