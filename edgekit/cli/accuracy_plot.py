"""An accuracy report drawn: what sub-models lose by share of the work, and codecs by bytes."""

import io

from matplotlib.figure import Figure

from edgekit.spec.accuracy import AccuracyReport


def drawn(report: AccuracyReport, kind: str) -> bytes:
    """The picture as a file of that kind: png, pdf or svg."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for precision in dict.fromkeys(one.precision for one in report.shard):
        for strategy in dict.fromkeys(one.strategy for one in report.shard):
            rows = [
                one
                for one in report.shard
                if (one.precision, one.strategy) == (precision, strategy) and not one.after
            ]
            rows.sort(key=lambda one: one.work_share)
            left.errorbar(
                [100 * one.work_share for one in rows],
                [one.drop_pp for one in rows],
                yerr=[
                    [max(0.0, one.drop_pp - one.low_pp) for one in rows],
                    [max(0.0, one.high_pp - one.drop_pp) for one in rows],
                ],
                marker="o", capsize=3, label=f"{precision} {strategy}",
            )  # fmt: skip
    left.set(
        xlabel="work above the cut [%]", ylabel="accuracy lost [pp]",
        title=f"{report.model}: first part in int8, rest in fp32",
    )  # fmt: skip
    for codec in dict.fromkeys(one.codec for one in report.codec):
        marks = [one for one in report.codec if one.codec == codec and one.element_count]
        right.plot(
            [one.wire_bytes / one.element_count for one in marks],
            [one.drop_pp for one in marks],
            "o", label=codec,
        )  # fmt: skip
    right.set(xlabel="bytes per element", ylabel="accuracy lost [pp]", title="codecs, every cut")
    for axes in (left, right):
        axes.axhline(0.0, color="grey", linewidth=0.5)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    held = io.BytesIO()
    figure.savefig(held, format=kind, dpi=120)
    return held.getvalue()
