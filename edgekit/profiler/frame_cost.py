"""What sending a whole frame costs: bytes and time of its codecs, measured on this machine.

In:  a frame of the camera, or only its size.  Out: FrameCosts, as the planner takes them.
Without a frame the bytes are assumed: those of a random picture with the spectrum of natural ones,
whose amplitude falls with frequency (Field, J. Opt. Soc. Am. A 4(12), 1987). At the exponent used
here its JPEG takes 1.5 bits per pixel at 640x480; frames of four real videos took 0.6 to 2.3.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from edgekit.errors import ConfigError, DeviceError
from edgekit.profiler.probe_session import undisturbed_mean
from edgekit.spec.planning import FrameCost
from edgekit.spec.tensors import Array
from edgekit.vision.sources import EndOfSource, open_source

_CODECS: tuple[tuple[str, str, list[int]], ...] = (
    ("png", ".png", []),
    ("jpeg-90", ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 90]),
    ("webp-80", ".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]),
)
"""Name, suffix and options of what a frame may be sent as."""
LOSSY = ("jpeg-90", "webp-80")
_RUNS = 7
_FRAMES = 5
"""Frames of a video that are tried; their median counts."""
_SPACING = 20
_EXPONENT = 1.6
_MEAN, _DEVIATION, _COLOUR = 115.0, 48.0, 0.12
_MAX_SIDE_PX = 8192
_REINSTALL = "reinstall opencv-python"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameCosts:
    """What a frame costs to send, and where that is known from."""

    costs: tuple[FrameCost, ...]
    note: str


def costs_of_video(uri: str) -> FrameCosts:
    """Costs of some frames of a camera or video, the median of each.

    Raises: ConfigError or DeviceError if the source cannot be read.
    """
    return _costs_of(_frames(uri), uri)


def costs_of_image(path: Path) -> FrameCosts:
    """Costs of one picture. Raises: ConfigError if it cannot be read."""
    frame = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if frame is None:
        raise ConfigError(f"cannot read the image {path}", hint="give a .jpg or .png of the camera")
    return _costs_of([frame], str(path))


def _costs_of(frames: Sequence[Array], origin: str) -> FrameCosts:
    each = [measure_frame(frame) for frame in frames]
    height_px, width_px = frames[0].shape[:2]
    note = (
        f"frames of {width_px}x{height_px} px, as {len(frames)} of {origin} took in bytes, and on "
        "this machine in time"
    )
    return FrameCosts(costs=tuple(_median(same) for same in zip(*each, strict=True)), note=note)


def assumed_costs(width_px: int, height_px: int) -> FrameCosts:
    """Costs of a made-up frame of this size.

    Raises: ConfigError for a size that no camera has.
    """
    if not (16 <= width_px <= _MAX_SIDE_PX and 16 <= height_px <= _MAX_SIDE_PX):
        raise ConfigError(
            f"a frame of {width_px}x{height_px} px", hint=f"give 16x16 to {_MAX_SIDE_PX} px a side"
        )
    note = (
        f"frames of {width_px}x{height_px} px, bytes assumed (a random picture with the spectrum "
        "of natural ones); give --video or --image for yours"
    )
    return FrameCosts(costs=measure_frame(natural_frame(width_px, height_px)), note=note)


def measure_frame(frame: Array) -> tuple[FrameCost, ...]:
    """Bytes and times of raw, PNG, JPEG and WebP.

    Shapes: frame (H, W, 3), uint8, BGR.
    Raises: DeviceError if this OpenCV lacks a codec's encoder.
    """
    raw = FrameCost(codec="raw", nbytes=frame.nbytes)
    return (raw, *(_measured(frame, *codec) for codec in _CODECS))


def recoded(frame: Array, codec: str) -> Array:
    """``frame`` as it arrives when it was sent as ``codec``, one of LOSSY.

    Shapes: (H, W, 3), uint8, BGR, both. Raises: DeviceError if this OpenCV lacks the codec.
    """
    suffix, options = next((one[1], one[2]) for one in _CODECS if one[0] == codec)
    done, data = cv2.imencode(suffix, frame, options)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if done else None
    if picture is None:
        raise DeviceError(f"OpenCV {cv2.__version__} cannot write {codec}", hint=_REINSTALL)
    return np.asarray(picture, np.uint8)


def natural_frame(width_px: int, height_px: int, *, seed: int = 0) -> Array:
    """A random picture with the spectrum of natural ones.

    Returns: (H, W, 3), uint8, BGR, the same for the same seed.
    """
    generator = np.random.default_rng(seed)
    rows = np.fft.fftfreq(height_px)[:, None]
    columns = np.fft.rfftfreq(width_px)[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1.0
    planes = []
    for _ in range(3):
        phase = generator.uniform(0, 2 * np.pi, frequency.shape)
        plane = np.fft.irfft2(np.exp(1j * phase) / frequency**_EXPONENT, s=(height_px, width_px))
        planes.append((plane - plane.mean()) / plane.std())
    light, blue, red = planes
    channels = [light + _COLOUR * blue, light, light + _COLOUR * red]
    picture = np.stack(channels, axis=-1) * _DEVIATION + _MEAN
    return np.clip(picture, 0, 255).astype(np.uint8)


def _measured(frame: Array, codec: str, suffix: str, options: Sequence[int]) -> FrameCost:
    done, data = cv2.imencode(suffix, frame, options)
    if not done:
        raise DeviceError(f"OpenCV {cv2.__version__} cannot write {codec}", hint=_REINSTALL)
    return FrameCost(
        codec=codec,
        nbytes=int(data.size),
        encode_s=_time_s(lambda: cv2.imencode(suffix, frame, options)),
        decode_s=_time_s(lambda: cv2.imdecode(data, cv2.IMREAD_COLOR)),
    )


def _time_s(run: Callable[[], object]) -> float:
    times_s = []
    for _ in range(_RUNS):
        started_s = time.perf_counter()
        run()
        times_s.append(time.perf_counter() - started_s)
    return undisturbed_mean(times_s)


def _frames(uri: str) -> list[Array]:
    """Some frames, spread over the first seconds; all of them if there are few."""
    source = open_source(uri)
    found: list[Array] = []
    try:
        for index in range(_FRAMES * _SPACING):
            frame = source.read()
            if index % _SPACING == 0:
                found.append(frame.image)
    except EndOfSource:
        pass
    finally:
        source.close()
    if not found:
        raise DeviceError(f"{uri} has no frame", hint="check the file, or give another")
    return found


def _median(same: Sequence[FrameCost]) -> FrameCost:
    return FrameCost(
        codec=same[0].codec,
        nbytes=round(median(one.nbytes for one in same)),
        encode_s=median(one.encode_s for one in same),
        decode_s=median(one.decode_s for one in same),
    )
