"""The gate: int8 is chosen only where it is measured to be faster and accurate enough.

In:  a LoadedModel, calibration frames, a held-out set, limits.  Out: a Verdict with the graph and
every number behind the choice.  Writes nothing but temporary files.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx

from edgekit.builder.load import LoadedModel
from edgekit.builder.quantize.candidates import Candidate, ShowStep, best_candidate
from edgekit.builder.quantize.float_model import float_model
from edgekit.builder.quantize.frames import CalibrationFrames, refuse_seen
from edgekit.builder.quantize.half import half
from edgekit.builder.quantize.operators import refuse_quantized, select_operators
from edgekit.builder.quantize.ranges import CALIBRATORS
from edgekit.builder.quantize.recipes import Recipe, is_timed_here
from edgekit.builder.quantize.score import AccuracyDrop, EvaluationSet
from edgekit.builder.quantize.sizes import MeasureBytes, measured_bytes, session_of
from edgekit.builder.quantize.targets import level_here
from edgekit.builder.race import MIN_GAIN, is_faster, race
from edgekit.errors import ModelError
from edgekit.runtime.ort import OrtSession
from edgekit.spec.card import ModelCard
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import Array

log = logging.getLogger(__name__)
DEFAULT_MAX_DROP_PP = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRow:
    """One precision of a model; None where something was not measured."""

    precision: Precision
    nbytes: int
    memory_bytes: int | None
    """Most that a session takes, in a process of its own."""
    time_s: float | None
    drop: AccuracyDrop | None
    """Against fp32, which has none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verdict:
    """What was made of a model, and whether it may take the place of fp32."""

    precision: str
    """Either int8 or fp32."""
    reasons: tuple[str, ...]
    """Why, as sentences; also what could not be measured here."""
    candidate: Candidate
    tried: tuple[Candidate, ...]
    float_bytes: int
    """Of the folded model in fp32."""
    int8_bytes: int
    float_s: float | None
    """Median time of one frame on this machine, one thread; None if it says nothing of the
    target."""
    int8_s: float | None
    drop: AccuracyDrop | None
    max_drop_pp: float
    rows: tuple[PrecisionRow, ...] = ()
    """fp32, fp16 and int8 beside each other; fp16 only to compare."""

    @property
    def speed_up(self) -> float | None:
        """How many times faster than fp32."""
        return self.float_s / self.int8_s if self.float_s and self.int8_s else None

    @property
    def is_too_inaccurate(self) -> bool:
        """True if the measured drop is beyond the limit."""
        return self.drop is not None and not self.drop.drop_pp <= self.max_drop_pp


def quantize_model(
    loaded: LoadedModel,
    frames: CalibrationFrames,
    recipe: Recipe,
    *,
    calibrators: Sequence[str] = CALIBRATORS,
    keep_float: Collection[str] = ("auto",),
    card: ModelCard | None = None,
    held_out: EvaluationSet | None = None,
    max_drop_pp: float = DEFAULT_MAX_DROP_PP,
    race_s: float = 3.0,
    measure_bytes: MeasureBytes | None = None,
    progress: ShowStep = lambda text, done, total: None,
) -> Verdict:
    """``loaded`` in int8 for the target of ``recipe``, timed and scored against fp32.

    Raises: ModelError if the model is quantized already or has operators that cannot be;
    ConfigError if the held-out set has a picture that was calibrated on.
    """
    refuse_quantized(loaded.proto, loaded.name)
    refuse_seen(frames, held_out.digests if held_out else ())
    progress("fold", 0, 0)
    model = float_model(loaded)
    selection = select_operators(model, keep_float)
    inputs = [{model.inputs[0].name: tensor} for tensor in frames.tensors]
    best, tried = best_candidate(
        model, selection, inputs, recipe, calibrators,
        spare="auto" in keep_float, card=card, progress=progress,
    )  # fmt: skip
    protos = _protos(model, best)
    sessions = {
        name: session_of(proto, level_here(recipe) if name == "int8" else "all")
        for name, proto in protos.items()
    }
    times_s = _times_s(sessions, inputs[0], recipe, race_s, progress)
    drops = _drops(sessions, held_out, progress)
    rows = tuple(_row(name, protos[name], times_s, drops, measure_bytes) for name in protos)
    sizes = {row.precision: row.nbytes for row in rows}
    pair_s = (times_s["fp32"], times_s["int8"]) if times_s else None
    precision, reasons = judge(pair_s, drops.get("int8"), max_drop_pp, recipe)
    return Verdict(
        precision=precision,
        reasons=reasons,
        candidate=best,
        tried=tried,
        float_bytes=sizes["fp32"],
        int8_bytes=sizes["int8"],
        float_s=pair_s[0] if pair_s else None,
        int8_s=pair_s[1] if pair_s else None,
        drop=drops.get("int8"),
        max_drop_pp=max_drop_pp,
        rows=rows,
    )


def _protos(model: LoadedModel, best: Candidate) -> dict[Precision, onnx.ModelProto]:
    """The model in each precision that it can be had in."""
    protos: dict[Precision, onnx.ModelProto] = {"fp32": model.proto}
    try:
        protos["fp16"] = half(model.proto, [one.name for one in best.selection.float])
        session_of(protos["fp16"])
    except ModelError as error:
        protos.pop("fp16", None)
        log.warning("%s is not compared in fp16: %s", model.name, error.what)
    return protos | {"int8": best.proto}


def _drops(
    sessions: Mapping[Precision, OrtSession], held_out: EvaluationSet | None, progress: ShowStep
) -> dict[Precision, AccuracyDrop]:
    if held_out is None:
        return {}
    return {
        name: held_out.compare(sessions["fp32"], session, lambda done: progress("score", done, 0))
        for name, session in sessions.items()
        if name != "fp32"
    }


def _row(
    precision: Precision,
    proto: onnx.ModelProto,
    times_s: Mapping[Precision, float] | None,
    drops: Mapping[Precision, AccuracyDrop],
    measure: MeasureBytes | None,
) -> PrecisionRow:
    nbytes, memory_bytes = measured_bytes(proto, measure)
    return PrecisionRow(
        precision=precision,
        nbytes=nbytes,
        memory_bytes=memory_bytes,
        time_s=times_s[precision] if times_s else None,
        drop=drops.get(precision),
    )


def judge(
    times_s: tuple[float, float] | None,
    drop: AccuracyDrop | None,
    max_drop_pp: float,
    recipe: Recipe,
) -> tuple[str, tuple[str, ...]]:
    """The precision to take, and why. ``times_s``: of fp32 and int8; None if not measurable here.

    What was not measured does not speak against int8, but is said.
    """
    reasons, precision = [], "int8"
    if times_s is None:
        reasons.append(f"speed on {recipe.target} is not known here: time both files on the device")
    else:
        speed_up = times_s[0] / times_s[1]
        faster = is_faster(times_s[1], times_s[0])
        precision = precision if faster else "fp32"
        verb = "faster" if faster else "not faster"
        reasons.append(f"int8 is {verb}: {speed_up:.2f} times fp32 (noise {MIN_GAIN:.0%})")
    if drop is None:
        reasons.append("accuracy is not known: give --evaluate")
        return precision, tuple(reasons)
    within = drop.drop_pp <= max_drop_pp  # false for nan too
    verb = "within" if within else "beyond"
    reasons.append(
        f"{drop.metric} falls by {drop.drop_pp:.2f} pp, {verb} the limit of {max_drop_pp:g} pp "
        f"(95 % interval {drop.low_pp:.2f} to {drop.high_pp:.2f})"
    )
    return precision if within else "fp32", tuple(reasons)


def _times_s(
    sessions: Mapping[Precision, OrtSession],
    inputs: dict[str, Array],
    recipe: Recipe,
    race_s: float,
    progress: ShowStep,
) -> dict[Precision, float] | None:
    """Median time of one frame in each, turn by turn; None on another kind of machine."""
    if not is_timed_here(recipe):
        return None
    progress("time", 0, 0)
    return dict(zip(sessions, race([*sessions.values()], inputs, budget_s=race_s), strict=True))
