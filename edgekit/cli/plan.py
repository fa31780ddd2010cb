"""``edgekit plan``: how a model should run on a fleet, and why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from edgekit.cli.options import parse_inputs
from edgekit.cli.plan_show import show_answer, show_policies
from edgekit.cli.render import byte_progress, print_json, say, warn
from edgekit.errors import ConfigError, PlanError
from edgekit.planner.explain import explain, say_binding
from edgekit.spec.accuracy import AccuracyReport, Counting
from edgekit.spec.base import load, save, write_atomically
from edgekit.spec.fleet import Device, Fleet
from edgekit.spec.planning import Goal, Objective
from edgekit.trial.settle import Measure
from edgekit.units import parse_shape, parse_size
from edgekit.workflow_plan import PlanAnswer, PlanRequest, make_plan

T = TypeVar("T")


@click.command("plan")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--fleet", "fleet_file", required=True, type=click.Path(path_type=Path), help="fleet.toml."
)
@click.option(
    "--objective",
    default="latency",
    show_default=True,
    type=click.Choice(["latency", "throughput", "energy", "balanced"]),
)
@click.option("--max-latency", type=float, metavar="MS", help="Of a frame, from capture to answer.")
@click.option("--min-fps", type=float, help="Answers per second at least.")
@click.option("--arrival", type=float, metavar="FPS", help="Frames arrive at random at this rate.")
@click.option("--max-accuracy-drop", type=float, default=0.0, metavar="PP", show_default=True)
@click.option(
    "--lambda1", type=float, default=0.0, metavar="S/PP", help="Seconds that one pp is worth."
)
@click.option(
    "--farms",
    is_flag=True,
    help="Also choose to deal frames out over pipelines (not buildable).",
)
@click.option(
    "--accuracy",
    "accuracy_file",
    type=click.Path(path_type=Path),
    help="Of `edgekit accuracy`: then int8 and lossy codecs are weighed too.",
)
@click.option(
    "--drops",
    "counting",
    type=click.Choice(["at-worst", "as-measured"]),
    default="at-worst",
    show_default=True,
    help="Accuracy drops of --accuracy: the upper end of their intervals, or their middle.",
)
@click.option("--memory", "--max-ram", "memory", multiple=True, metavar="DEVICE=512MB")
@click.option("--max-params", multiple=True, metavar="DEVICE=N")
@click.option("--max-macs", multiple=True, metavar="DEVICE=N")
@click.option("--max-ms", multiple=True, metavar="DEVICE=MS", help="Of the device's shard.")
@click.option("--source-size", metavar="WxH", help="Frames of the camera; else the model's input.")
@click.option("--image", type=click.Path(path_type=Path), help="A picture of the camera.")
@click.option("--video", metavar="SOURCE", help="A video or camera, to size frames by.")
@click.option("--input-shape", "--input", "inputs", multiple=True, metavar="NAME=1x3x416x416")
@click.option(
    "--measure",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Time shards here where a device is this machine; always: at every cut.",
)
@click.option("--measure-seconds", type=click.FloatRange(0, 3600), default=20.0, show_default=True)
@click.option("--explain", "with_reasons", is_flag=True, help="Why, and what would change it.")
@click.option("--compare", "with_policies", is_flag=True, help="Beside other planners.")
@click.option("--report", "report_file", type=click.Path(path_type=Path), help="Write a .html.")
@click.option("--out", type=click.Path(path_type=Path), help="plan.json, for edgekit build --plan.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def command(
    model: Path,
    fleet_file: Path,
    accuracy_file: Path | None,
    counting: Counting,
    memory: tuple[str, ...],
    max_params: tuple[str, ...],
    max_macs: tuple[str, ...],
    max_ms: tuple[str, ...],
    source_size: str | None,
    image: Path | None,
    video: str | None,
    inputs: tuple[str, ...],
    measure: Measure,
    measure_seconds: float,
    with_reasons: bool,
    with_policies: bool,
    report_file: Path | None,
    out: Path | None,
    as_json: bool,
    **goal: Any,
) -> None:
    """Plan how MODEL (.onnx or .pt) should run on a fleet: where to cut it, or not at all."""
    _check_targets(out, report_file)
    fleet = limited(load(fleet_file, Fleet), "memory", memory, _size)
    fleet = limited(fleet, "max_params", max_params, _count)
    fleet = limited(fleet, "max_macs", max_macs, _count)
    fleet = limited(fleet, "max_ms", max_ms, _milliseconds)
    request = PlanRequest(
        model=model,
        fleet=fleet,
        folder=fleet_file.parent,
        goal=goal_of(**goal),
        input_shapes=parse_inputs(inputs),
        source_size=_frame_size(source_size),
        image=image,
        video=video,
        accuracy=load(accuracy_file, AccuracyReport) if accuracy_file else None,
        counting=counting,
        measure=measure,
        budget_s=measure_seconds,
        with_flips=with_reasons or report_file is not None,
        with_policies=with_policies,
    )
    with byte_progress(enabled=not as_json) as progress:
        answer = make_plan(request, progress=progress)
    _write(answer, out, report_file)
    if as_json:
        print_json(answer.report)
    else:
        _show(answer, with_reasons=with_reasons)
    if answer.report.chosen is None:
        raise _no_plan(answer)


def goal_of(
    *,
    objective: Objective,
    max_latency: float | None,
    min_fps: float | None,
    arrival: float | None,
    max_accuracy_drop: float,
    lambda1: float,
    farms: bool = False,
) -> Goal:
    """The goal that the options state; milliseconds become seconds here."""
    return Goal(
        objective=objective,
        max_latency_s=None if max_latency is None else max_latency / 1e3,
        min_fps=min_fps,
        arrival_fps=arrival,
        max_accuracy_drop_pp=max_accuracy_drop,
        lambda1_s_per_pp=lambda1,
        farms=farms,
    )


def limited(fleet: Fleet, field: str, values: tuple[str, ...], parse: Callable[[str], T]) -> Fleet:
    """``fleet`` with ``DEVICE=VALUE`` options as that field of its devices.

    Raises: ConfigError naming the option that cannot be read, or names no device.
    """
    devices: dict[str, Device] = {device.name: device for device in fleet.device}
    for text in values:
        name, equals, value = text.partition("=")
        option = f"--{field.replace('_', '-')} {text!r}"
        if not equals or name not in devices:
            raise ConfigError(
                f"{option} names no device of the fleet",
                hint=f"write DEVICE=VALUE with one of {', '.join(devices)}",
            )
        try:
            devices[name] = msgspec.structs.replace(devices[name], **{field: parse(value)})
        except ValueError:
            raise ConfigError(f"{option}: {value!r} is no number", hint="write a number") from None
    return msgspec.structs.replace(fleet, device=tuple(devices.values()))


def _size(text: str) -> str:
    parse_size(text)
    return text


def _count(text: str) -> int:
    """A count, also as 3e6 or 1.5M."""
    scale = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1:], 1.0)
    return round(float(text[:-1] if scale > 1 else text) * scale)


def _milliseconds(text: str) -> float:
    return float(text.removesuffix("ms"))


def _frame_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    shape = parse_shape(text)
    if len(shape) != 2:
        raise ConfigError(f"--source-size {text!r} has not two sides", hint="write it as 1280x720")
    return shape[0], shape[1]


def _check_targets(out: Path | None, report_file: Path | None) -> None:
    """Refuse what could not be written before the planning, not after it."""
    for path, suffix in ((out, ".json"), (report_file, ".html")):
        if path is None:
            continue
        if path.suffix != suffix or path.is_dir():
            raise ConfigError(f"{path} is no {suffix} file", hint=f"let its name end in {suffix}")
        if not path.parent.is_dir():
            raise ConfigError(f"there is no folder {path.parent}", hint="make it, or check it")


def _write(answer: PlanAnswer, out: Path | None, report_file: Path | None) -> None:
    if out is not None:
        save(answer.report, out)
    if report_file is not None:
        from edgekit.cli.plan_page import page_of  # matplotlib, only where it is used

        write_atomically(page_of(answer).encode(), report_file)
        warn(f"report: {report_file}")


def _show(answer: PlanAnswer, *, with_reasons: bool) -> None:
    show_answer(answer)
    if answer.report.policies:
        show_policies(answer.report)
    if with_reasons:
        say("")
        say("why")
        # Refusals and notes were shown already.
        for sentence in explain(msgspec.structs.replace(answer.report, refusals=(), notes=())):
            say(f"  {sentence}")


def _no_plan(answer: PlanAnswer) -> PlanError:
    reasons = "; ".join(say_binding(one) for one in answer.report.binding)
    return PlanError(
        f"no plan keeps all the limits{': ' + reasons if reasons else ''}",
        hint="loosen the limit that is nearest, or use a faster device or link",
    )
