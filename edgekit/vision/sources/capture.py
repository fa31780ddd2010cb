"""An opened ``cv2.VideoCapture`` that one thread reads and any thread may close.

OpenCV must not release a capture that another thread is reading: who comes last releases it.
"""

import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.vision.sources.port import EndOfSource


class VideoCapture(Protocol):
    """The part of cv2.VideoCapture that is used."""

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        """Whether frames may come."""

    def grab(self) -> bool:
        """Take the next frame in; False if there is none."""

    def retrieve(self) -> tuple[bool, Any]:
        """Decode the frame taken in."""

    def get(self, prop: int) -> float:
        """A property by its cv2.CAP_PROP number; 0 if unknown."""

    def release(self) -> None:
        """Free it."""


class SharedCapture:
    """Read by one thread, closed by any. Every read raises EndOfSource once closed."""

    def __init__(self, capture: VideoCapture) -> None:
        self._capture = capture
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def get(self, prop: int) -> float:
        """A property; 0.0 if the backend does not know it."""
        value = float(self._locked(lambda: self._capture.get(prop)))
        return value if np.isfinite(value) else 0.0

    def grab(self) -> bool:
        """Take the next frame in; False if none came."""
        return bool(self._locked(self._capture.grab))

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The frame taken in, (H, W, 3) uint8 BGR; None if it cannot be decoded."""
        good, image = self._locked(self._capture.retrieve)
        return _as_bgr(image) if good and image is not None else None

    def close(self) -> None:
        """Release now, or as soon as the call under way returns."""
        self._closed.set()
        self._release_if_idle()

    def _locked(self, call: Any) -> Any:
        with self._lock:
            result = None if self._closed.is_set() else call()
        if self._closed.is_set():  # perhaps by a thread that found the lock taken
            self._release_if_idle()
            raise EndOfSource
        return result

    def _release_if_idle(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self._capture.release()
            finally:
                self._lock.release()


def _as_bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey or BGRA frames, which some cameras give, as BGR."""
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[:, :, :3])
