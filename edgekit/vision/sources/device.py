"""A camera or a network stream, as OpenCV gives it: lost for good when it is lost.

In: a device file, a camera index or a URL.  Out: a Source; ``reconnecting.py`` opens it again.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from edgekit.errors import DeviceError
from edgekit.vision.sources.capture import SharedCapture, VideoCapture
from edgekit.vision.sources.port import Frame, SourceInfo, SourceKind

_GRAB_ATTEMPTS = 3
_OPEN_TIMEOUT_MS = 5000
_READ_TIMEOUT_MS = 5000

OpenCapture = Callable[[], VideoCapture]
"""Opens the device anew. Raises: DeviceError if it cannot be opened."""


class DeviceSource:
    """One opened camera or stream. Frames are stamped when they are taken in, before decoding."""

    def __init__(
        self, open_capture: OpenCapture, *, uri: str, kind: SourceKind, live: bool, fps: float = 0.0
    ) -> None:
        self._capture = SharedCapture(open_capture())
        self._uri = uri
        self._number = 0
        self._info = SourceInfo(
            uri=uri,
            kind=kind,
            live=live,
            fps=fps or self._capture.get(cv2.CAP_PROP_FPS),
            width_px=int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            height_px=int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )

    @property
    def info(self) -> SourceInfo:
        """What the driver says."""
        return self._info

    @property
    def problem(self) -> str:
        """Always empty: a device that is lost raises."""
        return ""

    def read(self) -> Frame:
        """The next frame. Raises: DeviceError if none comes in three attempts; EndOfSource."""
        for _ in range(_GRAB_ATTEMPTS):
            grabbed = self._capture.grab()
            captured_ns, captured_unix_s = time.perf_counter_ns(), time.time()
            image = self._capture.retrieve() if grabbed else None
            if image is not None:
                self._number += 1
                return Frame(
                    image=image,
                    number=self._number - 1,
                    captured_ns=captured_ns,
                    captured_unix_s=captured_unix_s,
                )
        raise DeviceError(
            f"{self._uri} gives no more frames",
            hint="check its cable, its power and, for a network camera, the network",
        )

    def close(self) -> None:
        """Free the device."""
        self._capture.close()


def camera_opener(
    target: str, *, size_px: tuple[int, int] | None, fps: float | None
) -> OpenCapture:
    """Opens camera ``target``: "0" or "/dev/video0"."""

    def open_camera() -> VideoCapture:
        if sys.platform == "linux":
            path = f"/dev/video{target}" if target.isdigit() else target
            _check_camera(path)
            capture = cv2.VideoCapture(path, cv2.CAP_V4L2)
        else:
            capture = cv2.VideoCapture(int(target) if target.isdigit() else target)
        if not capture.isOpened():
            capture.release()
            raise DeviceError(
                f"camera {target} exists but gives no video",
                hint=f"close other programs that use it, or {_found_cameras()}",
            )
        if size_px is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, size_px[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size_px[1])
        if fps is not None:
            capture.set(cv2.CAP_PROP_FPS, fps)
        return capture

    return open_camera


def stream_opener(url: str, *, shown: str) -> OpenCapture:
    """Opens the stream at ``url``; ``shown`` is the URL without its password."""

    def open_stream() -> VideoCapture:
        backends = cv2.videoio_registry.getStreamBackends()
        if cv2.CAP_FFMPEG in backends:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS]
            limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_TIMEOUT_MS]
            capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits)
        else:
            capture = cv2.VideoCapture(url)
        if not capture.isOpened():
            capture.release()
            raise DeviceError(
                f"the stream {shown} cannot be opened",
                hint="check the address, user and password, and the network between",
            )
        return capture

    return open_stream


def _check_camera(path: str) -> None:
    """Raise DeviceError if the device file is missing or may not be used."""
    if not Path(path).exists():
        raise DeviceError(f"there is no camera {path}", hint=_found_cameras())
    if not os.access(path, os.R_OK | os.W_OK):
        raise DeviceError(
            f"this user may not use the camera {path}",
            hint="add the user to the group video (sudo usermod -aG video USER) and log in again",
        )


def _found_cameras() -> str:
    found = sorted(str(path) for path in Path("/dev").glob("video*"))
    return f"use one of {', '.join(found)}" if found else "plug one in; there is no /dev/video*"
