"""Write the answered frames, with their boxes, to a video file.

In: answered frames.  Out: a video that appears at its path only when it is whole.
Answers may overtake each other: a frame is held until none before it is under way any more.
"""

import heapq
import logging
import math
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from edgekit.agent.source_stage import Answered
from edgekit.errors import EdgeKitError
from edgekit.vision.draw import draw_detections
from edgekit.vision.video_writer import VideoWriter

logger = logging.getLogger(__name__)

_MOST_HELD = 64
"""Pictures in memory, while one before them takes its time."""


class Recorder:
    """One video file, written on its own thread; a full queue slows the stream down."""

    def __init__(
        self, path: Path, *, fps: float, oldest_open: Callable[[], float] = lambda: math.inf
    ) -> None:
        """``oldest_open``: number of the oldest frame that may still be answered."""
        self._path, self._fps, self._oldest_open = path, fps, oldest_open
        self._held: list[tuple[int, Answered]] = []
        self._queue: queue.Queue[tuple[Answered, float] | None] = queue.Queue(maxsize=16)
        self.problem = ""
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)
        self._thread.start()

    def offer(self, answered: Answered) -> None:
        """Add one frame; blocks while the disk is behind."""
        if not self._closed:
            self._queue.put((answered, self._oldest_open()))

    def close(self) -> None:
        """Write what is queued and finish the file. Calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join(timeout=30.0)

    def _write_all(self) -> None:
        writer: VideoWriter | None = None
        for answered in self._in_order():
            if self.problem:
                continue
            try:
                image = draw_detections(answered.frame.image, answered.detections)
                if writer is None:
                    size = (image.shape[1], image.shape[0])
                    writer = VideoWriter(self._path, fps=self._fps, size_px=size)
                writer.write(image)
            except EdgeKitError as error:
                self._give_up(writer, error)
        if writer is not None and not self.problem:
            try:
                writer.close()
            except EdgeKitError as error:
                self._give_up(writer, error)

    def _in_order(self) -> Iterator[Answered]:
        """What is queued, as it was filmed, until the end."""
        while (queued := self._queue.get()) is not None:
            answered, oldest_open = queued
            heapq.heappush(self._held, (answered.frame.number, answered))
            while self._held and (self._held[0][0] < oldest_open or len(self._held) > _MOST_HELD):
                yield heapq.heappop(self._held)[1]
        while self._held:
            yield heapq.heappop(self._held)[1]

    def _give_up(self, writer: VideoWriter | None, error: EdgeKitError) -> None:
        self.problem = str(error)
        logger.error("recording stopped: %s", error)
        if writer is not None:
            writer.discard()
