"""The gate of a build: each shard takes the precision that is faster on its device and accurate.

In:  a model fused and cut, a precision and a device for each shard, codecs, frames, a held-out set.
Out: Lowered: a Chain and a LoweringReport with every number behind the choice; or a refusal.
Each shard is timed in fp32, fp16 and int8 and scored alone; the chain is scored with all of them
and the codecs together. With "auto", the shard that loses most for what it gains goes back to fp32
until the chain is within the limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.builder.fuse import Fused
from edgekit.builder.probe import seeded_inputs
from edgekit.builder.quantize.candidates import best_candidate
from edgekit.builder.quantize.chain_judge import ChainJudge
from edgekit.builder.quantize.equalize import equalized
from edgekit.builder.quantize.float_model import without_batch_norms
from edgekit.builder.quantize.loss import TensorLoss
from edgekit.builder.quantize.operators import refuse_quantized, select_operators
from edgekit.builder.quantize.pieces import (
    Chain,
    Frame,
    Model,
    ShardMaker,
    ShowStep,
    Ways,
)
from edgekit.builder.quantize.recipes import Recipe, recipe_for
from edgekit.builder.quantize.score import AccuracyDrop
from edgekit.builder.quantize.shard_order import (
    Lowering,
    check_needs,
    choose,
    codecs_of,
    wanted_of,
)
from edgekit.builder.quantize.shard_report import (
    LoweringReport,
    ShardReport,
    ShardTimes,
    Wanted,
)
from edgekit.builder.quantize.shard_times import Target, entering, times_of
from edgekit.builder.quantize.sizes import measured_bytes
from edgekit.builder.quantize.targets import target_of
from edgekit.builder.workload import workload_of
from edgekit.errors import PlanError
from edgekit.planner.cuts import resolve_cut
from edgekit.spec.fleet import Fleet
from edgekit.spec.profile import Precision

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lowered:
    """Shards as they will ship, and why."""

    chain: Chain
    model: Model
    """In fp32: what the chain is compared with."""
    report: LoweringReport
    recipes: tuple[Recipe, ...]
    """Of the device of each shard."""
    is_exact_here: bool
    """Whether this machine's integer kernels compute what those of the devices do."""


class TooInaccurateError(PlanError):
    """Too much accuracy is lost; ``losses`` says where, worst first."""

    def __init__(self, what: str, *, hint: str, losses: Sequence[TensorLoss]) -> None:
        super().__init__(what, hint=hint)
        self.losses = tuple(losses)


def lower(
    fused: Fused,
    fleet: Fleet,
    order: Lowering,
    progress: ShowStep = lambda text, done, total: None,
) -> Lowered:
    """The shards of ``fused`` as ``order`` asks, timed and scored.

    Raises: ConfigError if what was asked for makes no sense together; ModelError if the model is
    quantized already or has operators that cannot be; TooInaccurateError if more accuracy is lost
    than may be, and no shard with "auto" is left that could go back.
    """
    return _Gate(fused, fleet, order, progress).lowered()


class _Gate:
    def __init__(self, fused: Fused, fleet: Fleet, order: Lowering, progress: ShowStep) -> None:
        devices = fleet.device[: len(fused.cuts) + 1]
        self._wanted = wanted_of(order.precision, [one.name for one in devices])
        codecs = codecs_of(order.codecs, len(fused.cuts))
        check_needs(order, self._wanted, codecs)
        self._order, self._progress = order, progress
        self._devices = devices
        self._targets = [
            Target(
                recipe=recipe_for(target_of(one, order.profiles.get(one.name))),
                profile=order.profiles.get(one.name),
                provider=one.provider,
            )
            for one in devices
        ]
        self._model = _float_form(fused, self._wanted)
        integers = {"int8", "auto"} & set(self._wanted)
        selection = select_operators(self._model.loaded, order.keep_float) if integers else None
        name = self._model.loaded.inputs[0].name
        frames = [{name: one} for one in order.frames.tensors] if order.frames else []
        self._frame: Frame = frames[0] if frames else seeded_inputs(self._model.loaded.inputs, 0)
        self._frames = frames
        self._ways = Ways(
            recipes=tuple(one.recipe for one in self._targets),
            selection=selection,
            calibrators=order.calibrators,
            codecs=codecs,
        )
        integer = [one for one, wanted in zip(self._targets, self._wanted, strict=True)
                   if wanted in ("int8", "auto")]  # fmt: skip
        if integer:
            self._model, self._ways = self._searched(self._model, integer[0].recipe)
        self._maker = ShardMaker(self._model, self._ways, self._frames, progress)
        self._judge = ChainJudge(
            self._model.loaded,
            tuple(one.recipe for one in self._targets),
            frames or [self._frame],
            order.held_out,
            progress,
        )

    def lowered(self) -> Lowered:
        asked: list[Precision] = ["int8" if one == "auto" else one for one in self._wanted]
        chain = self._maker.chain(asked)
        times = self._times(chain)
        chosen, reasons = self._by_speed(chain, times)
        chain = self._maker.chain(chosen)
        alone = self._alone(chain)
        drop = self._judge.drop(chain)
        while drop is not None and not drop.drop_pp <= self._order.max_drop_pp:
            index = self._worst(chain, times, alone)
            if index is None:
                raise self._refusal(chain, drop)
            reasons[index].append(
                f"back to fp32: with it the chain loses {drop.drop_pp:.2f} pp, "
                f"{self._order.max_drop_pp:g} pp are allowed"
            )
            chosen[index] = "fp32"
            chain = self._maker.chain(chosen)
            drop = self._judge.drop(chain)
        return Lowered(
            chain=chain,
            model=self._model,
            report=self._report(chain, times, reasons, alone, drop),
            recipes=self._ways.recipes,
            is_exact_here=self._judge.is_exact_here(chain),
        )

    def _searched(self, model: Model, recipe: Recipe) -> tuple[Model, Ways]:
        """What becomes integers, by which ranges, judged on the whole model by what it answers.

        A shard alone has no answer: its tensors are nearly all background to a detector.
        """
        order, ways = self._order, self._ways
        if ways.selection is None:
            return model, ways
        spare = "auto" in order.keep_float
        best, _ = best_candidate(
            model.loaded, ways.selection, self._frames, recipe, order.calibrators,
            spare=spare, card=order.card, progress=self._progress,
        )  # fmt: skip
        if best.equalized:
            loaded, _ = equalized(model.loaded, ways.selection.integer)
            model = replace(model, loaded=loaded)
        return model, replace(ways, selection=best.selection, calibrators=(best.calibrator,))

    # Speed.

    def _times(self, chain: Chain) -> list[ShardTimes]:
        self._progress("time", 0, 0)
        floats, kept = self._maker.floats, self._ways.selection
        keep = [one.name for one in kept.float] if kept else []
        given = {
            "float": entering(floats, [cut.names for cut in self._model.cuts], self._frame),
            "chain": entering(chain.shards, [cut.names for cut in chain.cuts], self._frame),
        }
        return [
            ShardTimes(how="unknown")
            if wanted == "fp32"
            else times_of(
                index, self._model, floats, chain, self._targets[index], given, keep,
                race_s=self._order.race_s,
            )
            for index, wanted in enumerate(self._wanted)
        ]  # fmt: skip

    def _by_speed(
        self, chain: Chain, times: Sequence[ShardTimes]
    ) -> tuple[list[Precision], list[list[str]]]:
        chosen: list[Precision] = []
        reasons = []
        for wanted, got, own in zip(self._wanted, chain.precisions, times, strict=True):
            precision, why = choose(wanted, got, own)
            chosen.append(precision)
            reasons.append(why)
        return chosen, reasons

    # Accuracy.

    def _alone(self, chain: Chain) -> list[AccuracyDrop | None]:
        """Of each lowered shard with all others in fp32."""
        lowered = [index for index, one in enumerate(chain.precisions) if one != "fp32"]
        drops: list[AccuracyDrop | None] = [None] * len(chain.precisions)
        if self._order.held_out is None:
            return drops
        for index in lowered:
            only: list[Precision] = ["fp32"] * len(drops)
            only[index] = chain.precisions[index]
            drops[index] = self._judge.drop(self._maker.chain(only))
        return drops

    def _worst(
        self, chain: Chain, times: Sequence[ShardTimes], alone: Sequence[AccuracyDrop | None]
    ) -> int | None:
        """The shard with "auto" that loses most for the time it saves; None if there is none."""
        rated = []
        for index, (wanted, precision) in enumerate(
            zip(self._wanted, chain.precisions, strict=True)
        ):
            if wanted != "auto" or precision == "fp32":
                continue
            drop, own = alone[index], times[index]
            before_s, after_s = own.fp32_s or 0.0, own.of(precision) or 0.0
            loss_pp = max(drop.drop_pp, 0.0) if drop is not None else 0.0
            rated.append((loss_pp / max(before_s - after_s, 1e-9), -index))
        return -max(rated)[1] if rated else None

    def _refusal(self, chain: Chain, drop: AccuracyDrop) -> TooInaccurateError:
        losses = _losses(chain)
        worst = ", ".join(f"{one.op} {one.sqnr_db:.0f} dB" for one in losses[:_MOST_NAMED])
        return TooInaccurateError(
            f"the shards in {'+'.join(chain.precisions)} with the codecs "
            f"{[one.name for one in chain.shipped.codecs]} lose {drop.drop_pp:.2f} pp of "
            f"{drop.metric} (95 % interval {drop.low_pp:.2f} to {drop.high_pp:.2f}), "
            f"{self._order.max_drop_pp:g} pp are allowed"
            + (f"; worst are {worst}" if worst else ""),
            hint="use --precision auto, name the worst operators in --keep-float auto,NAME, "
            "choose a finer --codec, or raise --max-accuracy-drop",
            losses=losses,
        )

    # What is said of it.

    def _report(
        self,
        chain: Chain,
        times: Sequence[ShardTimes],
        reasons: Sequence[Sequence[str]],
        alone: Sequence[AccuracyDrop | None],
        drop: AccuracyDrop | None,
    ) -> LoweringReport:
        frames = self._order.frames
        notes = []
        if drop is None and self._order.held_out is None:
            notes.append("accuracy is not known: give --evaluate")
        if not self._judge.is_exact_here(chain):
            notes.append(
                "this processor's integer kernels overflow with weights of 8 bits, those of the "
                "devices do not: numbers are of the same integers, computed in floats"
            )
        return LoweringReport(
            shards=tuple(
                self._shard_report(chain, index, times[index], reasons[index], alone[index])
                for index in range(len(chain.shards))
            ),
            codecs=tuple(one.name for one in chain.shipped.codecs),
            drop=drop,
            max_drop_pp=self._order.max_drop_pp,
            fidelity_db=self._judge.fidelity_db(chain),
            noise=self._judge.noise(chain),
            losses=_losses(chain),
            calibration=f"{len(frames.tensors)} frames of {frames.uri}" if frames else "",
            notes=(*notes, *chain.shipped.notes),
        )

    def _shard_report(
        self,
        chain: Chain,
        index: int,
        times: ShardTimes,
        reasons: Sequence[str],
        alone: AccuracyDrop | None,
    ) -> ShardReport:
        piece = chain.pieces[index]
        best = piece.candidate
        before, after = (
            measured_bytes(proto, self._order.measure_bytes)
            for proto in (self._maker.floats[index], chain.shipped.shards[index])
        )
        return ShardReport(
            device=self._devices[index].name,
            wanted=self._wanted[index],
            precision=piece.precision,
            reasons=tuple(reasons),
            target=self._targets[index].recipe.target,
            times=times,
            drop_alone=alone if piece.precision != "fp32" else None,
            calibrator=best.calibrator if best else "",
            bias_corrected=best.bias_corrected if best else False,
            fidelity_db=best.fidelity_db if best else None,
            integer_count=len(best.selection.integer) if best else 0,
            float_operators=best.selection.float if best else (),
            fp32_bytes=before[0],
            bytes=after[0],
            fp32_memory_bytes=before[1],
            memory_bytes=after[1],
        )


def _float_form(fused: Fused, wanted: Sequence[Wanted]) -> Model:
    """The model that integers are made of; as it is if there are to be none."""
    if all(one == "fp32" for one in wanted):
        return Model(loaded=fused.model, workload=fused.workload, cuts=fused.cuts)
    refuse_quantized(fused.model.proto, fused.model.name)
    loaded = without_batch_norms(fused.model)
    workload = workload_of(loaded)
    for name in (name for cut in fused.cuts for name in cut.names):
        if name not in workload.tensor:
            raise PlanError(
                f"tensor {name!r} lies between a convolution and its BatchNorm, which become one "
                "before anything is rounded",
                hint="cut behind the BatchNorm",
            )
    cuts = tuple(resolve_cut(workload, cut.names) for cut in fused.cuts)
    return Model(loaded=loaded, workload=workload, cuts=cuts)


def _losses(chain: Chain) -> tuple[TensorLoss, ...]:
    found = [loss for piece in chain.pieces if piece.candidate for loss in piece.candidate.losses]
    return tuple(sorted(found, key=lambda loss: (loss.sqnr_db, loss.tensor)))
