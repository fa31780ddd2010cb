"""Frames of a video file, every one of them, in order.

In: a path (or the URL of a finite video).  Out: Footage.  A file that ends before its container
says so is reported in ``problem`` and the log: a damaged recording must not look like a short one.
"""

import logging
import threading
from pathlib import Path

import cv2

from edgekit.errors import ConfigError
from edgekit.vision.sources.capture import SharedCapture
from edgekit.vision.sources.port import EndOfSource, Frame, SourceInfo
from edgekit.vision.sources.stamps import stamped

logger = logging.getLogger(__name__)

_ATTEMPTS_AT_DAMAGE = 20
"""Grabs after a failed one before a damaged file counts as ended; each passes broken packets."""


def check_video_path(path: Path) -> None:
    """Raise ConfigError unless ``path`` is a readable file that is not empty."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder", hint=f"use images:{path} for a folder of pictures")
    if not path.exists():
        raise ConfigError(f"there is no video {path}", hint="check the path")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", hint="check its rights"
        ) from None
    if empty:
        raise ConfigError(f"{path} is empty", hint="copy or record it again")


class VideoFileSource:
    """A video file, opened. ``location`` is what OpenCV opens."""

    def __init__(
        self, location: str, *, uri: str, live: bool = False, loop: bool = False, fps: float = 0.0
    ) -> None:
        self._location, self._loop = location, loop
        self._closed = threading.Event()
        self._number = 0
        self._position = 0
        """In this pass over the file."""
        self._problem = ""
        self._holds_first = False
        """The first frame is taken in already: opening proves that there is one."""
        self._height_px = self._width_px = 0
        self._capture = self._open()
        self._expected_count = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self._info = SourceInfo(
            uri=uri,
            kind="file",
            live=live,
            fps=fps or self._capture.get(cv2.CAP_PROP_FPS),
            width_px=self._width_px,
            height_px=self._height_px,
            frame_count=None if loop else self._expected_count or None,
        )

    @property
    def info(self) -> SourceInfo:
        """Size of the first frame, count from the container."""
        return self._info

    @property
    def problem(self) -> str:
        """What was found damaged, or an empty string."""
        return self._problem

    def read(self) -> Frame:
        """The next frame that can be decoded. Raises: EndOfSource."""
        while True:
            self._advance()
            image = self._capture.retrieve()
            if image is not None:
                return stamped(image, self._number - 1)
            self._report(f"frame {self._number - 1} cannot be decoded and is left out")

    def skip(self, count: int) -> None:
        """Leave out ``count`` frames by passing over them: seeking would land on key frames."""
        try:
            for _ in range(count):
                self._advance()
        except EndOfSource:
            return

    def close(self) -> None:
        """Free the file."""
        self._closed.set()
        self._capture.close()

    def _advance(self) -> None:
        """Take the next frame in; at the end of a looped file, the first one again."""
        if not self._grab():
            self._end_pass()
        self._position += 1
        self._number += 1

    def _grab(self) -> bool:
        if self._holds_first:
            self._holds_first = False
            return True
        if self._capture.grab():
            return True
        if not self._missing_count():
            return False
        for _ in range(_ATTEMPTS_AT_DAMAGE):
            if self._capture.grab():
                self._report(f"damaged after frame {self._number - 1}, some frames are missing")
                return True
        return False

    def _missing_count(self) -> int:
        """Frames promised beyond this point; a few do not count, as some containers estimate."""
        missing = self._expected_count - self._position
        return missing if missing > max(2, self._expected_count // 200) else 0

    def _end_pass(self) -> None:
        """Report what is missing, then start again or raise EndOfSource."""
        if self._missing_count():
            self._report(
                f"ends after {self._position} of {self._expected_count} frames: "
                "it is cut short or damaged"
            )
        if not self._loop:
            raise EndOfSource
        self._capture.close()
        self._capture = self._open()
        if self._closed.is_set():  # by a thread that still saw the old capture
            self._capture.close()
            raise EndOfSource
        self._holds_first = False
        self._position = 0

    def _report(self, what: str) -> None:
        self._problem = f"{Path(self._location).name}: {what}. Try: copy or record it again."
        logger.warning("%s", self._problem)

    def _open(self) -> SharedCapture:
        """A capture that holds its first frame. Raises: ConfigError if it has none."""
        backends = cv2.videoio_registry.getStreamBackends()
        backend = cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in backends else cv2.CAP_ANY
        opened = cv2.VideoCapture(self._location, backend)
        capture = SharedCapture(opened)
        first = capture.retrieve() if opened.isOpened() and capture.grab() else None
        if first is None:
            capture.close()
            raise ConfigError(
                f"{self._location} is not a video that OpenCV {cv2.__version__} can decode",
                hint="play it elsewhere, or convert it with ffmpeg to H.264 in mp4",
            )
        self._height_px, self._width_px = first.shape[:2]
        self._holds_first = True
        return capture
