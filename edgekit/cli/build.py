"""``edgekit build``: a model becomes a bundle, one verified shard per device."""

from collections import Counter
from pathlib import Path
from typing import Any

import click

from edgekit.builder.build import BuildResult, build_bundle
from edgekit.builder.load import LoadedModel
from edgekit.cli.build_engines import engine_profiles, show_engines
from edgekit.cli.build_lowering import LoweringOptions, lowering_of, lowering_options
from edgekit.cli.build_order import given_order, planned_order, refuse_contradiction
from edgekit.cli.lowering_show import loss_table_shown, show_lowering
from edgekit.cli.options import fleet_from, parse_inputs
from edgekit.cli.render import byte_progress, print_json, say, show_facts, show_table, warn
from edgekit.errors import ConfigError
from edgekit.spec.card import ModelCard
from edgekit.spec.codec import RAW
from edgekit.spec.plan import FRAME_CUT, Cut, Plan
from edgekit.units import format_bytes, format_count
from edgekit.vision.cards import resolve_card

_ROOM = 60


@click.command("build")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--fleet", type=click.Path(path_type=Path), help="fleet.toml: devices and links.")
@click.option("--devices", help="Instead of --fleet: how many equal devices on this machine.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--cut",
    "cuts",
    multiple=True,
    help="auto (default), none, or TENSOR[,TENSOR]; one --cut per border between devices. First "
    "of them, frame: the first device only films and sends pictures (--codec jpeg-90).",
)
@click.option(
    "--share",
    is_flag=True,
    help="With --cut frame: the first device has the whole model too, and answers frames itself "
    "when that is sooner or the others have no room, and all while they are out of reach.",
)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    help="[DEVICE=]S3, S3+Ss, S3+S1 or S3+Ss+S1: the branches of re-parameterizable blocks that "
    "stay live (default S3, or what the fleet file says); none: leave the model as it came.",
)
@click.option(
    "--at",
    "exceptions",
    multiple=True,
    help="[DEVICE:]BLOCKS=STRATEGY for some blocks, such as 0-5=S3+Ss; the last match wins.",
)
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    help="plan.json of edgekit plan: its devices, cuts and strategies.",
)
@click.option(
    "--choice", default=0, type=click.IntRange(0), help="Of --plan, this alternative instead."
)
@click.option("--input", "inputs", multiple=True, help="NAME=1x3x416x416 for open dimensions.")
@click.option("--decoder", help="Card for a bare model: yolox, nanodet, …; none: build without.")
@lowering_options
@click.option("--force", is_flag=True, help="Replace an older bundle at --out.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    model: Path,
    fleet: Path | None,
    devices: str | None,
    out: Path,
    cuts: tuple[str, ...],
    share: bool,
    strategies: tuple[str, ...],
    exceptions: tuple[str, ...],
    plan_file: Path | None,
    choice: int,
    inputs: tuple[str, ...],
    decoder: str | None,
    precisions: tuple[str, ...],
    codecs: tuple[str, ...],
    force: bool,
    as_json: bool,
    **lowering: Any,
) -> None:
    """Cut MODEL (.onnx or .pt) into one shard per device, prove them equal, write a bundle."""
    if (fleet is None) == (devices is None):
        raise ConfigError(
            "build needs to know the devices, once",
            hint="give --fleet fleet.toml, or --devices 2 for two equal local ones",
        )
    devices_of = fleet_from(fleet, devices or "")
    if plan_file is None:
        order = given_order(
            devices_of, cuts, strategies, exceptions, choice, precisions=precisions, codecs=codecs,
            share=share,
        )  # fmt: skip
    else:
        refuse_contradiction(
            cuts, strategies, exceptions, precisions, codecs, ("--share",) if share else ()
        )
        order = planned_order(plan_file, devices_of, choice)
    options = LoweringOptions(precision=order.precision, codecs=order.codecs, **lowering)
    folder = fleet.parent if fleet is not None else Path()
    lowered = lowering_of(options, order.fleet, folder, decoder)
    profiles = engine_profiles(order.fleet, folder)
    found: list[str] = []

    def card_for(loaded: LoadedModel) -> ModelCard | None:
        if decoder == "none":
            found.append("none (--decoder none): devices cannot decode this bundle's outputs")
            return None
        card, how = resolve_card(
            loaded.path, decoder=decoder, inputs=loaded.inputs, outputs=loaded.outputs
        )
        found.append(how)
        return card

    with byte_progress(enabled=not as_json) as progress, loss_table_shown(as_json=as_json):
        result = build_bundle(
            model,
            fleet=order.fleet,
            out=out,
            rule=order.rule,
            fusion=order.fusion,
            card=card_for,
            input_shapes=parse_inputs(inputs),
            model_sha256=order.model_sha256,
            check=order.check,
            lowering=lowered,
            forwarding=order.forwarding,
            profiles=profiles,
            force=force,
            progress=progress,
        )
    for note in order.notes:
        warn(f"note: {note}")
    if as_json:
        for note in (*result.notes, f"model card: {found[0]}"):
            warn(note)
        print_json(_as_json(result, found[0]))
    else:
        _show(result, found[0])


def _as_json(result: BuildResult, card: str) -> dict[str, Any]:
    plan, report = result.bundle.plan, result.report
    equal, compared = report.bit_equal(report.exact_level)
    return {
        "bundle": str(result.bundle.folder),
        "deployment": result.bundle.deployment_id,
        "model": plan.model,
        "model_sha256": plan.model_sha256,
        "rule": plan.rule,
        "card": card,
        "cuts": [
            {"tensors": cut.names, "bytes": cut.nbytes, "work_flop_before": cut.work_flop_before}
            for cut in plan.cuts
        ],
        "placements": list(plan.placements),
        "folded": result.folded,
        "lowering": result.lowering,
        "engines": list(result.engines.values()),
        "verified": {
            "outputs_compared": compared,
            "bit_equal": equal,
            "max_relative_error_extended": report.worst("extended"),
            "max_relative_error_all": report.worst("all"),
        },
        "notes": list(result.notes),
    }


def _show(result: BuildResult, card: str) -> None:
    bundle, report = result.bundle, result.report
    for note in result.notes:
        say(f"note: {note}")
    show_facts(
        {
            "bundle": f"{bundle.folder} (deployment {bundle.deployment_id})",
            "card": card,
            "folded": _folded(result),
            "verified": report.said + (" (limit 1e-5)" if result.lowering is None else ""),
        }
    )
    show_table("shards", ("device", "shard", "work", "share", "weights", "sends on"), _rows(result))
    show_engines(result)
    if result.lowering is not None:
        show_lowering(result.lowering)


def _folded(result: BuildResult) -> str:
    """What became of the blocks, in one line."""
    if result.folded is None:
        return "nothing (see edgekit inspect for the blocks of a model)"
    counts = Counter(str(block.strategy) for block in result.folded.blocks)
    return (
        f"{len(result.folded.blocks)} blocks ("
        + ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        + f"), {result.folded.ops_before} operators became {result.folded.ops_after}"
    )


def _rows(result: BuildResult) -> list[tuple[str, ...]]:
    plan: Plan = result.bundle.plan
    total = max(1, result.workload.work_flop)
    return [
        (
            placement.device,
            placement.shard or "none",
            format_count(placement.work_flop, "flop"),
            f"{placement.work_flop / total:.1%}",
            format_bytes(placement.weight_bytes),
            _sent(plan, index),
        )
        for index, placement in enumerate(plan.placements)
    ]


def _sent(plan: Plan, index: int) -> str:
    """What leaves a device."""
    if index == len(plan.cuts):
        return "answers"
    cut, codec = plan.cuts[index], plan.codec_of(index)
    if cut == FRAME_CUT:
        which = "frames that it does not answer itself" if plan.shares_frames else "frames"
        return f"{which} ({'raw' if codec == RAW else codec.name})"
    return f"{_short(cut)} ({format_bytes(cut.nbytes)})"


def _short(cut: Cut) -> str:
    """Its tensors; the first and how many more, where a table has no room for all."""
    first, *more = cut.names
    return str(cut) if len(str(cut)) <= _ROOM else f"{first} and {len(more)} more"
