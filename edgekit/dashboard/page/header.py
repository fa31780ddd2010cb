"""Who this is and how it is: fleet, state in a word and a sentence, all that is wrong."""

from nicegui import ui

from edgekit.dashboard.alerts import Alert
from edgekit.dashboard.page.dom import Tone, div, text
from edgekit.dashboard.snapshot import Snapshot

_ALERTS_MAX = 6
_ROLL_MAX = 8
"""Devices named in the header; all of them are in the list below."""


class Header:
    """Name of the fleet, the state pill, the sentence, a dot for every device."""

    def __init__(self, fleet: str) -> None:
        with div("ek-header", tag="header"):
            with div("ek-brand"):
                div("ek-logo")
                text("EdgeKit", "ek-brand-name")
                text(fleet, "ek-fleet", name="ek-fleet")
            pill = div("ek-pill", name="ek-state")
            self._tone = Tone(pill)
            with pill:
                div("ek-dot")
                self._word = text("", "ek-word")
            self._sentence = text("", "ek-sentence", name="ek-sentence")
            self._roll = div("ek-roll")
        self._names: list[str] = []
        self._dots: list[Tone] = []

    def update(self, snapshot: Snapshot) -> None:
        """Show the state of the fleet."""
        self._tone.set(snapshot.tone)
        self._word.set_text(snapshot.word)
        self._sentence.set_text("" if snapshot.alerts else snapshot.sentence)
        names = [row.name for row in snapshot.devices[:_ROLL_MAX]]
        if names != self._names:
            self._names = names
            self._roll.clear()
            with self._roll:
                self._dots = [_device_dot(name) for name in names]
        for dot, row in zip(self._dots, snapshot.devices, strict=False):
            dot.set(row.tone)


def _device_dot(name: str) -> Tone:
    with div("ek-roll-device") as device:
        div("ek-dot")
        text(name, "ek-roll-name")
    return Tone(device)


class Alerts:
    """One line for each thing that is wrong, with what to try; nothing when all is well."""

    def __init__(self) -> None:
        self._box = div("ek-alerts", name="ek-alert").props("role=alert")
        self._shape: list[object] | None = None
        self._lines: list[tuple[ui.label, ui.label]] = []
        with self._box:
            self._more = text("", "ek-quiet")

    def update(self, alerts: tuple[Alert, ...]) -> None:
        """Show these; lines stay where they are while only their words change."""
        shown = alerts[:_ALERTS_MAX]
        more_count = len(alerts) - len(shown)
        shape: list[object] = [(alert.subject, alert.tone) for alert in shown]
        if shape != self._shape:
            self._shape = shape
            self._box.clear()
            with self._box:
                self._lines = [self._line(alert) for alert in shown]
                self._more = text("", "ek-quiet")
        self._more.set_text(f"and {more_count} more" if more_count else "")
        for (what, hint), alert in zip(self._lines, shown, strict=True):
            what.set_text(alert.what)
            hint.set_text(alert.hint)

    def _line(self, alert: Alert) -> tuple[ui.label, ui.label]:
        with div(f"ek-alert ek-{alert.tone}") as line:
            line.props["data-subject"] = alert.subject
            div("ek-dot")
            with div("ek-alert-text"):
                return text(alert.what, "ek-alert-what"), text(alert.hint, "ek-alert-hint")
