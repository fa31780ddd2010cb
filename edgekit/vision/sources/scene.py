"""A generated scene as a camera: any frame by its number, with what is really in it.

In: the name of a scene and its numbers.  Out: Footage whose frames carry ``truth``.
"""

import threading
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ConfigError
from edgekit.spec.messages import Detection
from edgekit.vision.sources.port import EndOfSource, Frame, SourceInfo
from edgekit.vision.sources.stamps import stamped

SCENE_NAMES = ("yard",)
DEFAULT_FPS = 30.0


class Scene(Protocol):
    """Renders any of its frames."""

    def render(self, frame_number: int) -> tuple[NDArray[np.uint8], tuple[Detection, ...]]:
        """Image (H, W, 3) uint8 BGR and the detections a perfect detector would give."""


def make_scene(name: str, *, seed: int, width_px: int, height_px: int, fps: float) -> Scene:
    """The scene called ``name``. Raises: ConfigError listing the scenes there are."""
    if name not in SCENE_NAMES:
        raise ConfigError(
            f"there is no scene {name!r}", hint=f"use one of {', '.join(SCENE_NAMES)}"
        )
    # Here, so that sources without a scene do not load it.
    from edgekit.vision.scene.yard import YardScene

    return YardScene(seed, width_px, height_px, fps)


class SceneSource:
    """A scene, filmed. It has no end."""

    def __init__(
        self, scene: Scene, *, uri: str, live: bool, fps: float, width_px: int, height_px: int
    ) -> None:
        self._scene = scene
        self._number = 0
        self._closed = threading.Event()
        self._info = SourceInfo(
            uri=uri, kind="scene", live=live, fps=fps, width_px=width_px, height_px=height_px
        )

    @property
    def info(self) -> SourceInfo:
        """As asked for."""
        return self._info

    @property
    def problem(self) -> str:
        """Always empty: nothing can be wrong with it."""
        return ""

    def read(self) -> Frame:
        """The next frame, rendered now. Raises: EndOfSource after ``close``."""
        if self._closed.is_set():
            raise EndOfSource
        image, truth = self._scene.render(self._number)
        self._number += 1
        return stamped(image, self._number - 1, truth)

    def skip(self, count: int) -> None:
        """Leave out ``count`` frames."""
        self._number += count

    def close(self) -> None:
        """End."""
        self._closed.set()
