"""From a source URI to an open source.

In: a URI.  Out: a Source, live or every-frame as asked.  Raises ConfigError (edit the URI or the
file) or DeviceError (look at the camera) before the first frame rather than at it.
"""

from pathlib import Path

from edgekit.errors import ConfigError
from edgekit.vision.sources.arriving import ArrivingSource
from edgekit.vision.sources.device import DeviceSource, camera_opener, stream_opener
from edgekit.vision.sources.images import ImagesSource
from edgekit.vision.sources.limited import LimitedSource
from edgekit.vision.sources.paced import PacedSource
from edgekit.vision.sources.port import Footage, Mode, Source, SourceKind
from edgekit.vision.sources.reconnecting import ReconnectingSource
from edgekit.vision.sources.scene import DEFAULT_FPS, SceneSource, make_scene
from edgekit.vision.sources.uri import (
    CameraOptions,
    SceneOptions,
    SourceUri,
    is_address,
    parse_size_px,
    parse_source_uri,
)
from edgekit.vision.sources.video_file import VideoFileSource, check_video_path

_LIVE_KINDS: frozenset[SourceKind] = frozenset({"camera", "stream", "scene"})


def open_source(uri: str, *, mode: Mode | None = None, start_frame: int = 0) -> Source:
    """Open the source at ``uri``. ``mode`` stands above the URI's own option.

    Cameras, streams and scenes are live by default, files and images every-frame. Live footage and
    ``pace=1`` come at the source's frame rate. ``start_frame`` is the number of the first frame; of
    a file, a folder or a scene the ones before it are left out, and do not count for ``frames=``.
    Raises: ConfigError; DeviceError.
    """
    if start_frame < 0:
        raise ConfigError(f"start_frame must not be negative, got {start_frame}", hint="use 0")
    parsed = parse_source_uri(uri)
    options = parsed.options
    chosen: Mode = mode or options.mode or ("live" if parsed.kind in _LIVE_KINDS else "every")
    live = chosen == "live"
    source: Source
    if parsed.kind in ("camera", "stream"):
        if options.arrivals == "poisson":
            raise ConfigError(
                f"source {parsed.uri} has arrivals of its own", hint="leave out arrivals=poisson"
            )
        source = _device(parsed, live, start_frame)
    else:
        footage = _footage(parsed, live)
        footage.skip(start_frame)
        if options.arrivals == "poisson":
            source = ArrivingSource(footage, fps=_rate(footage))
        elif live or options.pace:
            source = PacedSource(footage, fps=_rate(footage), skip_late=live)
        else:
            source = footage
    if options.frames is None:
        return source
    return LimitedSource(source, frames=options.frames, before=start_frame)


def _rate(footage: Footage) -> float:
    """Frames per second. Raises: ConfigError if the footage does not say; it is closed then."""
    fps = footage.info.fps
    if not 0 < fps <= 1000:
        footage.close()
        raise ConfigError(
            f"source {footage.info.uri} does not say its frame rate", hint="add fps=30 to its URI"
        )
    return fps


def _footage(parsed: SourceUri, live: bool) -> Footage:
    """A file, a folder or a scene."""
    options, fps = parsed.options, parsed.options.fps or 0.0
    if parsed.kind == "images":
        return ImagesSource(
            Path(parsed.target), uri=parsed.uri, live=live, loop=options.loop, fps=fps
        )
    if isinstance(options, SceneOptions):
        width_px, height_px = parse_size_px(options.size)
        fps = fps or DEFAULT_FPS
        scene = make_scene(
            parsed.target, seed=options.seed, width_px=width_px, height_px=height_px, fps=fps
        )
        return SceneSource(
            scene, uri=parsed.uri, live=live, fps=fps, width_px=width_px, height_px=height_px
        )
    if not is_address(parsed.target):
        check_video_path(Path(parsed.target))
    return VideoFileSource(parsed.target, uri=parsed.uri, live=live, loop=options.loop, fps=fps)


def _device(parsed: SourceUri, live: bool, start_frame: int) -> Source:
    """A camera or a network stream, opened again whenever it is lost."""
    options = parsed.options
    if isinstance(options, CameraOptions):
        size_px = parse_size_px(options.size) if options.size else None
        opener = camera_opener(parsed.target, size_px=size_px, fps=options.fps)
    else:
        opener = stream_opener(parsed.target, shown=parsed.uri)

    def connect() -> Source:
        return DeviceSource(
            opener, uri=parsed.uri, kind=parsed.kind, live=live, fps=options.fps or 0.0
        )

    return ReconnectingSource(connect, first_number=start_frame)
