"""The gate: int8 is chosen only where it is measured to be faster and accurate enough.

In:  a LoadedModel, calibration frames, a held-out set, limits.  Out: a Verdict with the graph and
every number behind the choice.  Writes nothing but temporary files.
"""

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.builder.load import LoadedModel
from edgekit.builder.probe import to_bytes
from edgekit.builder.quantize.candidates import Candidate, ShowStep, best_candidate
from edgekit.builder.quantize.float_model import float_model
from edgekit.builder.quantize.frames import CalibrationFrames
from edgekit.builder.quantize.operators import refuse_quantized, select_operators
from edgekit.builder.quantize.ranges import CALIBRATORS
from edgekit.builder.quantize.recipes import Recipe, is_timed_here
from edgekit.builder.quantize.score import AccuracyDrop, EvaluationSet
from edgekit.builder.race import MIN_GAIN, is_faster, race
from edgekit.errors import ConfigError
from edgekit.runtime.ort import OrtSession
from edgekit.spec.tensors import Array

DEFAULT_MAX_DROP_PP = 1.0


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
    held_out: EvaluationSet | None = None,
    max_drop_pp: float = DEFAULT_MAX_DROP_PP,
    race_s: float = 3.0,
    progress: ShowStep = lambda text, done, total: None,
) -> Verdict:
    """``loaded`` in int8 for the target of ``recipe``, timed and scored against fp32.

    Raises: ModelError if the model is quantized already or has operators that cannot be;
    ConfigError if the held-out set has a picture that was calibrated on.
    """
    refuse_quantized(loaded.proto, loaded.name)
    _refuse_seen(frames, held_out)
    progress("fold", 0, 0)
    model = float_model(loaded)
    selection = select_operators(model, keep_float)
    inputs = [{model.inputs[0].name: tensor} for tensor in frames.tensors]
    best, tried = best_candidate(
        model, selection, inputs, recipe, calibrators, spare="auto" in keep_float, progress=progress
    )
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        paths = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        for path, proto in zip(paths, (model.proto, best.proto), strict=True):
            path.write_bytes(to_bytes(proto))
        sessions = OrtSession(paths[0]), OrtSession(paths[1])
        sizes = [path.stat().st_size for path in paths]
    times_s = _times_s(sessions, inputs[0], recipe, race_s, progress)
    drop = None
    if held_out is not None:
        drop = held_out.compare(*sessions, lambda done: progress("score", done, 0))
    precision, reasons = judge(times_s, drop, max_drop_pp, recipe)
    return Verdict(
        precision=precision,
        reasons=reasons,
        candidate=best,
        tried=tried,
        float_bytes=sizes[0],
        int8_bytes=sizes[1],
        float_s=times_s[0] if times_s else None,
        int8_s=times_s[1] if times_s else None,
        drop=drop,
        max_drop_pp=max_drop_pp,
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


def _refuse_seen(frames: CalibrationFrames, held_out: EvaluationSet | None) -> None:
    both = len(frames.digests & held_out.digests) if held_out else 0
    if both:
        raise ConfigError(
            f"{both} pictures of the evaluation are calibration frames too, so it would flatter",
            hint="calibrate on other pictures than those that are scored",
        )


def _times_s(
    sessions: tuple[OrtSession, OrtSession],
    inputs: dict[str, Array],
    recipe: Recipe,
    race_s: float,
    progress: ShowStep,
) -> tuple[float, float] | None:
    """Median time of one frame in fp32 and int8, turn by turn; None on another kind of machine."""
    if not is_timed_here(recipe):
        return None
    progress("time", 0, 0)
    float_s, int8_s = race(sessions, inputs, budget_s=race_s)
    return float_s, int8_s
