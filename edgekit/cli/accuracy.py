"""``edgekit accuracy``: what sub-models, codecs and frame codecs lose, measured for the planner."""

from functools import partial
from pathlib import Path

import click
import cv2
import numpy as np
import onnxruntime

from edgekit import __version__
from edgekit.builder.accuracy.codecs import DEFAULT_CODECS
from edgekit.builder.accuracy.measure import measure_accuracy
from edgekit.builder.accuracy.request import DEFAULT_CUTS, AccuracyRequest, chosen_cuts
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.plan_inputs import variants_of
from edgekit.builder.quantize import RECIPES, calibration_frames, image_input, target_here
from edgekit.builder.quantize.operators import refuse_quantized
from edgekit.builder.quantize.ranges import CALIBRATORS
from edgekit.cli.accuracy_show import show_report
from edgekit.cli.held_out import cards_of, evaluation_set
from edgekit.cli.options import parse_inputs
from edgekit.cli.render import byte_progress, print_json, warn
from edgekit.errors import ConfigError
from edgekit.planner.scenario import Variant
from edgekit.profiler.frame_cost import LOSSY, recoded
from edgekit.profiler.run import processor_name
from edgekit.spec.accuracy import AccuracyReport
from edgekit.spec.base import load, save, write_atomically
from edgekit.spec.codec import PICTURES, parse_request
from edgekit.spec.fusion import parse_strategy
from edgekit.spec.profile import Precision

_PRECISIONS: tuple[Precision, ...] = ("int8", "fp16")


@click.command("accuracy")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--calibrate", "source", required=True, help="Pictures: images:DIR, file:clip.mp4, scene:yard."
)
@click.option(
    "--evaluate", "held_out", required=True,
    help="Held-out pictures: boxes:DIR (images/, labels*/ as YOLO writes) or classes:PATH (test/).",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), help="accuracy.toml; one "
              "that is there is gone on with.")  # fmt: skip
@click.option("--cut", "given_cuts", multiple=True, metavar="TENSOR,TENSOR", help="Measure there.")
@click.option("--cuts", "cut_count", default=DEFAULT_CUTS, show_default=True,
              type=click.IntRange(0, 50), help="Or at so many, spread over the model.")  # fmt: skip
@click.option("--strategies", default="", metavar="S3,S3+Ss", help="All that make a difference.")
@click.option("--precisions", default=",".join(_PRECISIONS), show_default=True)
@click.option("--codecs", default=",".join(DEFAULT_CODECS), show_default=True)
@click.option(
    "--target", type=click.Choice(tuple(RECIPES)), help="What int8 is for (this machine)."
)
@click.option("--calibrator", type=click.Choice(("auto", *CALIBRATORS)), default="auto")
@click.option("--decoder", help="The family of the detector, if it is not recognised.")
@click.option("--preprocess", type=click.Path(path_type=Path), help="TOML: how pixels are fed.")
@click.option("--input", "inputs", multiple=True, help="NAME=1x3x416x416 for open dimensions.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw it: .png, .pdf or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    model: Path,
    source: str,
    held_out: str,
    out: Path,
    given_cuts: tuple[str, ...],
    cut_count: int,
    strategies: str,
    precisions: str,
    codecs: str,
    target: str | None,
    calibrator: str,
    decoder: str | None,
    preprocess: Path | None,
    inputs: tuple[str, ...],
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure how much accuracy MODEL (.onnx or .pt) loses in int8, part by part, and to codecs."""
    _check_targets(out, plot)
    names = _codecs(codecs)
    wanted = _precisions(precisions)
    loaded = load_model(model, input_shapes=parse_inputs(inputs))
    refuse_quantized(loaded.proto, loaded.name)
    known = load(out, AccuracyReport) if out.exists() else None
    if known is not None and known.model_sha256 != loaded.source_sha256:
        raise ConfigError(f"{out} is of another model, {known.model}", hint="give another --out")
    card, pixels, _ = cards_of(loaded, decoder, preprocess)
    variants = _variants(loaded, strategies)
    pictures = evaluation_set(held_out, loaded, card, pixels)
    request = AccuracyRequest(
        loaded=loaded,
        card=card if held_out.startswith("boxes") else None,
        calibration=calibration_frames(source, pixels, image_input(loaded)),
        held_out=pictures,
        evaluation=held_out,
        target=target or target_here(),
        calibrators=CALIBRATORS if calibrator == "auto" else (calibrator,),
        variants=variants,
        cuts=chosen_cuts(variants, given_cuts, cut_count),
        codecs=names,
        precisions=wanted,
        frames={name: partial(recoded, codec=name) for name in LOSSY},
        machine=processor_name(),
        versions=_versions(),
    )  # fmt: skip
    with byte_progress(enabled=not as_json) as progress:
        report = measure_accuracy(
            request, known, keep=lambda one: save(one, out), progress=progress
        )
    save(report, out)
    if plot is not None:
        from edgekit.cli.accuracy_plot import drawn  # matplotlib, only where it is used

        write_atomically(drawn(report, plot.suffix[1:]), plot)
        warn(f"plot: {plot}")
    if as_json:
        print_json(report)
    else:
        show_report(report, len(variants))


def _versions() -> dict[str, str]:
    return {
        "edgekit": __version__, "onnxruntime": onnxruntime.__version__,
        "opencv": cv2.__version__, "numpy": np.__version__,
    }  # fmt: skip


def _variants(loaded: LoadedModel, text: str) -> tuple[Variant, ...]:
    """Those asked for, of those that make a difference."""
    found = variants_of(loaded)
    if not text:
        return found
    names = [str(parse_strategy(one)) for one in text.split(",")]
    known = [one.strategy for one in found]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"--strategies {name} makes no difference to {loaded.name}",
                hint=f"use {', '.join(known)}",
            )
    return tuple(one for one in found if one.strategy in names)


def _codecs(text: str) -> tuple[str, ...]:
    asked = [parse_request(one) for one in text.split(",") if one.strip()]
    for one in asked:
        if one.element in PICTURES:
            raise ConfigError(
                f"--codecs {one.name} is for camera frames, not for activations",
                hint=f"leave it out: frames are measured as {', '.join(LOSSY)} anyway",
            )
    return tuple(one.name for one in asked)


def _precisions(text: str) -> tuple[Precision, ...]:
    names = [one.strip() for one in text.split(",") if one.strip()]
    if not set(names) <= set(_PRECISIONS):
        raise ConfigError(f"--precisions {text!r}", hint=f"use {', '.join(_PRECISIONS)}")
    return tuple(one for one in _PRECISIONS if one in names)


def _check_targets(out: Path, plot: Path | None) -> None:
    """Before minutes of work, not after."""
    if out.suffix != ".toml" or out.is_dir():
        raise ConfigError(f"{out} is no .toml file", hint="let its name end in .toml")
    if plot is not None and plot.suffix not in (".png", ".pdf", ".svg"):
        raise ConfigError(f"--plot {plot}", hint="let its name end in .png, .pdf or .svg")
    for path in (out, *([plot] if plot else [])):
        if not path.parent.is_dir():
            raise ConfigError(f"there is no folder {path.parent}", hint="make it, or check it")
