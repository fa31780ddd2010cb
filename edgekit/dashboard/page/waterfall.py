"""Where a frame's time goes: one row per stage and hop, each bar where the one before it ends."""

from nicegui import ui
from nicegui.element import Element

from edgekit.dashboard.page.dom import card, div, text
from edgekit.dashboard.page.words import say_ms
from edgekit.dashboard.snapshot import StreamSnapshot
from edgekit.dashboard.timeline import Timeline, TimelinePart


class Waterfall:
    """The timeline of a median frame."""

    def __init__(self) -> None:
        with card("Where a frame's time goes", "ek-waterfall"):
            self._box = div("ek-bars", name="ek-timeline")
            self._note = text("", "ek-quiet ek-note", name="ek-bottleneck")
        self._shape: list[object] | None = None
        self._rows: list[tuple[ui.label, Element, ui.label]] = []

    def update(self, stream: StreamSnapshot | None) -> None:
        """Show the timeline of this stream."""
        line = stream.timeline if stream is not None else None
        parts = line.parts if line is not None else ()
        shape: list[object] = [(part.kind, part.title, part.color) for part in parts]
        if shape != self._shape:
            self._shape = shape
            self._build(parts)
        total_ms = max(line.total_ms, 1e-9) if line is not None else 1.0
        start_ms = 0.0
        for (detail, bar, value), part in zip(self._rows, parts, strict=True):
            left, width = 100 * start_ms / total_ms, 100 * part.ms / total_ms
            detail.set_text(part.detail)
            bar.style(f"left: {left:.2f}%; width: {width:.2f}%")
            value.set_text(f"{say_ms(part.ms)} ms")
            start_ms += part.ms
        self._note.set_text(_note(line))

    def _build(self, parts: tuple[TimelinePart, ...]) -> None:
        self._box.clear()
        with self._box:
            self._rows = [_row(part) for part in parts]
            if not parts:
                text("no answer in the last seconds", "ek-quiet")


def _row(part: TimelinePart) -> tuple[ui.label, Element, ui.label]:
    with div(f"ek-bar-row ek-{part.kind}"):
        with div("ek-bar-label"):
            text(part.title, "ek-bar-title")
            detail = text(part.detail, "ek-bar-detail")
        with div("ek-bar-track"):
            bar = div(f"ek-bar ek-color{part.color % 6}")
        return detail, bar, text("", "ek-bar-ms")


def _note(line: Timeline | None) -> str:
    slowest = line.slowest if line is not None else None
    if slowest is None or slowest.ms <= 0:
        return ""
    what = "hop" if slowest.kind == "hop" else "stage"
    limit = 1000 / slowest.ms
    return f"the {what} {slowest.title} is the slowest: it allows at most {limit:.0f} answers/s"
