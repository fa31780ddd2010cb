"""``edgekit inspect``: what is in a model, what of it folds, and where it may be cut."""

from collections import Counter
from pathlib import Path
from typing import Any

import click

from edgekit.builder.fold.onnx_cost import ModelCosts, cost_strategies
from edgekit.builder.fold.onnx_find import Findings, find_blocks
from edgekit.builder.fuse import folded_whole
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.workload import workload_of
from edgekit.cli.block_tables import blocks_as_json, show_blocks
from edgekit.cli.options import parse_inputs
from edgekit.cli.render import byte_progress, print_json, say, show_facts, show_table, warn
from edgekit.errors import ConfigError, ModelError
from edgekit.planner.cuts import CutSet, legal_cuts
from edgekit.planner.dag import Dag
from edgekit.planner.kernel_groups import inner_names
from edgekit.spec.plan import Cut
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import Workload
from edgekit.units import format_bytes, format_count

_SHOWN = 40


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--input", "inputs", multiple=True, help="NAME=1x3x416x416 for open dimensions.")
@click.option(
    "--cuts",
    "which",
    default=str(_SHOWN),
    show_default=True,
    help="Which cuts to list: all, single, or at most N (fewest bytes first).",
)
@click.option(
    "--max-tensors",
    default=4,
    show_default=True,
    type=click.IntRange(1, 16),
    help="Look for cuts that at most this many tensors cross.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    model: Path, inputs: tuple[str, ...], which: str, max_tensors: int, as_json: bool
) -> None:
    """Show operators, parameters, work, traffic, blocks and legal cuts of MODEL (.onnx or .pt)."""
    _check_which(which)
    with byte_progress(enabled=not as_json) as progress:
        progress("load", 0, 0)
        loaded = load_model(model, input_shapes=parse_inputs(inputs))
        workload = workload_of(loaded)
        progress("find blocks", 0, 0)
        findings = find_blocks(loaded)
        costs = _costs(loaded, findings)
        progress("find legal cuts", 0, 0)
        # As a build would cut it: blocks are folded, and a cut inside one would prevent that.
        whole = workload if costs is None else workload_of(folded_whole(loaded, findings))
        found = legal_cuts(whole, max_tensors=max_tensors)
    if as_json:
        for note in loaded.notes:
            warn(note)
        print_json(inspection(loaded, workload, found, whole) | blocks_as_json(findings, costs))
        return
    _show_model(loaded, workload)
    _show_operators(workload)
    show_blocks(findings, costs)
    if whole is not workload:
        say("")
        say("cuts are those of the model with its blocks folded; they hold under every strategy")
    _show_cuts(whole, found, which)


def _costs(loaded: LoadedModel, findings: Findings) -> ModelCosts | None:
    """What the strategies cost; none, with a warning, where numbers define no function."""
    if not findings.blocks:
        return None
    try:
        return cost_strategies(loaded, findings)
    except ModelError as error:
        warn(f"the costs of the strategies are not known: {error}")
        return None


def inspection(
    loaded: LoadedModel, workload: Workload, found: CutSet, whole: Workload
) -> dict[str, Any]:
    """What ``inspect --json`` prints of operators, and the cuts ``found`` in ``whole``."""
    return {
        "model": loaded.name,
        "sha256": loaded.source_sha256,
        "opset": max(
            (entry.version for entry in loaded.proto.opset_import if not entry.domain), default=0
        ),
        "inputs": [_tensor(spec) for spec in loaded.inputs],
        "outputs": [_tensor(spec) for spec in loaded.outputs],
        "parameters": workload.parameter_count,
        "work_flop": workload.work_flop,
        "traffic_bytes": workload.traffic_bytes,
        "intensity_flop_per_byte": workload.intensity_flop_per_byte,
        "operators": list(workload.ops),
        "cuts": [_cut(cut, whole) for cut in found.cuts],
        "cuts_complete_to_tensors": found.complete_to,
        "cuts_max_tensors": found.max_tensors,
        "notes": list(loaded.notes),
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": spec.shape, "bytes": spec.nbytes}


def _cut(cut: Cut, workload: Workload) -> dict[str, Any]:
    return {
        "tensors": [_tensor(spec) for spec in cut.tensors],
        "bytes": cut.nbytes,
        "work_flop_before": cut.work_flop_before,
        "work_share_before": cut.work_flop_before / max(1, workload.work_flop),
        "op_count_before": cut.op_count_before,
    }


def _check_which(which: str) -> None:
    if which not in {"all", "single"} and not which.isdigit():
        raise ConfigError(
            f"--cuts {which!r} is not a choice", hint="write --cuts all, --cuts single or --cuts 20"
        )


def _show_model(loaded: LoadedModel, workload: Workload) -> None:
    show_facts(
        {
            "model": f"{loaded.path} (sha256 {loaded.source_sha256[:16]}…)",
            "inputs": "; ".join(map(str, loaded.inputs)),
            "outputs": "; ".join(map(str, loaded.outputs)),
            "operators": f"{len(workload.ops)}",
            "parameters": format_count(workload.parameter_count),
            "work": f"{format_count(workload.work_flop, 'flop')} per frame",
            "traffic": f"{format_bytes(workload.traffic_bytes)} per frame, operators one by one",
            "intensity": f"{workload.intensity_flop_per_byte:.2f} flop/byte",
        }
    )
    for note in loaded.notes:
        say(f"note: {note}")


def _show_operators(workload: Workload) -> None:
    counts = Counter(op.op_type for op in workload.ops)
    work, traffic = Counter[str](), Counter[str]()
    for op in workload.ops:
        work[op.op_type] += op.work_flop
        traffic[op.op_type] += op.traffic_bytes
    total = max(1, workload.work_flop)
    rows = [
        (
            name,
            f"{counts[name]}",
            format_count(work[name], "flop"),
            f"{work[name] / total:.1%}",
            format_bytes(traffic[name]),
        )
        for name in sorted(counts, key=lambda name: (-work[name], name))
    ]
    say("")
    show_table("operators", ("type", "count", "work", "share", "traffic"), rows)


def _show_cuts(workload: Workload, found: CutSet, which: str) -> None:
    cuts = [cut for cut in found.cuts if which != "single" or len(cut.tensors) == 1]
    if which.isdigit() and len(cuts) > int(which):
        cheapest = sorted(cuts, key=lambda cut: (cut.nbytes, len(cut.tensors)))[: int(which)]
        cuts = [cut for cut in cuts if cut in cheapest]
    inside = inner_names(Dag(workload))
    total = max(1, workload.work_flop)
    rows = [
        (
            ",".join(cut.names),
            "; ".join("x".join(map(str, spec.shape)) or "scalar" for spec in cut.tensors),
            "yes" if inside & set(cut.names) else "",
            format_bytes(cut.nbytes),
            f"{cut.work_flop_before / total:.1%}",
            f"{cut.op_count_before}",
        )
        for cut in cuts
    ]
    say("")
    columns = ("cut", "shapes", "inside a kernel", "bytes", "work before", "operators before")
    show_table("legal cuts, in the order of the model", columns, rows, left=3)
    say(_coverage(found, len(cuts)))


def _coverage(found: CutSet, shown_count: int) -> str:
    text = (
        f"{shown_count} of {len(found.cuts)} legal cuts shown ({found.single_count} of one tensor)"
    )
    if shown_count < len(found.cuts):
        text += "; --cuts all lists the rest"
    if not found.is_complete:
        text += (
            f"; the search was bounded: of cuts of more than {found.complete_to} tensors "
            "some are missing (any legal one can still be named with --cut)"
        )
    return text
