"""Draw the roofline of a device, and a model's kernel groups under it.

In: a DeviceProfile, and Dots from ``profiler.roofline``.  Out: a matplotlib Figure, or its file.
Both axes are logarithmic, so the memory roof is a slope of one. Needs matplotlib.
"""

import io
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, NullLocator

from edgekit.errors import ConfigError
from edgekit.profiler.roofline import Dot
from edgekit.spec.base import write_atomically
from edgekit.spec.profile import Ceiling, DeviceProfile
from edgekit.units import format_bytes, format_count, format_duration, parse_bandwidth

SIZE_INCH = (7.0, 4.5)
DOTS_PER_INCH = 200
FORMATS = (".png", ".pdf", ".svg")

_AXES = (0.1, 0.17, 0.645, 0.685)
"""Left, bottom, width, height as shares of the figure; the roofs' labels go to the right of it."""
_CONV_COLORS = {"1x1": "#0072B2", "kxk": "#E69F00", "depthwise": "#009E73"}
"""The same in every plot, so that two can be compared; Okabe and Ito's colour-blind palette."""
_OTHER_COLORS = ("#CC79A7", "#56B4E9", "#D55E00")
_INK, _PALE, _FAINT, _GRID = "#111111", "#555555", "#8a8a8a", "#e6e6e6"
_OTHER = "other"
_LEAST_SHARE = 0.001
"""Kinds of kernel that do less than this share of the work have no colour of their own."""
_AREA_OF_ALL, _LEAST_AREA = 1600.0, 9.0
"""Area of a dot [square points] that holds all the work, and of the smallest."""
_LINE_LENGTH, _NAME_LENGTH = 112, 32
_LABEL_GAP = 0.085
"""Least distance between labels, as a share of the height of the axes."""


def draw_roofline(
    profile: DeviceProfile,
    ceiling: Ceiling,
    dots: Sequence[Dot] = (),
    *,
    model: str = "",
) -> Figure:
    """The roofs of ``profile``, ``ceiling`` in front, with ``dots`` sized by their share of work.

    Returns: a figure of 7 x 4.5 inches (1400 x 900 px as PNG). Groups without arithmetic have no
    place on logarithmic axes; the line at the bottom says how much traffic they move.
    """
    shown = [dot for dot in dots if dot.work_flop > 0 and dot.traffic_bytes > 0]
    figure = Figure(figsize=SIZE_INCH, dpi=DOTS_PER_INCH)
    axes = figure.add_axes(_AXES)
    _frame(axes, profile, shown)
    _draw_memory(axes, profile, ceiling)
    _draw_ceilings(axes, profile, ceiling)
    if shown:
        _draw_dots(axes, shown)
    _write_title(figure, profile, model)
    _write_summary(figure, ceiling, dots, shown)
    return figure


def save_figure(figure: Figure, path: Path, *, overwrite: bool = False) -> None:
    """Write ``figure`` at ``path``, whole or not at all; PNG, PDF or SVG by its suffix.

    Raises: ConfigError as check_target.
    """
    check_target(path, overwrite=overwrite)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:], dpi=DOTS_PER_INCH)
    write_atomically(drawn.getvalue(), path)


def check_target(path: Path, *, overwrite: bool = False) -> None:
    """Refuse, before any work is done, a path that save_figure could not or should not write.

    Raises: ConfigError for another suffix, a missing folder, or a file that is there already.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(
            f"a plot cannot be written as {path.name!r}", hint=f"end it in {', '.join(FORMATS)}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}", hint="make it, or check the path")
    if path.is_dir() or (path.exists() and not overwrite):
        raise ConfigError(f"{path} exists", hint="choose another name, or allow it with --force")


def _frame(axes: Axes, profile: DeviceProfile, shown: Sequence[Dot]) -> None:
    """Limits and ticks, so that every ridge point and every dot is inside."""
    ridges = [profile.ridge_flop_per_byte(one) for one in profile.ceiling]
    abscissae = [*ridges, *(dot.intensity_flop_per_byte for dot in shown)]
    left, right = min(0.5, *abscissae) / 2, max(abscissae) * 4
    heights = [
        *(one.flop_per_s for one in profile.ceiling),
        *(dot.flop_per_s for dot in shown),
        left * profile.memory_bytes_per_s,
    ]
    axes.set(xscale="log", yscale="log", xlim=(left, right))
    axes.set_ylim(min(heights) / 1.6, max(heights) * 2.5)
    axes.set_xlabel("operational intensity [flop/byte]", fontsize=8.5)
    axes.set_ylabel("attainable performance [flop/s]", fontsize=8.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=8, length=3, color=_FAINT)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_memory(axes: Axes, profile: DeviceProfile, front: Ceiling) -> None:
    """The memory roofs as slopes: bold up to the front ceiling, faint on to the highest."""
    left = axes.get_xlim()[0]
    top = max(one.flop_per_s for one in profile.ceiling)
    slopes = [
        ("memory", profile.memory_bandwidth, "-"),
        ("sustained", profile.memory_bandwidth_sustained, ":"),
        ("cache", profile.cache_bandwidth, "--"),
    ]
    for name, text, style in slopes:
        if not text:
            continue
        bytes_per_s = parse_bandwidth(text)
        for height, color, width in ((top, _FAINT, 0.8), (front.flop_per_s, _INK, 1.6)):
            end = max(left, height / bytes_per_s)
            reach = [left * bytes_per_s, end * bytes_per_s]
            axes.plot([left, end], reach, style, color=color, lw=width)
        _label_slope(axes, f"{name} {text}", bytes_per_s, is_below=style == ":")


def _label_slope(axes: Axes, text: str, bytes_per_s: float, *, is_below: bool) -> None:
    """Words along a slope, just above or below it, at its lower end."""
    start = axes.get_xlim()[0] * 1.25
    points = axes.transData.transform(
        [(start, start * bytes_per_s), (start * 10, start * 10 * bytes_per_s)]
    )
    (x0, y0), (x1, y1) = points
    axes.annotate(
        text,
        (start, start * bytes_per_s),
        xytext=(4, -4) if is_below else (0, 5),
        textcoords="offset points",
        va="top" if is_below else "bottom",
        rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)),
        rotation_mode="anchor",
        fontsize=7.5,
        color=_INK,
    )


def _draw_ceilings(axes: Axes, profile: DeviceProfile, front: Ceiling) -> None:
    """The compute roofs from their ridge points on, each with its label at the right."""
    right = axes.get_xlim()[1]
    ordered = sorted(profile.ceiling, key=lambda one: one.flop_per_s)
    gap = _LABEL_GAP * (1.5 if any(one.sustained for one in ordered) else 1.0)
    heights = _spread(
        [_height(axes, one.flop_per_s) for one in ordered], min(gap, 1 / len(ordered))
    )
    for one, height in zip(ordered, heights, strict=True):
        ridge = profile.ridge_flop_per_byte(one)
        color, width = (_INK, 1.6) if one is front else (_FAINT, 0.8)
        axes.plot([ridge, right], [one.flop_per_s] * 2, color=color, lw=width)
        if one.sustained:
            axes.plot([ridge, right], [one.sustained_flop_per_s] * 2, ":", color=color, lw=width)
        axes.plot(ridge, one.flop_per_s, "D", ms=4.5, mfc="white", mec=color, mew=1.1, zorder=4)
        axes.annotate(
            _ceiling_label(one, ridge),
            (1.0, _height(axes, one.flop_per_s)),
            xytext=(1.035, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=7.2,
            color=_INK if one is front else _PALE,
            weight="bold" if one is front else "normal",
            linespacing=1.05,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.6, "shrinkA": 1, "shrinkB": 0},
            annotation_clip=False,
        )


def _ceiling_label(one: Ceiling, ridge: float) -> str:
    lines = [f"{one.precision} {one.provider}  {one.compute}", f"ridge {ridge:.3g} flop/byte"]
    return "\n".join(lines + [f"sustained {one.sustained}"] * bool(one.sustained))


def _height(axes: Axes, flop_per_s: float) -> float:
    """Where a performance lies, as a share of the height of the axes."""
    low, high = axes.get_ylim()
    return math.log(flop_per_s / low) / math.log(high / low)


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending ``heights`` moved up, and down again from the top, to lie ``gap`` apart."""
    spread: list[float] = []
    for height in heights:
        spread.append(max(height, spread[-1] + gap) if spread else height)
    limit = 1.0
    for index in reversed(range(len(spread))):
        spread[index] = min(spread[index], limit)
        limit = spread[index] - gap
    return spread


def _draw_dots(axes: Axes, shown: Sequence[Dot]) -> None:
    """Kernel groups: area by share of the work, colour by operator, large ones behind."""
    total = sum(dot.work_flop for dot in shown)
    color_of = _colors(shown)
    for kind in (*color_of, _OTHER):
        members = [dot for dot in shown if (dot.kind if dot.kind in color_of else _OTHER) == kind]
        members.sort(key=lambda dot: -dot.work_flop)
        if not members:
            continue
        share = sum(dot.work_flop for dot in members) / total
        axes.scatter(
            [dot.intensity_flop_per_byte for dot in members],
            [dot.flop_per_s for dot in members],
            s=[max(_LEAST_AREA, _AREA_OF_ALL * dot.work_flop / total) for dot in members],
            c=color_of.get(kind, _FAINT),
            alpha=0.6,
            linewidths=0.5,
            edgecolors="white",
            zorder=3,
        )
        label = f"{len(members)} {kind}: " + (f"{share:.1%}" if share >= 0.001 else "< 0.1%")
        axes.scatter([], [], s=28.0, c=color_of.get(kind, _FAINT), alpha=0.8, lw=0, label=label)
    axes.legend(
        loc="lower right",
        title="kernels: share of the work",
        title_fontsize=7.2,
        fontsize=7.2,
        alignment="left",
        edgecolor=_GRID,
        handletextpad=0.3,
    )


def _colors(shown: Sequence[Dot]) -> dict[str, str]:
    """A colour for each kind of kernel that does a notable share of the work."""
    work = Counter[str]()
    for dot in shown:
        work[dot.kind] += dot.work_flop
    least = _LEAST_SHARE * sum(work.values())
    free = iter(_OTHER_COLORS)
    colors: dict[str, str] = {}
    for kind in sorted(work, key=lambda kind: (-work[kind], kind)):
        color = _CONV_COLORS.get(kind.split()[-1]) or next(free, "")
        if color and work[kind] >= least:
            colors[kind] = color
    return colors


def _write_title(figure: Figure, profile: DeviceProfile, model: str) -> None:
    roofline = f"roofline of {profile.name}"
    subject = f"{_shortened(model)} under the {roofline}" if model else roofline.capitalize()
    figure.text(_AXES[0], 0.958, subject, fontsize=11, weight="bold", color=_INK, va="center")
    lines = textwrap.wrap(_source(profile), _LINE_LENGTH, max_lines=2, placeholder=" …")
    figure.text(
        _AXES[0], 0.932, "\n".join(lines), fontsize=7.2, color=_PALE, va="top", linespacing=1.25
    )


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _source(profile: DeviceProfile) -> str:
    """Where the numbers come from, in a line."""
    if profile.source == "datasheet":
        return f"peaks from datasheets, not measured: {profile.reference}"
    threads = "1 thread" if profile.threads == 1 else f"{profile.threads} threads"
    return ", ".join(filter(None, (f"measured with {profile.runtime}", threads, profile.date,
                                   profile.reference)))  # fmt: skip


def _write_summary(
    figure: Figure, front: Ceiling, dots: Sequence[Dot], shown: Sequence[Dot]
) -> None:
    """What the dots cannot say: the sum, and what has no place among them."""
    if not dots:
        return
    roofline_s = sum(dot.roofline_s for dot in dots)
    memory_s = sum(dot.roofline_s for dot in dots if dot.is_memory_bound)
    text = (
        f"Roofline time, {front.precision} on {front.provider}: {format_duration(roofline_s)} per "
        f"frame, {memory_s / max(roofline_s, 1e-30):.0%} of it memory-bound. "
        f"Area of a dot: its share of {format_count(sum(dot.work_flop for dot in dots), 'flop')}."
    )
    hidden = [dot for dot in dots if dot not in shown]
    if hidden:
        moved = sum(dot.traffic_bytes for dot in hidden)
        total = sum(dot.traffic_bytes for dot in dots)
        text += (
            f"\nKernels without arithmetic, not shown: {len(hidden)}; they move "
            f"{format_bytes(moved)} of {format_bytes(total)}."
        )
    figure.text(_AXES[0], 0.012, text, fontsize=7.2, color=_PALE, va="bottom", linespacing=1.25)
