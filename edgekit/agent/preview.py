"""Pictures for people: a small JPEG of an answered frame, only while somebody watches.

In: answered frames and the viewers' watch messages.  Out: Preview messages at a bounded rate.
Encoding runs on its own thread with a queue of one, so that looking never slows the pipeline.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable

import cv2

from edgekit.agent.source_stage import Answered
from edgekit.errors import LinkError
from edgekit.spec.agent_config import PreviewConfig
from edgekit.spec.base import to_json
from edgekit.spec.messages import Preview

logger = logging.getLogger(__name__)

_WATCH_LASTS_S = 5.0


class Previewer:
    """Publishes previews of one stream."""

    def __init__(
        self, stream: str, config: PreviewConfig, publish: Callable[[bytes], None]
    ) -> None:
        self._stream, self._config, self._publish = stream, config, publish
        self._watched_until_s = 0.0
        self._next_due_s = 0.0
        self._shown = -1
        self._queue: queue.Queue[Answered | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._encode_all, name="preview", daemon=True)
        self._thread.start()

    def watched(self) -> None:
        """Somebody looks: send previews for the next five seconds."""
        self._watched_until_s = time.perf_counter() + _WATCH_LASTS_S

    def offer(self, answered: Answered) -> None:
        """Show this frame if somebody looks, the rate allows it and the encoder is free."""
        now_s = time.perf_counter()
        if answered.frame.number < self._shown:  # overtaken by one that was answered elsewhere
            return
        if self._config.fps <= 0 or now_s > self._watched_until_s or now_s < self._next_due_s:
            return
        try:
            self._queue.put_nowait(answered)
        except queue.Full:
            return
        self._shown = answered.frame.number
        self._next_due_s = now_s + 1.0 / self._config.fps

    def close(self) -> None:
        """Stop the encoder."""
        self._queue.put(None)
        self._thread.join(timeout=2.0)

    def _encode_all(self) -> None:
        while (answered := self._queue.get()) is not None:
            try:
                self._publish(to_json(self._preview(answered), indent=0))
            except LinkError as error:  # nobody can look while the broker is away
                logger.debug("no preview: %s", error)

    def _preview(self, answered: Answered) -> Preview:
        image = answered.frame.image
        height_px, width_px = image.shape[:2]
        if width_px > self._config.width_px:
            small = (self._config.width_px, round(height_px * self._config.width_px / width_px))
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        quality = [cv2.IMWRITE_JPEG_QUALITY, self._config.jpeg_quality]
        _, jpeg = cv2.imencode(".jpg", image, quality)
        return Preview(
            stream=self._stream,
            frame=answered.frame.number,
            width_px=width_px,
            height_px=height_px,
            jpeg=jpeg.tobytes(),
            detections=answered.detections,
        )
