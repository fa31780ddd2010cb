"""Keep some camera frames as pictures: what `edgekit quantize --calibrate images:DIR` asks for.

In: every frame that was read.  Out: at most ``most_count`` PNG files, spread evenly over all frames
that were offered, however many those were and however often the agent was restarted.
Written on a thread of its own with a queue of one: while that is busy, frames are passed over, so
the stream never waits. A disk that is nearly full is left alone; that is a problem to be told, not
a reason to stop the stream.

PNG, not JPEG: ranges are made from the least and the greatest numbers, which is the grain and the
edges that JPEG smooths (quality 95 is off by up to 52 of 255 on a film of pedestrians); and a model
that is judged on these pictures later shall see what the camera saw. They are packed fast rather
than small: half the bytes of the picture in memory, 3.6 times those of that JPEG.

Every N-th frame is a candidate. As candidate k comes, it is kept with the chance most_count / k and
takes the place of one drawn by lot, so that each candidate so far is equally likely to be there,
and a card is written to less and less. k is in the file's name; that is all there is to remember.

Source: Vitter, "Random Sampling with a Reservoir", ACM TOMS 11(1), 1985, algorithm R.
"""

import logging
import queue
import random
import shutil
import threading
import time
from pathlib import Path

import cv2

from edgekit.errors import DeviceError
from edgekit.spec.base import write_atomically
from edgekit.vision.sources import Frame

logger = logging.getLogger(__name__)

FREE_MIN_BYTES = 256 * 1024 * 1024
"""Left free, so that the next deployment finds room."""
_RETRY_S = 30.0
_PREFIX, _SUFFIX = "frame-", ".png"
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


class FrameKeeper:
    """Keeps frames of one source in one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        every_count: int,
        most_count: int,
        free_min_bytes: int = FREE_MIN_BYTES,
    ) -> None:
        self._folder, self._every_count, self._most_count = folder, every_count, most_count
        self._free_min_bytes = free_min_bytes
        self._offered_count = 0
        self._candidate_count = 0
        self._lot = random.Random()
        self._problem = ""
        self._failed_s = 0.0
        self._is_closed = False
        self._queue: queue.Queue[Frame | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._keep_all, name="keeper", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """Why frames are not kept at the moment, or an empty string."""
        return self._problem

    def offer(self, frame: Frame) -> None:
        """Every N-th frame is written if the thread is free. Never waits."""
        self._offered_count += 1
        if (self._offered_count - 1) % self._every_count == 0:
            try:
                self._queue.put_nowait(frame)
            except queue.Full:
                self._offered_count -= 1  # the next one will do as well

    def close(self) -> None:
        """Finish the picture that is being written, and stop. Calling it again does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._queue.put(None)
            self._thread.join(timeout=5.0)

    def _keep_all(self) -> None:
        while (frame := self._queue.get()) is not None:
            if self._problem and time.monotonic() - self._failed_s < _RETRY_S:
                continue
            try:
                self._keep(frame)
            except (OSError, cv2.error, DeviceError) as error:
                self._failed_s = time.monotonic()
                self._problem = f"frames are not kept in {self._folder}: {_why(error)}"
                logger.warning("%s", self._problem)
            else:
                self._problem = ""

    def _keep(self, frame: Frame) -> None:
        kept = self._known()
        self._candidate_count += 1
        is_full = len(kept) >= self._most_count
        if is_full and self._lot.randrange(self._candidate_count) >= self._most_count:
            return
        self._check_room()
        _, png = cv2.imencode(_SUFFIX, frame.image, _PNG)
        while len(kept) >= self._most_count:  # more than one only if the limit was lowered
            kept.pop(self._lot.randrange(len(kept))).unlink(missing_ok=True)
        path = self._folder / f"{_PREFIX}{self._candidate_count:09d}{_SUFFIX}"
        write_atomically(png.tobytes(), path)

    def _known(self) -> list[Path]:
        """The pictures that are there now: also of earlier runs, and not those taken away."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._candidate_count:
            for part in self._folder.glob(f".{_PREFIX}*.part"):  # of a power cut
                part.unlink(missing_ok=True)
        kept = sorted(self._folder.glob(f"{_PREFIX}{'[0-9]' * 9}{_SUFFIX}"))
        if not self._candidate_count and kept:
            last = int(kept[-1].stem.removeprefix(_PREFIX))
            self._candidate_count = max(last, len(kept))
        return kept

    def _check_room(self) -> None:
        free_bytes = shutil.disk_usage(self._folder).free
        if free_bytes < self._free_min_bytes:
            raise DeviceError(
                f"the disk has {free_bytes} bytes left, of which {self._free_min_bytes} stay free",
                hint="copy the pictures away and remove them, or set a smaller source.keep_most",
            )


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or error}. Try: free some space there, or name another folder."
    return str(error)
