"""The live picture with its boxes."""

from nicegui.element import Element


class LiveVideo(Element, component="video.js"):
    """Shows one stream; the browser pulls pictures itself, see ``video.js``."""

    def __init__(self) -> None:
        super().__init__()
        self._props["stream"] = ""
        self._props["id"] = "ek-video"

    def set_stream(self, name: str) -> None:
        """Show this stream from now on."""
        if name != self._props["stream"]:
            self._props["stream"] = name
            self.update()
