"""Write frames to an mp4 file that is whole or not there.

In: frames of one size.  Out: a file, after ``close``.  Written beside its place as
``.<name>.part.mp4`` (the encoder chooses the container by the suffix, so it must stay last), read
back, and only then renamed.
"""

import contextlib
import logging
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ConfigError, DeviceError
from edgekit.vision.preprocess import check_image

logger = logging.getLogger(__name__)

_SUFFIXES = (".mp4", ".m4v", ".mov")


class VideoWriter:
    """An open recording. As a context manager it is discarded if the block raises.

    ``size_px`` is (width, height).  Raises: ConfigError for a path, rate or size that cannot be;
    DeviceError if this OpenCV cannot encode.
    """

    def __init__(self, path: Path, *, fps: float, size_px: tuple[int, int]) -> None:
        _check(path, fps, size_px)
        self._path, self._size_px = path, size_px
        self._part = path.with_name(f".{path.stem}.part{path.suffix}")
        self._frame_count = 0
        self._is_open = True
        self._writer = _open_writer(self._part, fps, size_px)
        if not self._writer.isOpened():
            self.discard()
            raise DeviceError(
                f"OpenCV {cv2.__version__} cannot write the video {path}",
                hint="check the free space, or use the opencv-python-headless wheel",
            )

    @property
    def frame_count(self) -> int:
        """Frames written."""
        return self._frame_count

    def write(self, image: NDArray[np.uint8]) -> None:
        """Add one frame. Raises: ConfigError if its size differs: OpenCV would leave it out."""
        check_image(image)
        height_px, width_px = image.shape[:2]
        if (width_px, height_px) != self._size_px:
            raise ConfigError(
                f"{self._path.name} has frames of {self._size_px[0]}x{self._size_px[1]}, "
                f"got one of {width_px}x{height_px}",
                hint="record sources of one size, or resize the frame",
            )
        self._writer.write(image)
        self._frame_count += 1

    def close(self) -> None:
        """Finish the file and put it in place. Without a frame there is no file.

        Raises: DeviceError if the file does not hold what was written (a full disk).
        """
        if not self._is_open:
            return
        self._is_open = False
        self._writer.release()
        if not self._frame_count:
            logger.warning("no frame was recorded, so there is no %s", self._path)
            self._remove_part()
            return
        readable_count = _frame_count(self._part)
        if readable_count != self._frame_count:
            self._remove_part()
            raise DeviceError(
                f"{self._path} holds {readable_count} of {self._frame_count} frames",
                hint="free some disk space and record again",
            )
        self._part.replace(self._path)

    def discard(self) -> None:
        """Drop what was written; an older file at the path stays."""
        if self._is_open:
            self._is_open = False
            self._writer.release()
        self._remove_part()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _remove_part(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._part.unlink()


def _open_writer(path: Path, fps: float, size_px: tuple[int, int]) -> cv2.VideoWriter:
    # MPEG-4 part 2: the encoder that every OpenCV wheel brings.
    return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size_px)


def _check(path: Path, fps: float, size_px: tuple[int, int]) -> None:
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"a video cannot be written as {path.name}", hint="end it in .mp4")
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(
            f"cannot write {path}: " + ("it is a folder" if path.is_dir() else "no such folder"),
            hint="check the path",
        )
    if not 0 < fps <= 1000 or min(size_px) < 2:
        raise ConfigError(
            f"a video cannot have {fps} frames per second of {size_px[0]}x{size_px[1]}",
            hint="give the source's rate and size",
        )


def _frame_count(path: Path) -> int:
    """Frames that the container names; 0 if it cannot be opened."""
    capture = cv2.VideoCapture(str(path))
    try:
        return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) if capture.isOpened() else 0
    finally:
        capture.release()
