"""Between the broker and the browsers: messages in, one shared snapshot and pictures out.

In: MQTT messages on the session's thread.  Out: snapshots and previews on the server's event loop.
Read-only but for one thing: while somebody looks at a stream, its agent is asked for previews.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable

from edgekit.dashboard.alerts import Link
from edgekit.dashboard.snapshot import Snapshot, take_snapshot
from edgekit.dashboard.state import FleetView
from edgekit.errors import LinkError
from edgekit.transport.mqtt_port import MqttPort

logger = logging.getLogger(__name__)

_SNAPSHOT_LASTS_S = 0.2
"""However many browsers look, the numbers are derived at most this often."""
_WATCH_EVERY_S = 2.0


class Feed:
    """What the page knows. ``apply`` runs on the MQTT thread, all else on the event loop."""

    def __init__(
        self, mqtt: MqttPort, *, fleet: str, url: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._mqtt, self._url, self._clock = mqtt, url, clock
        self._lock = threading.Lock()
        self._view = FleetView(fleet)
        self._link = Link(url=url, state=mqtt.state, since_s=clock())
        self._snapshot: Snapshot | None = None
        self._snapshot_due_s = 0.0
        self._asked_s: dict[str, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fresh = asyncio.Event()

    def start(self) -> None:
        """Subscribe, on the running event loop, to all that the page shows."""
        self._loop = asyncio.get_running_loop()
        topics = self._view.topics
        self._mqtt.subscribe(topics.status("+"), self.apply)
        self._mqtt.subscribe(topics.deployment("+"), self.apply)
        self._mqtt.subscribe(topics.telemetry("+"), self.apply, qos=0)
        self._mqtt.subscribe(topics.detections("+"), self.apply, qos=0)
        self._mqtt.subscribe(topics.preview("+"), self._apply_preview, qos=0)

    def apply(self, topic: str, payload: bytes) -> None:
        """A message arrived."""
        with self._lock:
            self._view.apply(topic, payload, self._clock())

    def _apply_preview(self, topic: str, payload: bytes) -> None:
        self.apply(topic, payload)
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the server is closing, nobody waits any more
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        """Release everyone who waits for a picture."""
        self._fresh.set()
        self._fresh = asyncio.Event()

    def tick(self) -> None:
        """Notice whether our own connection came or went; call it a few times a second."""
        state, now_s = self._mqtt.state, self._clock()
        is_connected = self._mqtt.is_connected
        state = "connected" if is_connected else state
        if is_connected != self._link.is_connected:
            self._link = Link(url=self._url, state=state, since_s=now_s)
        elif state != self._link.state:
            self._link = Link(url=self._url, state=state, since_s=self._link.since_s)

    def snapshot(self) -> Snapshot:
        """What to show now; shared by all browsers for a moment."""
        now_s = self._clock()
        if self._snapshot is None or now_s >= self._snapshot_due_s:
            self.tick()
            with self._lock:
                self._snapshot = take_snapshot(self._view, self._link, now_s)
            self._snapshot_due_s = now_s + _SNAPSHOT_LASTS_S
        return self._snapshot

    async def preview(
        self, stream: str, *, after: int, timeout_s: float
    ) -> tuple[int, bytes] | None:
        """Serial number and payload of a picture that is not number ``after``; None if none comes.

        Whoever calls this looks at the stream: its agent is told so every two seconds.
        """
        deadline_s = self._clock() + timeout_s
        while True:
            self._ask_for(stream)
            fresh = self._fresh
            with self._lock:
                known = self._view.streams.get(stream)
                if known is not None and known.preview_serial not in (0, after):
                    return known.preview_serial, known.preview_payload
            try:
                await asyncio.wait_for(fresh.wait(), max(0.0, deadline_s - self._clock()))
            except asyncio.TimeoutError:
                return None

    def _ask_for(self, stream: str) -> None:
        """Tell the agent that somebody looks, if it was not told just now."""
        now_s = self._clock()
        with self._lock:
            is_known = stream in self._view.streams
        if not is_known or now_s < self._asked_s.get(stream, float("-inf")) + _WATCH_EVERY_S:
            return
        self._asked_s[stream] = now_s
        try:
            self._mqtt.publish(self._view.topics.watch(stream), b"{}", qos=0)
        except LinkError as error:
            logger.debug("nobody could be asked for pictures: %s", error)
