"""Figures of the codec bench: rate against what becomes of detections, and the time of a hop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from tests.bench.codecs_rows import MBITS, Row

COLORS = {"JPEG": "#8c8c8c", "WebP": "#444444", "small JPEG": "#d8a35d", "small WebP": "#b5651d"}
MARKERS = {"fp16": "s", "uint8": "o", "uint8-channel": "^"}


def plot_rates(
    rows: Sequence[Row], pictures: Sequence[Mapping[str, Any]], folder: Path
) -> list[Path]:
    """One figure a model: a column for each cut, agreement above and AP50 below."""
    written = []
    for model in dict.fromkeys(row.model for row in rows):
        cuts = list(dict.fromkeys(row.cut for row in rows if row.model == model))
        figure, axes = pyplot.subplots(
            2, len(cuts), figsize=(5 * len(cuts), 8), sharex=True, sharey="row", squeeze=False
        )
        for column, cut in enumerate(cuts):
            mine = [row for row in rows if row.model == model and row.cut == cut]
            for line, value in enumerate(("agree_percent", "ap50_pp")):
                _curve(axes[line][column], value, mine, pictures, model)
            raw_bytes = mine[0].raw_bytes
            axes[0][column].set_title(f"{cut[:34]}\n{raw_bytes / 1e3:.0f} kB as floats", fontsize=9)
            axes[1][column].set_xlabel("kB a frame")
        axes[0][0].set_ylabel("boxes in common with the uncut model [%]")
        axes[1][0].set_ylabel("AP50 of persons, change [pp]")
        axes[0][-1].legend(fontsize=7, loc="lower right")
        figure.suptitle(f"{model}: what crosses the link, and what becomes of the detections")
        figure.tight_layout()
        written.append(folder / f"codecs-{model}.png")
        figure.savefig(written[-1], dpi=110)
        pyplot.close(figure)
    return written


def _curve(
    axis: Any, value: str, rows: Sequence[Row], pictures: Sequence[Mapping[str, Any]], model: str
) -> None:
    for kind, color in COLORS.items():
        points = sorted(
            (one["nbytes"] / 1e3, one[value])
            for one in pictures
            if one["model"] == model and one["kind"] == kind
        )
        axis.plot(*zip(*points, strict=True), color=color, lw=1, marker=".", ms=4, label=kind)
    for packed in ("klt", "part of klt"):
        points = sorted(
            (row.nbytes / 1e3, getattr(row, value))
            for row in rows
            if row.codec.startswith("klt:") and (" in " in row.codec) == (packed != "klt")
            and "folded" not in row.codec
        )  # fmt: skip
        if points:
            dash = "-" if packed == "klt" else ":"
            axis.plot(*zip(*points, strict=True), "C0" + dash, marker="o", ms=5, label=packed)
    for element, marker in MARKERS.items():
        for row in rows:
            if row.codec == f"{element}+zstd":
                point = (row.nbytes / 1e3, getattr(row, value))
                axis.plot(*point, marker, color="C3", ms=7, label=row.codec)
    axis.set_xscale("log")
    axis.grid(alpha=0.3)
    if value == "agree_percent":
        axis.set_ylim(40, 101)
    else:
        axis.set_ylim(-12, 4)


def plot_times(
    rows: Sequence[Row], pictures: Sequence[Mapping[str, Any]], folder: Path
) -> list[Path]:
    """One figure: encode + transfer + decode of each codec of each model's first cut."""
    models = list(dict.fromkeys(row.model for row in rows))
    figure, axes = pyplot.subplots(
        len(models), len(MBITS), figsize=(15, 3.4 * len(models)), squeeze=False
    )
    for line, model in enumerate(models):
        first = next(row.cut for row in rows if row.model == model)
        mine: list[tuple[str, Mapping[int, float]]] = [
            (f"{row.codec} ({row.agree_percent:.0f} %)", row.total_ms)
            for row in rows
            if row.model == model and row.cut == first and "+lz4" not in row.codec
            and " in " not in row.codec
        ]  # fmt: skip
        mine += [
            (f"{one['kind']} {one['quality']} ({one['agree_percent']:.0f} %)", one["total_ms"])
            for one in pictures
            if one["model"] == model and one["quality"] in (75, 90)
        ]
        for column, mbit in enumerate(MBITS):
            axis = axes[line][column]
            axis.barh([name for name, _ in mine], [total[mbit] for _, total in mine], color="C0")
            axis.invert_yaxis()
            axis.tick_params(axis="y", labelsize=6)
            axis.set_title(f"{model}, {first[:20]}, {mbit} Mbit/s", fontsize=9)
            axis.set_xlabel("encode + transfer + decode [ms] (boxes in common)", fontsize=8)
    figure.tight_layout()
    path = folder / "codecs-times.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return [path]
