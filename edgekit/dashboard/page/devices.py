"""The devices: state dot, role, agent version, memory, how busy."""

from nicegui import ui

from edgekit.dashboard.fleet_rows import DeviceRow
from edgekit.dashboard.page.dom import Tone, card, div, text


class Devices:
    """One row per device, in the order frames visit them."""

    def __init__(self) -> None:
        with card("Devices", "ek-devices-card"):
            self._box = div("ek-devices", name="ek-devices")
        self._shape: list[object] | None = None
        self._rows: list[_Row] = []

    def update(self, rows: tuple[DeviceRow, ...]) -> None:
        """Show these devices."""
        shape: list[object] = [(row.name, row.color, len(row.facts)) for row in rows]
        if shape != self._shape:
            self._shape = shape
            self._box.clear()
            with self._box:
                self._rows = [_Row(row) for row in rows]
                if not rows:
                    text("no device was heard yet", "ek-quiet")
        for shown, row in zip(self._rows, rows, strict=True):
            shown.update(row)


class _Row:
    def __init__(self, row: DeviceRow) -> None:
        swatch = "ek-none" if row.color is None else f"ek-color{row.color % 6}"
        with div("ek-device") as line:
            self._tone = Tone(line)
            div("ek-dot")
            with div("ek-device-who"):
                with div("ek-device-name-line"):
                    text(row.name, "ek-device-name")
                    div(f"ek-swatch {swatch}")
                self._state = text("", "ek-device-state")
            with div("ek-facts"):
                self._facts = [_fact() for _ in row.facts]

    def update(self, row: DeviceRow) -> None:
        self._tone.set(row.tone)
        self._state.set_text(f"{row.state} · {row.role}")
        for (label, value), (label_text, value_text) in zip(self._facts, row.facts, strict=True):
            label.set_text(label_text)
            value.set_text(value_text)


def _fact() -> tuple[ui.label, ui.label]:
    with div("ek-fact"):
        value = text("", "ek-fact-value")
        return text("", "ek-fact-label"), value
