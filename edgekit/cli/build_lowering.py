"""What ``edgekit build`` is to make of its shards: precisions and codecs, from options.

In:  texts from the command line, the fleet.  Out: what ``build_bundle`` takes, or a refusal that
names the option.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click

from edgekit.builder.load import LoadedModel
from edgekit.builder.quantize import calibration_frames, image_input
from edgekit.builder.quantize.gate import DEFAULT_MAX_DROP_PP
from edgekit.builder.quantize.operators import refuse_quantized
from edgekit.builder.quantize.ranges import ALL_CALIBRATORS, CALIBRATORS
from edgekit.builder.quantize.shard_order import ANY_DEVICE, Lowering
from edgekit.builder.quantize.shard_report import Wanted
from edgekit.cli.held_out import cards_of, evaluation_set
from edgekit.cli.options import float_names
from edgekit.errors import ConfigError
from edgekit.profiler.fleet_profiles import fleet_profiles
from edgekit.profiler.memory import measure_peak_bytes
from edgekit.spec.card import ModelCard
from edgekit.spec.codec import PICTURES, CodecRequest, parse_request
from edgekit.spec.fleet import Fleet
from edgekit.units import parse_duration

_WANTED: tuple[Wanted, ...] = get_args(Wanted)
Verb = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweringOptions:
    """As they were typed; what a plan says is in ``precision`` and ``codecs`` already."""

    precision: Mapping[str, Wanted]
    codecs: tuple[CodecRequest, ...]
    deadline: str | None
    calibrate: str | None
    calibrator: str
    keep_float: str
    evaluate: str | None
    max_drop_pp: float | None
    preprocess: Path | None

    @property
    def is_asked(self) -> bool:
        """Whether anything is to be lowered at all."""
        return bool(self.codecs) or any(one != "fp32" for one in self.precision.values())


def lowering_options(verb: Verb) -> Verb:
    """Adds the options to a command."""
    options = (
        click.option(
            "--precision", "precisions", multiple=True, metavar="[DEVICE=]P",
            help="fp32 (default), fp16, int8, or auto: the fastest that is accurate enough.",
        ),
        click.option(
            "--codec", "codecs", multiple=True, metavar="NAME",
            help="How activations cross: fp32, fp16, uint8, uint8-channel, klt:0.5, with +lz4 or "
            "+zstd; one for all cuts, or one for each.",
        ),
        click.option(
            "--deadline", metavar="TIME",
            help="Of klt, such as 40ms: where the link is slow, frames are sent more coarsely.",
        ),
        click.option(
            "--calibrate", metavar="SOURCE",
            help="Pictures for int8 and codecs: images:DIR, file:clip.mp4, scene:yard.",
        ),
        click.option(
            "--calibrator", type=click.Choice(("auto", *ALL_CALIBRATORS)), default="auto",
            show_default=True, help="How ranges are found.",
        ),
        click.option(
            "--keep-float", default="auto", show_default=True,
            help="Operators to leave in float: auto, none, NAME,NAME or auto,NAME.",
        ),
        click.option(
            "--evaluate", metavar="SET",
            help="Held-out pictures: boxes:DIR (images/, labels*/ as YOLO writes) or classes:PATH.",
        ),
        click.option(
            "--max-accuracy-drop", "max_drop_pp", type=click.FloatRange(min=0), metavar="PP",
            help="Of all shards and codecs together (needs --evaluate; default "
            f"{DEFAULT_MAX_DROP_PP:g}).",
        ),
        click.option(
            "--preprocess", type=click.Path(path_type=Path),
            help="TOML file that says how pixels are fed, for a model without a card.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        verb = option(verb)
    return verb


def parse_precisions(texts: tuple[str, ...], fleet: Fleet) -> dict[str, Wanted]:
    """``--precision [DEVICE=]P`` options by device; one without a device is for all others.

    Raises: ConfigError naming the option that cannot be read.
    """
    names = [device.name for device in fleet.device]
    found: dict[str, Wanted] = {}
    rest: Wanted | None = None
    for text in texts:
        device, equals, name = text.rpartition("=")
        wanted = next((one for one in _WANTED if one == name.strip()), None)
        if wanted is None:
            raise ConfigError(
                f"--precision {text!r} names no precision", hint=f"use {', '.join(_WANTED)}"
            )
        if equals and device not in names:
            raise ConfigError(
                f"--precision names the device {device!r}, which the fleet does not have",
                hint=f"use one of {', '.join(names)}",
            )
        if device in found or (not equals and rest is not None):
            raise ConfigError(
                f"--precision {text!r} says again what {device or 'all devices'} is to be",
                hint="give one --precision for all, and one for each exception",
            )
        if equals:
            found[device] = wanted
        else:
            rest = wanted
    return found if rest is None else {**found, ANY_DEVICE: rest}


def parse_codecs(texts: tuple[str, ...]) -> tuple[CodecRequest, ...]:
    """``--codec`` options, in order."""
    return tuple(map(parse_request, texts))


def lowering_of(
    options: LoweringOptions, fleet: Fleet, folder: Path, decoder: str | None
) -> Callable[[LoadedModel, ModelCard | None], Lowering] | None:
    """What ``build_bundle`` asks once the model is known; None if nothing is to be lowered.

    Raises: ConfigError at once for what makes no sense, before minutes of work.
    """
    _check(options)
    if not options.is_asked:
        return None
    has_profile = any(device.profile for device in fleet.device)
    profiles = fleet_profiles(fleet, folder).profiles if has_profile else {}

    def asked(loaded: LoadedModel, card: ModelCard | None) -> Lowering:
        if any(one in ("int8", "auto") for one in options.precision.values()):
            refuse_quantized(loaded.proto, loaded.name)
        frames = held_out = None
        if options.calibrate or options.evaluate:
            family = None if decoder == "none" else decoder
            card, pixels, _ = cards_of(loaded, family, options.preprocess)
            if options.calibrate:
                frames = calibration_frames(options.calibrate, pixels, image_input(loaded))
            if options.evaluate:
                held_out = evaluation_set(options.evaluate, loaded, card, pixels)
        auto = options.calibrator == "auto"
        limit = options.max_drop_pp
        return Lowering(
            precision=options.precision,
            codecs=options.codecs,
            deadline_s=parse_duration(options.deadline) if options.deadline else None,
            frames=frames,
            card=card,
            profiles=profiles,
            calibrators=CALIBRATORS if auto else (options.calibrator,),
            keep_float=float_names(options.keep_float),
            held_out=held_out,
            max_drop_pp=DEFAULT_MAX_DROP_PP if limit is None else limit,
            measure_bytes=measure_peak_bytes,
        )

    return asked


def _check(options: LoweringOptions) -> None:
    """Raises: ConfigError for an option that has nothing to act on, or lacks one it needs."""
    if options.max_drop_pp is not None and options.evaluate is None:
        raise ConfigError(
            "--max-accuracy-drop has nothing to be measured on",
            hint="add --evaluate boxes:DIR or classes:PATH",
        )
    if not options.is_asked:
        for name, value in (("calibrate", options.calibrate), ("evaluate", options.evaluate)):
            if value is not None:
                raise ConfigError(
                    f"--{name} has nothing to do: every shard stays fp32 and nothing is coded",
                    hint="add --precision int8 or auto, or --codec NAME",
                )
    for codec in options.codecs:
        if codec.element in PICTURES:
            raise ConfigError(
                f"--codec {codec.name} carries pictures, and what crosses here are activations",
                hint="add --cut frame to send whole frames, or use uint8+zstd",
            )
    if options.deadline is not None:
        if not any(one.element == "klt" for one in options.codecs):
            raise ConfigError(
                "--deadline has nothing to shorten: only klt can send a frame more coarsely",
                hint="add --codec klt:0.5",
            )
        if not parse_duration(options.deadline) > 0:
            raise ConfigError(f"--deadline is {options.deadline}", hint="write such as 40ms")
    integers = [one for one in options.precision.values() if one in ("int8", "auto")]
    klt = [one.name for one in options.codecs if one.element == "klt"]
    if options.calibrate is None and (integers or klt):
        what = f"precision {integers[0]}" if integers else f"codec {klt[0]}"
        raise ConfigError(
            f"{what} needs calibration pictures, and there is no --calibrate",
            hint="add --calibrate images:DIR with pictures of what the camera will see",
        )
    float_names(options.keep_float)
