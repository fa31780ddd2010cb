"""The fake: frames from a list, for tests and teaching."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.vision.sources.port import EndOfSource, Frame, SourceInfo
from edgekit.vision.sources.stamps import stamped


class MemorySource:
    """Gives ``images`` one by one, as footage does."""

    def __init__(
        self, images: Sequence[NDArray[np.uint8]], *, live: bool = False, fps: float = 10.0
    ) -> None:
        self._images = images
        self._number = 0
        self._closed = threading.Event()
        self.problem = ""
        self.info = SourceInfo(
            uri="memory",
            kind="memory",
            live=live,
            fps=fps,
            width_px=images[0].shape[1] if images else 0,
            height_px=images[0].shape[0] if images else 0,
            frame_count=len(images),
        )

    def read(self) -> Frame:
        """The next image. Raises: EndOfSource."""
        if self._closed.is_set() or self._number >= len(self._images):
            raise EndOfSource
        self._number += 1
        return stamped(self._images[self._number - 1], self._number - 1)

    def skip(self, count: int) -> None:
        """Leave out ``count`` images."""
        self._number += count

    def close(self) -> None:
        """End."""
        self._closed.set()
