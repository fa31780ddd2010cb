"""The jpg and png files of a folder, sorted by name, as frames.

In: a folder.  Out: Footage.  A file that cannot be decoded keeps its number, is left out and
reported; the others follow.
"""

import logging
import threading
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ConfigError
from edgekit.vision.sources.port import EndOfSource, Frame, SourceInfo
from edgekit.vision.sources.stamps import stamped

logger = logging.getLogger(__name__)

_SUFFIXES = (".jpg", ".jpeg", ".png")
_DEFAULT_FPS = 10.0


class ImagesSource:
    """A folder of pictures, which may differ in size."""

    def __init__(
        self, folder: Path, *, uri: str, live: bool = False, loop: bool = False, fps: float = 0.0
    ) -> None:
        self._paths = _pictures(folder)
        self._loop = loop
        self._number = 0
        self._problem = ""
        self._closed = threading.Event()
        first = next((image for path in self._paths if (image := _load(path)) is not None), None)
        if first is None:
            raise ConfigError(
                f"none of the {len(self._paths)} pictures in {folder} can be decoded",
                hint="export them as JPEG or PNG again",
            )
        self._info = SourceInfo(
            uri=uri,
            kind="images",
            live=live,
            fps=fps or _DEFAULT_FPS,
            width_px=first.shape[1],
            height_px=first.shape[0],
            frame_count=None if loop else len(self._paths),
        )

    @property
    def info(self) -> SourceInfo:
        """Size of the first picture."""
        return self._info

    @property
    def problem(self) -> str:
        """The last picture that could not be decoded, or an empty string."""
        return self._problem

    def read(self) -> Frame:
        """The next picture that can be decoded. Raises: EndOfSource."""
        while not self._closed.is_set():
            number = self._number
            if number >= len(self._paths) and not self._loop:
                break
            path = self._paths[number % len(self._paths)]
            self._number += 1
            image = _load(path)
            if image is not None:
                return stamped(image, number)
            self._problem = f"{path} cannot be decoded. Try: replace or remove it."
            logger.warning("%s", self._problem)
        raise EndOfSource

    def skip(self, count: int) -> None:
        """Leave out ``count`` pictures."""
        self._number += count

    def close(self) -> None:
        """End."""
        self._closed.set()


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}", hint="check the path after images:")
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    except OSError as error:
        raise ConfigError(
            f"cannot read {folder}: {error.strerror}", hint="check its rights"
        ) from None
    if not paths:
        raise ConfigError(
            f"{folder} holds no picture ({', '.join(_SUFFIXES)})", hint="name another folder"
        )
    return paths


def _load(path: Path) -> NDArray[np.uint8] | None:
    """BGR picture, or None. Read by Python: OpenCV cannot open every path, and only logs why."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error) as error:
        logger.warning("%s: %s", path, error)
        return None
    return None if image is None else np.asarray(image, np.uint8)
