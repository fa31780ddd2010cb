"""The source port: where frames come from.

Real: video_file.py, images.py, device.py (cameras and network streams), scene.py.
Wrappers: paced.py, limited.py, reconnecting.py. Fake: memory.py.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.spec.messages import Detection

SourceKind = Literal["camera", "stream", "file", "images", "scene", "memory"]
Mode = Literal["live", "every"]


class EndOfSource(Exception):  # noqa: N818 - the end is not an error
    """The source has no further frame, or was closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """What is known about a source once it is open."""

    uri: str
    """As it was asked for; a password in it is hidden."""
    kind: SourceKind
    live: bool
    """Frames come by their own clock: the newest one wins. Else every frame counts."""
    fps: float
    """0.0 if the source does not say."""
    width_px: int
    height_px: int
    frame_count: int | None = None
    """Frames in the whole source; None if it is endless or does not say."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One picture. Shape: image (H, W, 3) uint8, BGR."""

    image: NDArray[np.uint8]
    number: int
    """In the source, from 0. A live source that was read too late leaves numbers out."""
    captured_ns: int
    """time.perf_counter_ns() at capture: only differences on this device mean anything."""
    captured_unix_s: float
    truth: tuple[Detection, ...] | None = None
    """What is really in the picture; only a generated scene knows."""


class Source(Protocol):
    """Gives frames to one reading thread; ``close`` may be called from any thread."""

    @property
    def info(self) -> SourceInfo:
        """What is known about it."""

    @property
    def problem(self) -> str:
        """What is wrong at the moment, in one sentence; empty when all is well."""

    def read(self) -> Frame:
        """The next frame; waits for it.

        Raises: EndOfSource at the end and after ``close``; DeviceError if a camera is lost.
        """

    def close(self) -> None:
        """Free the camera or file. A ``read`` under way ends with EndOfSource."""


class Footage(Source, Protocol):
    """A source without a clock of its own: it can be read at any pace, and ahead."""

    def skip(self, count: int) -> None:
        """Leave out up to ``count`` frames; past the end the next ``read`` says so."""
