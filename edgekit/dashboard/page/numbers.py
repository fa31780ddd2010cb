"""The big numbers: answers a second, latency, freshness, and what became of the frames."""

from nicegui import ui

from edgekit.dashboard.page.dom import card, div, text
from edgekit.dashboard.page.words import say_count, say_ms
from edgekit.dashboard.snapshot import StreamSnapshot

_NONE = "–"
_REASONS_MAX = 10


class Numbers:
    """Four tiles and one line of frame counts."""

    def __init__(self) -> None:
        with div("ek-tiles"):
            self._fps = _Tile("answers/s", "ek-fps", "")
            self._p50 = _Tile("latency p50", "ek-p50", "ms")
            self._p95 = _Tile("latency p95", "ek-p95", "ms")
            self._age = _Tile("newest answer", "ek-age", "old")

    def update(self, stream: StreamSnapshot | None) -> None:
        """Show this stream, or dashes."""
        rate = f"{min(stream.answers_per_s, 99999):.1f}" if stream is not None else None
        latency_ms = stream.latency_ms if stream is not None else None
        age_s = stream.age_s if stream is not None else None
        self._fps.show(rate)
        self._p50.show(say_ms(latency_ms.p50) if latency_ms is not None else None)
        self._p95.show(say_ms(latency_ms.p95) if latency_ms is not None else None)
        self._age.show(_say_age(age_s) if age_s is not None else None)


class Frames:
    """Where every captured frame went: answered, in flight, or dropped with a reason."""

    def __init__(self) -> None:
        with card("Frames", "ek-frames"):
            with div("ek-counts"):
                self._captured = _count("captured", "ek-captured")
                self._answered = _count("answered", "ek-answered")
                self._dropped = _count("dropped", "ek-dropped")
                self._in_flight = _count("in flight", "ek-in-flight")
            self._table = div("ek-table", name="ek-drops")
            self._reasons: tuple[str, ...] | None = None
            self._rows: list[tuple[ui.label, ui.label]] = []

    def update(self, stream: StreamSnapshot | None) -> None:
        """Show the accounts of this stream."""
        if stream is None:
            return
        accounts = stream.accounts
        self._captured.set_text(say_count(accounts.captured_count))
        self._answered.set_text(say_count(accounts.answered_count))
        self._dropped.set_text(say_count(accounts.dropped_count))
        self._in_flight.set_text(say_count(accounts.in_flight_count))
        dropped = _shortened(accounts.dropped)
        reasons = tuple(dropped)
        if reasons != self._reasons:
            self._reasons = reasons
            self._build(reasons)
        for (count, share), number in zip(self._rows, dropped.values(), strict=True):
            count.set_text(say_count(number))
            share.set_text(f"{100 * number / max(1, accounts.captured_count):.1f} %")

    def _build(self, reasons: tuple[str, ...]) -> None:
        self._table.clear()
        self._rows = []
        with self._table:
            if not reasons:
                text("no frame was dropped", "ek-quiet")
            for reason in reasons:
                with div("ek-row ek-drop") as row:
                    row.props["data-reason"] = reason
                    text(reason.replace("_", " ").replace("-", " "), "ek-cell ek-grow")
                    count = text("", "ek-cell ek-number")
                    self._rows.append((count, text("", "ek-cell ek-number ek-quiet")))


class _Tile:
    def __init__(self, label: str, name: str, unit: str) -> None:
        with div("ek-tile ek-empty") as self._box:
            text(label, "ek-tile-label")
            with div("ek-tile-line"):
                self._value = text(_NONE, "ek-tile-value", name=name)
                text(unit, "ek-tile-unit")

    def show(self, value: str | None) -> None:
        if value is None:
            self._box.classes(add="ek-empty")
        else:
            self._box.classes(remove="ek-empty")
        self._value.set_text(_NONE if value is None else value)


def _shortened(dropped: dict[str, int]) -> dict[str, int]:
    """The most frequent reasons, and the rest as one."""
    items = list(dropped.items())
    shown = {reason[:60]: count for reason, count in items[:_REASONS_MAX]}
    if len(items) > _REASONS_MAX:
        shown["other reasons"] = sum(count for _, count in items[_REASONS_MAX:])
    return shown


def _count(label: str, name: str) -> ui.label:
    with div("ek-count"):
        value = text("0", "ek-count-value", name=name)
        text(label, "ek-count-label")
    return value


def _say_age(age_s: float) -> str:
    if age_s < 1:
        return f"{1000 * age_s:.0f} ms"
    return f"{age_s:.1f} s" if age_s < 100 else f"{min(age_s, 1e9) / 60:.0f} min"
