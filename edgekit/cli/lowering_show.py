"""What became of precisions, for people: of a build's shards, or of one model.

In:  a LoweringReport, rows, or losses.  Out: lines and tables.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edgekit.builder.quantize.gate import PrecisionRow
from edgekit.builder.quantize.loss import TensorLoss
from edgekit.builder.quantize.score import AccuracyDrop
from edgekit.builder.quantize.shard_gate import TooInaccurateError
from edgekit.builder.quantize.shard_report import LoweringReport, ShardReport
from edgekit.cli.render import say, show_facts, show_table, warn
from edgekit.units import format_bytes

_MOST_ROWS = 12
_COLUMNS = ("device", "precision", "times fp32", "accuracy", "calibrator", "file", "memory")


def show_lowering(report: LoweringReport) -> None:
    """Each shard's precision with its gain and loss, then the chain as a whole."""
    show_table("precision", _COLUMNS, [_row(shard) for shard in report.shards], left=2)
    for shard in report.shards:
        say(f"{shard.device}: {'; '.join(shard.reasons)}")
        kept = Counter(one.reason for one in shard.float_operators)
        for reason, count in kept.most_common():
            say(f"    {count} operator{'s' * (count > 1)} in float: {reason}")
    facts = {
        "crossing": " | ".join(report.codecs) or "nothing",
        "fidelity": ", ".join(f"{name} {db:.1f} dB" for name, db in report.fidelity_db.items()),
        "proved": f"{report.bit_equal} of {report.outputs_compared} outputs of the shards bit-equal"
        " to the lowered model in one piece",
    }
    if report.calibration:
        facts["calibrated"] = f"on {report.calibration}"
    if report.drop is not None:
        facts["accuracy"] = f"{_said(report.drop)}; {report.max_drop_pp:g} pp are allowed"
    show_facts(facts)
    for note in report.notes:
        warn(f"note: {note}")


def show_precisions(rows: Sequence[PrecisionRow]) -> None:
    """One model in each precision."""
    show_table(
        "precisions",
        ("precision", "file", "memory", "ms", "accuracy"),
        [
            (
                row.precision,
                format_bytes(row.nbytes),
                "not measured" if row.memory_bytes is None else format_bytes(row.memory_bytes),
                "not known here" if row.time_s is None else f"{row.time_s * 1e3:.2f}",
                "as it was" if row.precision == "fp32" else _change(row.drop),
            )
            for row in rows
        ],
    )


@contextmanager
def loss_table_shown(*, as_json: bool) -> Iterator[None]:
    """Shows what was lost where, worst first, before a refusal for accuracy goes on its way."""
    try:
        yield
    except TooInaccurateError as error:
        if not as_json:
            show_losses(error.losses)
        raise


def show_losses(losses: Sequence[TensorLoss]) -> None:
    """The worst layers."""
    show_table(
        "what int8 loses, worst first",
        ("operator", "type", "signal/noise dB", "of its own rounding dB"),
        [
            (loss.op, loss.op_type, f"{loss.sqnr_db:.1f}", f"{loss.own_db:.1f}")
            for loss in losses[:_MOST_ROWS]
        ],
        left=2,
    )


def _row(shard: ShardReport) -> tuple[str, ...]:
    return (
        shard.device,
        shard.precision,
        _speed(shard),
        "as it was" if shard.precision == "fp32" else _change(shard.drop_alone),
        shard.calibrator + (", biases corrected" if shard.bias_corrected else "") or "none",
        _before_after(shard.fp32_bytes, shard.bytes),
        _before_after(shard.fp32_memory_bytes, shard.memory_bytes),
    )


def _speed(shard: ShardReport) -> str:
    if shard.precision == "fp32":
        return "1"
    speed_up = shard.speed_up
    return f"{speed_up:.2f}" if speed_up else "not known"


def _before_after(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return "not measured"
    return f"{format_bytes(before)} -> {format_bytes(after)}"


def _change(drop: AccuracyDrop | None) -> str:
    if drop is None:
        return "not known"
    return f"{-drop.drop_pp:+.2f} pp ({-drop.high_pp:+.2f} to {-drop.low_pp:+.2f})"


def _said(drop: AccuracyDrop) -> str:
    return (
        f"{drop.metric} on {drop.picture_count} pictures: {drop.before:.4f} in fp32, "
        f"{drop.after:.4f} as built, {_change(drop)}"
    )
