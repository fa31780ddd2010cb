"""An accuracy report as text for people."""

from edgekit.builder.accuracy.measure import range_words
from edgekit.cli.render import say, show_facts, show_table
from edgekit.spec.accuracy import AccuracyReport, CodecLoss, Loss, ShardLoss
from edgekit.units import format_bytes, format_duration


def show_report(report: AccuracyReport, strategy_count: int) -> None:
    """What was measured, and whether the strategies differ."""
    show_facts({
        "model": report.model,
        "in fp32": f"{report.metric} {report.baseline_percent:.2f} % on "
                   f"{report.evaluation_count} pictures of {report.evaluation}",
        "calibrated": f"on {report.calibration_count} frames of {report.calibration}, for "
                      f"{report.target}",
        "measured on": f"{report.machine}, "
                       + ", ".join(f"{name} {one}" for name, one in report.versions.items()),
    })  # fmt: skip
    columns = ("what", "loses pp", "95 % of the time", "of the work")
    rows = [
        (f"{one.precision} {one.strategy} {range_words(one.after, one.until)}", *_loss(one),
         f"{one.work_share:.0%}")
        for one in report.shard
    ]  # fmt: skip
    if rows:
        show_table("sub-models, the rest in fp32", columns, rows)
    if report.codec:
        _show_codecs(report)
    if report.frame:
        show_table(
            "the whole model on coded frames",
            columns[:3],
            [(one.codec, *_loss(one)) for one in report.frame],
        )
    for line in strategy_words(report, strategy_count):
        say(line)


def _show_codecs(report: AccuracyReport) -> None:
    rows = [
        (one.cut, one.codec, format_bytes(one.wire_bytes), f"{_per_element(one):.2f}",
         format_duration(one.encode_s), format_duration(one.decode_s), *_loss(one))
        for one in report.codec
        if one.element_count
    ]  # fmt: skip
    columns = ("cut", "codec", "a frame", "bytes each", "encode", "decode", "loses pp",
               "95 % of the time")  # fmt: skip
    show_table("activations between two halves", columns, rows, left=2)


def _per_element(one: CodecLoss) -> float:
    return one.wire_bytes / one.element_count


def _loss(one: Loss) -> tuple[str, str]:
    return f"{one.drop_pp:.2f}", f"{one.low_pp:.2f} to {one.high_pp:.2f}"


def strategy_words(report: AccuracyReport, strategy_count: int) -> list[str]:
    """Whether fusion strategies differ in accuracy, or what is folded only matters for speed."""
    by_part: dict[tuple[str, str, str], list[ShardLoss]] = {}
    for one in report.shard:
        by_part.setdefault((one.precision, one.after, one.until), []).append(one)
    several = {part: rows for part, rows in by_part.items() if len(rows) > 1}
    if strategy_count < 2:
        return ["strategies: the model has no block that could be folded in several ways"]
    if not several:
        return []
    differing = [part for part, rows in several.items() if _differ(rows)]
    widest = max(_spread(rows) for rows in several.values())
    if not differing:
        return [
            f"the strategies differ by at most {widest:.2f} pp, which the intervals do not tell "
            "from nothing: everything is folded"
        ]
    return [
        f"the strategies differ in {precision} {range_words(after, until)}: "
        + ", ".join(
            f"{one.strategy} {one.drop_pp:.2f} pp" for one in several[precision, after, until]
        )
        for precision, after, until in differing
    ]


def _differ(rows: list[ShardLoss]) -> bool:
    """Whether two of them have intervals that do not meet."""
    return max(one.low_pp for one in rows) > min(one.high_pp for one in rows)


def _spread(rows: list[ShardLoss]) -> float:
    drops = [one.drop_pp for one in rows]
    return max(drops) - min(drops)
