"""The page: which part stands where, and how often it is brought up to date."""

from pathlib import Path

from nicegui import ui

from edgekit import __version__
from edgekit.dashboard.feed import Feed
from edgekit.dashboard.page.devices import Devices
from edgekit.dashboard.page.dom import div, text
from edgekit.dashboard.page.header import Alerts, Header
from edgekit.dashboard.page.numbers import Frames, Numbers
from edgekit.dashboard.page.strip import Strip
from edgekit.dashboard.page.trend import Trend
from edgekit.dashboard.page.video import LiveVideo
from edgekit.dashboard.page.waterfall import Waterfall
from edgekit.dashboard.snapshot import Snapshot

_UPDATE_S = 0.33
_STYLE = Path(__file__).with_name("style.css")
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    '<rect width="32" height="32" rx="7" fill="#0f1620"/>'
    '<path d="M6 9h8v14H6z" fill="#38bdf8"/><path d="M18 9h8v14h-8z" fill="#a78bfa"/>'
    '<path d="M16 5v22" stroke="#e6edf3" stroke-width="2" stroke-dasharray="3 3"/></svg>'
)


def register_page(feed: Feed, *, title: str) -> None:
    """Serve the page at "/", built anew for every browser, torn down when it leaves."""
    style = _STYLE.read_text(encoding="utf-8")

    @ui.page("/", title=title, dark=True, favicon=_ICON)
    def show() -> None:
        ui.add_head_html(f"<style>{style}</style>")
        page = _Page(feed.snapshot().fleet)
        page.update(feed.snapshot())
        ui.timer(_UPDATE_S, lambda: page.update(feed.snapshot()))


class _Page:
    """All parts, for one browser."""

    def __init__(self, fleet: str) -> None:
        self._stream = ""
        self._names: list[str] = []
        with div("ek-page"):
            self._header = Header(fleet)
            self._alerts = Alerts()
            with div("ek-main"):
                with div("ek-left"):
                    self._choice = (
                        ui.toggle([], on_change=self._choose)
                        .classes("ek-choice")
                        .props("no-caps unelevated dense")
                    )
                    self._video = LiveVideo()
                    self._caption = text("", "ek-caption ek-quiet", name="ek-source")
                with div("ek-right"):
                    self._numbers = Numbers()
                    self._trend = Trend()
                    self._frames = Frames()
            with div("ek-lower"):
                self._waterfall = Waterfall()
                self._strip = Strip()
            self._devices = Devices()
            self._footer = text("", "ek-footer ek-quiet", name="ek-footer")

    def update(self, snapshot: Snapshot) -> None:
        """Bring every part up to date; only what changed is sent to the browser."""
        self._offer([stream.name for stream in snapshot.streams])
        stream = snapshot.stream(self._stream)
        self._header.update(snapshot)
        self._alerts.update(snapshot.alerts)
        self._video.set_stream(stream.name if stream is not None else "")
        self._numbers.update(stream)
        self._trend.update(stream)
        self._frames.update(stream)
        self._waterfall.update(stream)
        self._strip.update(snapshot.strip)
        self._devices.update(snapshot.devices)
        if stream is not None:
            width_px, height_px = stream.size_px
            size = f"{width_px} × {height_px} px" if width_px else ""
            words = (f"stream {stream.name}", stream.source, size)
            self._caption.set_text(" · ".join(filter(None, words)))
        self._footer.set_text(_footer(snapshot))

    def _offer(self, names: list[str]) -> None:
        """Let the viewer choose, if there is a choice."""
        self._choice.set_visibility(len(names) > 1)
        if names != self._names:
            self._names = names
            value = self._stream if self._stream in names else None
            self._choice.set_options(names, value=value or next(iter(names), None))

    def _choose(self) -> None:
        self._stream = self._choice.value or ""


def _footer(snapshot: Snapshot) -> str:
    about = f"EdgeKit {__version__} · read-only"
    if not snapshot.malformed_count:
        return about
    noun = "message" if snapshot.malformed_count == 1 else "messages"
    return (
        f"{about} · {snapshot.malformed_count} {noun} could not be read, "
        f"the last one: {snapshot.malformed_last}"
    )
