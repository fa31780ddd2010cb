"""Plain elements with stable classes and ids, the vocabulary of all page parts."""

from nicegui import ui
from nicegui.element import Element


def div(classes: str, *, name: str = "", tag: str = "div") -> Element:
    """An empty element; ``name`` becomes its id in the page. Use it as a context to fill it."""
    element = ui.element(tag).classes(classes)
    if name:
        element.props["id"] = name
    return element


def text(value: str, classes: str, *, name: str = "") -> ui.label:
    """A text that may change; escaped by the browser."""
    label = ui.label(value).classes(classes)
    if name:
        label.props["id"] = name
    return label


def card(title: str, classes: str, *, name: str = "") -> Element:
    """A titled box; fill it as a context."""
    box = div(f"ek-card {classes}", name=name, tag="section")
    with box:
        text(title, "ek-card-title")
    return box


class Tone:
    """A class that follows a tone: green, amber, red or grey."""

    def __init__(self, element: Element) -> None:
        self._element, self._tone = element, ""

    def set(self, tone: str) -> None:
        """Show this tone."""
        if tone != self._tone:
            self._element.classes(add=f"ek-{tone}", remove=f"ek-{self._tone}" if self._tone else "")
            self._tone = tone
