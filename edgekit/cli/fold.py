"""``edgekit fold``: the branches of a model become fewer convolutions, chosen block by block."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import onnx

from edgekit.builder.fold.low_rank_onnx import LowRankReport, low_rank_model
from edgekit.builder.fold.onnx_find import Findings, find_blocks
from edgekit.builder.fold.onnx_fold import FoldReport, fold_model
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import seeded_inputs, to_bytes
from edgekit.builder.race import race
from edgekit.cli.options import parse_inputs
from edgekit.cli.outputs import check_onnx_out
from edgekit.cli.render import (
    ShowProgress,
    byte_progress,
    print_json,
    say,
    show_facts,
    show_table,
    warn,
)
from edgekit.errors import ConfigError
from edgekit.runtime.ort import OrtSession
from edgekit.spec.base import write_atomically
from edgekit.spec.fusion import FusionRule, FusionStrategy, parse_strategy
from edgekit.units import format_bytes

_MOST_ROWS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What was made, and what it does."""

    loaded: LoadedModel
    findings: Findings
    report: FoldReport
    low_rank: LowRankReport | None
    out: Path
    byte_count: int
    latencies_s: tuple[float, ...]
    """Before and after; empty if they were not measured."""


@click.command("fold")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--strategy",
    help="S3, S3+Ss, S3+S1, S3+Ss+S1: the branches that stay live (default: the least work, S3).",
)
@click.option(
    "--blocks",
    help="Only these blocks, such as 0-5,head.*; the others keep all their branches live.",
)
@click.option(
    "--at",
    "exceptions",
    multiple=True,
    help="BLOCKS=STRATEGY for some blocks, such as 0-5=S3+Ss; the last that matches wins.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="ONNX file to write.")
@click.option("--input", "inputs", multiple=True, help="NAME=1x3x416x416 for open dimensions.")
@click.option(
    "--conv-bn/--no-conv-bn",
    default=True,
    help="Also fold BatchNorms and constants per channel outside blocks (default).",
)
@click.option("--low-rank-energy", type=float, help="Then factorise large layers: weights to keep.")
@click.option("--low-rank-rank", type=int, help="The same, with this width between the factors.")
@click.option("--low-rank-anyway", is_flag=True, help="Factorise also where it is not faster.")
@click.option(
    "--latency-s",
    default=2.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="How long to measure before against after; 0: not at all.",
)
@click.option("--force", is_flag=True, help="Replace an older file at --out.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(model: Path, out: Path, force: bool, as_json: bool, **choices: Any) -> None:
    """Fold the multi-branch blocks of MODEL (.onnx or .pt), prove the result equal, write it.

    See the blocks, and what each strategy costs, with `edgekit inspect MODEL`.
    """
    check_onnx_out(out, model, force=force)
    with byte_progress(enabled=not as_json) as progress:
        done = _fold(model, out, progress, **choices)
    if as_json:
        for note in done.loaded.notes:
            warn(note)
        print_json(_as_json(done))
    else:
        _show(done)


def rules_of(
    findings: Findings, strategy: str | None, blocks: str | None, exceptions: tuple[str, ...]
) -> list[FusionRule]:
    """The options as rules, weakest first.

    Raises: ConfigError naming the option that cannot be read.
    """
    rules = []
    if blocks:
        kinds = (kind for block in findings.blocks for kind in block.live_kinds)
        rules.append(FusionRule(strategy=FusionStrategy(live=tuple(dict.fromkeys(kinds)))))
    if blocks or strategy:
        rules.append(FusionRule(strategy=parse_strategy(strategy or "S3"), blocks=blocks or "*"))
    for text in exceptions:
        part, equals, name = text.rpartition("=")
        if not equals or not part:
            raise ConfigError(f"--at {text!r} names no blocks", hint="write it like --at 0-5=S3+Ss")
        rules.append(FusionRule(strategy=parse_strategy(name), blocks=part))
    return rules


def _fold(
    model: Path,
    out: Path,
    progress: ShowProgress,
    *,
    strategy: str | None,
    blocks: str | None,
    exceptions: tuple[str, ...],
    inputs: tuple[str, ...],
    conv_bn: bool,
    low_rank_energy: float | None,
    low_rank_rank: int | None,
    low_rank_anyway: bool,
    latency_s: float,
) -> _Done:
    progress("load", 0, 0)
    loaded = load_model(model, input_shapes=parse_inputs(inputs))
    progress("fold and prove", 0, 0)
    findings = find_blocks(loaded)
    rules = rules_of(findings, strategy, blocks, exceptions)
    folded, report = fold_model(loaded, rules, conv_bn=conv_bn)
    proto, low_rank = folded.proto, None
    if low_rank_energy is not None or low_rank_rank is not None:
        proto, low_rank = low_rank_model(
            folded,
            energy=low_rank_energy,
            rank=low_rank_rank,
            force=low_rank_anyway,
            progress=progress,
        )
    progress("measure", 0, 0)
    data = to_bytes(proto)
    latencies_s = _latencies_s(loaded, proto, latency_s) if latency_s else ()
    write_atomically(data, out)
    return _Done(
        loaded=loaded,
        findings=findings,
        report=report,
        low_rank=low_rank,
        out=out,
        byte_count=len(data),
        latencies_s=latencies_s,
    )


def _latencies_s(loaded: LoadedModel, after: onnx.ModelProto, budget_s: float) -> tuple[float, ...]:
    """Median time of one frame before and after, turn by turn, one thread."""
    with TemporaryDirectory(prefix="edgekit-") as folder:
        sessions = []
        for name, proto in (("before", loaded.proto), ("after", after)):
            path = Path(folder) / f"{name}.onnx"
            path.write_bytes(to_bytes(proto))
            sessions.append(OrtSession(path))
        return race(sessions, seeded_inputs(loaded.inputs, 0), budget_s=budget_s)


def _as_json(done: _Done) -> dict[str, Any]:
    report, low_rank = done.report, done.low_rank
    before_s, after_s = done.latencies_s or (None, None)
    return {
        "model": done.loaded.name,
        "sha256": done.loaded.source_sha256,
        "out": str(done.out),
        "bytes": done.byte_count,
        "blocks": [
            {
                "name": block.name,
                "kind": block.kind,
                "strategy": str(block.strategy),
                "branches_folded": block.folded_count,
                "branches_live": block.live_count,
                "operators_before": block.ops_before,
                "operators_after": block.ops_after,
                "relative_error": block.relative_error,
            }
            for block in report.blocks
        ],
        "near_misses": [
            {"name": miss.name, "reason": miss.reason} for miss in done.findings.near_misses
        ],
        "conv_bn": report.conv_bn_count,
        "operators_before": report.ops_before,
        "operators_after": report.ops_after,
        "max_relative_error": report.max_relative_error,
        "latency_before_s": before_s,
        "latency_after_s": after_s,
        "low_rank": None
        if low_rank is None
        else {
            "layers": [layer.name for layer in low_rank.layers if layer.is_factorised],
            "work_flop_before": low_rank.before_flop,
            "work_flop_after": low_rank.after_flop,
            "output_errors": dict(low_rank.output_errors),
        },
        "notes": list(done.loaded.notes),
    }


def _show(done: _Done) -> None:
    report = done.report
    for note in done.loaded.notes:
        say(f"note: {note}")
    facts = {
        "written": f"{done.out} ({format_bytes(done.byte_count)})",
        "blocks": f"{len(report.blocks)} folded, {report.conv_bn_count} convolutions took what "
        "scaled their outputs",
        "operators": f"{report.ops_before} before, {report.ops_after} after",
        "proved": f"outputs moved by {report.max_relative_error:.1e} of their range (limit 1e-5)",
    }
    if done.low_rank is not None:
        count = sum(layer.is_factorised for layer in done.low_rank.layers)
        facts["low rank"] = (
            f"{count} layers factorised; that is not exact: outputs moved by "
            f"{done.low_rank.worst_error:.1e} of their range"
        )
    if done.latencies_s:
        before_s, after_s = done.latencies_s
        facts["latency"] = (
            f"{before_s * 1e3:.2f} ms before, {after_s * 1e3:.2f} ms after "
            f"({after_s / before_s:.2f} times), ONNX Runtime, one thread of this machine"
        )
    show_facts(facts)
    if report.blocks:
        _show_blocks(report)
    misses = done.findings.near_misses
    if misses:
        say(f"near misses: {len(misses)}; edgekit inspect says what stands in the way")


def _show_blocks(report: FoldReport) -> None:
    rows = [
        (
            f"{index}",
            block.name,
            str(block.strategy),
            f"{block.folded_count}",
            f"{block.live_count}",
            f"{block.ops_before} to {block.ops_after}",
            f"{block.relative_error:.1e}",
        )
        for index, block in enumerate(report.blocks[:_MOST_ROWS])
    ]
    columns = ("", "block", "strategy", "folded", "live", "operators", "relative error")
    say("")
    show_table("blocks", columns, rows, left=3)
    if len(report.blocks) > _MOST_ROWS:
        say(f"{_MOST_ROWS} of {len(report.blocks)} blocks shown; --json lists all")
