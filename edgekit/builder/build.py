"""Build a bundle: load, cost, cut, fold, split, prove, write.

In: a trained model and a fleet.  Out: a bundle folder, or an error and nothing at all.
A bundle is written only after its shards, in a chain, gave the numbers of the whole model. Where
shards are lowered (int8, fp16), the whole is the lowered model; how far that is from the float one
is measured and written down.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import msgspec
import onnx

from edgekit.builder.fold.onnx_fold import FoldReport
from edgekit.builder.forwarding import Forwarding, forwarded
from edgekit.builder.fuse import Fused, fuse
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.lowered import Shipment, float_shipment, lowered_shipment
from edgekit.builder.probe import seeded_inputs, to_bytes
from edgekit.builder.quantize.shard_order import Lowering
from edgekit.builder.quantize.shard_report import LoweringReport
from edgekit.builder.self_tests import golden_vectors
from edgekit.builder.split import shard_weight_bytes, stored_weight_bytes
from edgekit.builder.tensorrt_build.engines import recipes_of, refuse_obstacles
from edgekit.builder.tensorrt_build.recipe import wants_engine
from edgekit.builder.verify import VerifyReport, random_labelled, verify_chain
from edgekit.bundle.bundle import (
    OWN_ENGINE_PATH,
    OWN_SHARD_PATH,
    Bundle,
    engine_path,
    shard_path,
    write_bundle,
)
from edgekit.errors import PlanError
from edgekit.spec.base import to_json
from edgekit.spec.card import ModelCard
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.fleet import Device, Fleet
from edgekit.spec.fusion import FusionRule
from edgekit.spec.plan import BlockFusion, Cut, Placement, Plan
from edgekit.spec.profile import DeviceProfile, Precision
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import Workload

_SEEDS = (0, 1, 2)
_STEPS = ("load", "choose the cut, fold", "split", "verify", "write")

_ROUNDING = ("QuantizeLinear", "DequantizeLinear")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done and steps in all."""
CardFor = Callable[[LoadedModel], ModelCard | None]
"""Finds the model card once inputs and outputs are known."""
LoweringFor = Callable[[LoadedModel, ModelCard | None], Lowering]
"""What the shards are to become, once inputs and card are known."""
Check = Callable[[Plan, Workload, Sequence[Sequence[int]], Sequence[bytes]], None]
"""Raises if the shards, as they turned out, are not acceptable: each by the positions of its
operators in the workload, and by its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """A bundle, and how it was proved."""

    bundle: Bundle
    workload: Workload
    folded: FoldReport | None
    """How blocks were folded; None if there was none, or nothing was to be folded."""
    report: VerifyReport
    notes: tuple[str, ...]
    lowering: LoweringReport | None = None
    """What became of precisions and codecs; None if none were asked for."""
    engines: Mapping[str, EngineRecipe] = field(default_factory=dict)
    """What TensorRT builds of shards, by the recipes' paths in the bundle."""


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
    lowering: Lowering | LoweringFor | None = None,
    forwarding: Forwarding | None = None,
    profiles: Mapping[str, DeviceProfile] = MappingProxyType({}),
    force: bool = False,
    progress: Progress | None = None,
) -> BuildResult:
    """Turn the model at ``model_path`` into a bundle for ``fleet`` at ``out``.

    ``rule`` is what ``planner.balance.choose_cuts`` takes, ``fusion`` what ``builder.fuse.fuse``
    takes; ``card`` a card, or a function that finds one. ``model_sha256``: the model that it must
    be, where a plan says so. ``check`` may refuse the proved shards before they are written.
    ``lowering``: precisions and codecs, or a function that says them. ``forwarding``: a device, not
    of ``fleet``, that films and sends frames to the first of it. ``profiles``, by device: what is
    known of those that run TensorRT. Same input, same bytes (golden vectors: on the same kind of
    processor; with ``lowering`` the report holds times).
    Raises: ConfigError, ModelError or PlanError; then nothing was written.
    """
    say = progress or (lambda text, done, total: None)

    def step(index: int) -> None:
        say(_STEPS[index], index, len(_STEPS))

    step(0)
    loaded = load_model(model_path, input_shapes=input_shapes)
    _refuse_other_model(loaded, model_sha256)
    found = card(loaded) if callable(card) else card
    asked = lowering(loaded, found) if callable(lowering) else lowering
    step(1)
    fused = fuse(loaded, fleet, rule, fusion)
    step(2)
    if asked is None:
        shipment = float_shipment(loaded, fused)
    else:
        shipment = lowered_shipment(loaded, fused, fleet, asked, say)
    plan = plan_for(fused, fleet, rule, shipment)
    shards = [to_bytes(shard) for shard in shipment.shards]
    refuse_obstacles(plan, shards)
    own = _own_copy(loaded, forwarding.own, fusion) if forwarding and forwarding.own else None
    shipped = forwarded(plan, forwarding, own.placement if own else None) if forwarding else plan
    files = [own.shard, *shards] if own else shards
    everybody = _with_camera(fleet, forwarding)
    engines = recipes_of(shipped, files, everybody, profiles)
    step(3)
    report, golden = _prove(loaded.inputs, plan, shipment)
    if check is not None:
        check(plan, shipment.workload, shipment.parts, shards)
    step(4)
    lowered = _with_proof(shipment.report, report)
    bundle = write_bundle(
        out,
        plan=shipped,
        shards=files,
        card=found,
        golden=[own.golden, *golden] if own else golden,
        engines=engines,
        report=to_json(lowered) if lowered else None,
        force=force,
    )
    say("done", len(_STEPS), len(_STEPS))
    return BuildResult(
        bundle=bundle,
        workload=shipment.workload,
        folded=fused.report,
        report=report,
        notes=loaded.notes,
        lowering=lowered,
        engines=engines,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _OwnCopy:
    """The whole model of a device that answers some frames itself, proved."""

    placement: Placement
    shard: bytes
    golden: bytes


def _own_copy(loaded: LoadedModel, device: Device, fusion: Sequence[FusionRule] | None) -> _OwnCopy:
    """Raises: ModelError if it does not compute what the model does."""
    alone = Fleet(name=device.name, device=(device,))
    fused = fuse(loaded, alone, "none", None if fusion is None else ())
    shipment = float_shipment(loaded, fused)
    plan = plan_for(fused, alone, "none", shipment)
    _, golden = _prove(loaded.inputs, plan, shipment)
    (shard,), (vectors,), (placement,) = shipment.shards, golden, plan.placements
    recipe = OWN_ENGINE_PATH if placement.engine else ""
    placement = msgspec.structs.replace(placement, shard=OWN_SHARD_PATH, engine=recipe)
    data = to_bytes(shard)
    refuse_obstacles(plan, [data])
    return _OwnCopy(placement=placement, shard=data, golden=vectors)


def _with_camera(fleet: Fleet, forwarding: Forwarding | None) -> Fleet:
    """``fleet``, and the device in front of it if that runs the model, too."""
    if forwarding is None or forwarding.own is None:
        return fleet
    return msgspec.structs.replace(fleet, device=(forwarding.own, *fleet.device))


def _with_proof(lowered: LoweringReport | None, proof: VerifyReport) -> LoweringReport | None:
    if lowered is None:
        return None
    equal, compared = proof.bit_equal(proof.exact_level)
    return msgspec.structs.replace(lowered, outputs_compared=compared, bit_equal=equal)


def _refuse_other_model(loaded: LoadedModel, model_sha256: str) -> None:
    if model_sha256 and loaded.source_sha256 != model_sha256:
        raise PlanError(
            f"the plan was made for another model (sha256 {model_sha256[:16]}…) than {loaded.path} "
            f"(sha256 {loaded.source_sha256[:16]}…)",
            hint="run edgekit plan on this model",
        )


def plan_for(fused: Fused, fleet: Fleet, rule: str | Sequence[str], shipment: Shipment) -> Plan:
    """The plan that runs the shards between the cuts on the first devices of ``fleet``."""
    loaded, workload = fused.model, shipment.workload
    entering = [loaded.inputs, *(cut.tensors for cut in shipment.sent)]
    leaving = [*(cut.tensors for cut in shipment.sent), loaded.outputs]
    placements = tuple(
        Placement(
            device=fleet.device[index].name,
            shard=shard_path(index),
            engine=engine_path(index) if wants_engine(fleet.device[index]) else "",
            inputs=entering[index],
            outputs=leaving[index],
            work_flop=sum(workload.ops[op].work_flop for op in ops),
            weight_bytes=shard_weight_bytes(loaded, ops)
            if shipment.report is None
            else stored_weight_bytes(shipment.shards[index]),
            precision=shipment.precisions[index]
            if shipment.precisions
            else _precision([workload.ops[op].op_type for op in ops]),
            fusion=tuple(
                BlockFusion(block=name, strategy=str(strategy))
                for name, strategy in fused.strategies[index].items()
            ),
        )
        for index, ops in enumerate(shipment.parts)
    )
    named = rule if isinstance(rule, str) else rule[0] if len(rule) == 1 else ""
    return Plan(
        model=loaded.name,
        model_sha256=loaded.source_sha256,
        rule=named if named in {"auto", "none"} else "given",
        placements=placements,
        cuts=shipment.sent,
        model_inputs=loaded.inputs,
        model_outputs=loaded.outputs,
        codecs=shipment.codecs,
    )


def _precision(op_types: Sequence[str]) -> Precision:
    is_integer = any(kind.startswith("QLinear") or kind in _ROUNDING for kind in op_types)
    return "int8" if is_integer else "fp32"


def leaving_names(cuts: Sequence[Cut], outputs: Sequence[TensorSpec]) -> list[tuple[str, ...]]:
    """Names of what leaves each device at ``cuts``, the model outputs last."""
    return [*(cut.names for cut in cuts), tuple(spec.name for spec in outputs)]


def _prove(
    inputs: tuple[TensorSpec, ...], plan: Plan, shipment: Shipment
) -> tuple[VerifyReport, list[bytes]]:
    """Verify the exact shards as files on random inputs; golden vectors of those that ship."""
    with TemporaryDirectory(prefix="edgekit-") as folder:
        report = verify_chain(
            shipment.whole,
            _files(Path(folder) / "exact", shipment.exact),
            leaving_names(shipment.cuts, plan.model_outputs),
            random_labelled(inputs, _SEEDS),
            levels=shipment.levels,
            noise_limits=shipment.noise_limits,
        )
        report.raise_if_bad()
        paths = _files(Path(folder) / "shipped", shipment.shards)
        given = shipment.sample or seeded_inputs(inputs, _SEEDS[0])
        return report, golden_vectors(given, plan, paths, level=shipment.levels[0])


def _files(folder: Path, shards: Sequence[onnx.ModelProto]) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"shard-{index}.onnx" for index in range(len(shards))]
    for path, shard in zip(paths, shards, strict=True):
        path.write_bytes(to_bytes(shard))
    return paths
