"""``edgekit quantize``: a model in int8, written only if it is measured faster and accurate."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import to_bytes
from edgekit.builder.quantize import (
    RECIPES,
    Verdict,
    calibration_frames,
    image_input,
    quantize_model,
    recipe_for,
    target_here,
)
from edgekit.builder.quantize.gate import DEFAULT_MAX_DROP_PP
from edgekit.builder.quantize.operators import refuse_quantized
from edgekit.builder.quantize.ranges import ALL_CALIBRATORS, CALIBRATORS
from edgekit.builder.quantize.score import AccuracyDrop
from edgekit.cli.held_out import cards_of, evaluation_set
from edgekit.cli.lowering_show import show_losses, show_precisions
from edgekit.cli.options import float_names, parse_inputs
from edgekit.cli.outputs import check_onnx_out
from edgekit.cli.render import byte_progress, print_json, say, show_facts, show_table, warn
from edgekit.errors import ConfigError, PlanError
from edgekit.profiler.memory import measure_peak_bytes
from edgekit.spec.base import write_atomically
from edgekit.units import format_bytes


@click.command("quantize")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--calibrate", "source", required=True, help="Pictures: images:DIR, file:clip.mp4, scene:yard."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="ONNX file to write.")
@click.option(
    "--target", type=click.Choice(tuple(RECIPES)), help="What it will run on (this machine)."
)
@click.option(
    "--calibrator",
    type=click.Choice(("auto", *ALL_CALIBRATORS)),
    default="auto",
    show_default=True,
    help="How ranges are found; auto: all, and the one closest to fp32.",
)
@click.option(
    "--keep-float",
    default="auto",
    show_default=True,
    help="Operators to leave in float: auto (head, decoding and what int8 ruins), none, NAME,NAME.",
)
@click.option(
    "--evaluate",
    "held_out",
    help="Held-out pictures: boxes:DIR (images/, labels*/ as YOLO writes) or classes:PATH (test/).",
)
@click.option(
    "--max-accuracy-drop",
    "max_drop_pp",
    type=click.FloatRange(min=0),
    help=f"In percentage points (needs --evaluate; default {DEFAULT_MAX_DROP_PP:g}).",
)
@click.option("--decoder", help="The family of the detector, if it is not recognised.")
@click.option(
    "--preprocess",
    type=click.Path(path_type=Path),
    help="TOML file with resize, color, scale, mean, std of a model without a card.",
)
@click.option("--input", "inputs", multiple=True, help="NAME=1x3x416x416 for open dimensions.")
@click.option("--force", is_flag=True, help="Replace an older file at --out.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    model: Path,
    source: str,
    out: Path,
    target: str | None,
    calibrator: str,
    keep_float: str,
    held_out: str | None,
    max_drop_pp: float | None,
    decoder: str | None,
    preprocess: Path | None,
    inputs: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Quantize MODEL (.onnx or .pt), time and score it against fp32, write it if it wins."""
    _check_options(out, model, force=force, has_limit=max_drop_pp is not None, held_out=held_out)
    loaded = load_model(model, input_shapes=parse_inputs(inputs))
    refuse_quantized(loaded.proto, loaded.name)
    card, pixels, how = cards_of(loaded, decoder, preprocess)
    frames = calibration_frames(source, pixels, image_input(loaded))
    with byte_progress(enabled=not as_json) as progress:
        verdict = quantize_model(
            loaded,
            frames,
            recipe_for(target or target_here()),
            calibrators=CALIBRATORS if calibrator == "auto" else (calibrator,),
            keep_float=float_names(keep_float),
            card=card,
            held_out=evaluation_set(held_out, loaded, card, pixels) if held_out else None,
            max_drop_pp=DEFAULT_MAX_DROP_PP if max_drop_pp is None else max_drop_pp,
            measure_bytes=measure_peak_bytes,
            progress=progress,
        )
    if verdict.precision == "int8":
        write_atomically(to_bytes(verdict.candidate.proto), out)
    facts = _as_json(loaded, verdict, out, target or target_here(), how, len(frames.tensors))
    if as_json:
        print_json(facts)
    else:
        _show(facts, verdict)
    if verdict.is_too_inaccurate:
        raise PlanError(
            f"{loaded.name} in int8 loses more than {verdict.max_drop_pp:g} pp, so {out} is not "
            "written",
            hint="name the worst operators of the table in --keep-float auto,NAME, calibrate on "
            "more pictures, or raise --max-accuracy-drop",
        )


def _check_options(
    out: Path, model: Path, *, force: bool, has_limit: bool, held_out: str | None
) -> None:
    """Before minutes of work, not after."""
    check_onnx_out(out, model, force=force)
    if has_limit and held_out is None:
        raise ConfigError(
            "--max-accuracy-drop has nothing to be measured on",
            hint="add --evaluate boxes:DIR or classes:PATH",
        )


def _as_json(
    loaded: LoadedModel, verdict: Verdict, out: Path, target: str, how: str, frame_count: int
) -> dict[str, Any]:
    best = verdict.candidate
    return {
        "model": loaded.name,
        "sha256": loaded.source_sha256,
        "card": how,
        "target": target,
        "recipe": recipe_for(target).why,
        "chosen": verdict.precision,
        "written": str(out) if verdict.precision == "int8" else None,
        "reasons": list(verdict.reasons),
        "calibration_frames": frame_count,
        "calibrator": best.calibrator,
        "bias_corrected": best.bias_corrected,
        "equalized": best.equalized,
        "tried": [
            {
                "calibrator": one.calibrator,
                "bias_corrected": one.bias_corrected,
                "equalized": one.equalized,
                "agreement": one.agreement,
                "float_operators": len(one.selection.float),
                "fidelity_db": one.fidelity_db,
            }
            for one in verdict.tried
        ],
        "float_bytes": verdict.float_bytes,
        "int8_bytes": verdict.int8_bytes,
        "float_s": verdict.float_s,
        "int8_s": verdict.int8_s,
        "speed_up": verdict.speed_up,
        "accuracy": _accuracy(verdict.drop),
        "precisions": [
            {
                "precision": row.precision,
                "bytes": row.nbytes,
                "memory_bytes": row.memory_bytes,
                "s": row.time_s,
                "accuracy": _accuracy(row.drop),
            }
            for row in verdict.rows
        ],
        "max_drop_pp": verdict.max_drop_pp,
        "integer_operators": len(best.selection.integer),
        "float_operators": [asdict(one) for one in best.selection.float],
        "losses": [asdict(loss) for loss in best.losses],
    }


def _accuracy(drop: AccuracyDrop | None) -> dict[str, Any] | None:
    if drop is None:
        return None
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in asdict(drop).items()
    }


def _show(facts: dict[str, Any], verdict: Verdict) -> None:
    best = verdict.candidate
    small, large = facts["int8_bytes"], facts["float_bytes"]
    lines = {
        "chosen": f"{verdict.precision}; {facts['written'] or 'nothing'} written",
        "target": f"{facts['target']}: {facts['recipe']}",
        "calibrated": f"on {facts['calibration_frames']} frames by {best.calibrator}, "
        f"biases {'corrected' if best.bias_corrected else 'as they were'}, "
        f"layers {'equalised' if best.equalized else 'as they were'} "
        f"({best.fidelity_db:.1f} dB, best of {len(verdict.tried)})",
        "size": f"{format_bytes(large)} in fp32, {format_bytes(small)} in int8",
    }
    if verdict.float_s and verdict.int8_s:
        lines["latency"] = (
            f"{verdict.float_s * 1e3:.2f} ms in fp32, {verdict.int8_s * 1e3:.2f} ms in int8, "
            "ONNX Runtime, one thread of this machine"
        )
    if verdict.drop is not None:
        drop = verdict.drop
        lines["accuracy"] = (
            f"{drop.metric} on {drop.picture_count} pictures: {drop.before:.4f} in fp32, "
            f"{drop.after:.4f} in int8"
        )
    show_facts(lines)
    for reason in verdict.reasons:
        warn(f"note: {reason}") if "not known" in reason else say(f"because {reason}")
    show_precisions(verdict.rows)
    rows = [(one.name, one.op_type, one.reason) for one in best.selection.float]
    show_table(f"{len(rows)} operators in float", ("operator", "type", "why"), rows, left=3)
    if verdict.is_too_inaccurate:
        show_losses(best.losses)
