"""The grammar of source URIs, once.

::

    0                               camera 0
    v4l2:///dev/video0?size=640x480 a camera by its device file
    file:clip.mp4?mode=live         a video file; the bare path of an existing file will do
    images:DIR                      the jpg and png files of a folder, sorted by name
    rtsp://user:secret@host/path    a network camera; also http:// and https:// (MJPEG)
    https://host/clip.mp4           a video file on a server, by its suffix
    scene:yard?seed=1&size=640x400&fps=30

Options of every source: mode=live|every, pace=1, loop=1, fps=30, frames=100,
arrivals=regular|poisson. They follow ``?``; of an address, whose ``?`` belongs to the server, they
follow ``#``.

In: text.  Out: a SourceUri, or a ConfigError that lists what exists.  Opens nothing.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote

import msgspec

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec
from edgekit.units import parse_shape
from edgekit.vision.sources.port import Mode, SourceKind

_EXAMPLES = (
    "0, v4l2:///dev/video0, file:clip.mp4, images:DIR, rtsp://host/path, http://host/path, "
    "scene:yard?seed=1&size=640x400&fps=30"
)
_KINDS: dict[str, SourceKind] = {
    "v4l2": "camera",
    "file": "file",
    "images": "images",
    "scene": "scene",
}
_MAX_SIDE_PX = 8192
_ADDRESS = re.compile(r"(?i)(rtsps?|https?)://")
_VIDEO_ADDRESS = re.compile(r"(?i)https?://[^?]+\.(mp4|m4v|mov|mkv|avi|webm)(\?|$)")


class Options(Spec, frozen=True, kw_only=True):
    """Options of every source."""

    mode: Mode | None = None
    """Newest frame wins, or every frame counts; None: as fits the kind of source."""
    pace: bool | None = None
    """Give frames at ``fps``; None: exactly when live."""
    loop: bool = False
    """Start again at the end; frame numbers go on."""
    fps: Annotated[float, msgspec.Meta(gt=0, le=1000)] | None = None
    frames: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """End after this many frames."""
    arrivals: Literal["regular", "poisson"] = "regular"
    """poisson: files, pictures and scenes give frames at random, ``fps`` of them a second in the
    mean, whether or not anybody is ready for them."""

    def __post_init__(self) -> None:
        if self.arrivals == "poisson" and self.pace is False:
            raise ConfigError("arrivals=poisson cannot have pace=0", hint="leave out pace")
        if self.mode == "live" and self.pace is False:
            raise ConfigError("mode=live cannot have pace=0", hint="use mode=every")


class CameraOptions(Options, frozen=True, kw_only=True):
    """Also of a camera."""

    size: str = ""
    """Asked of the driver; empty: its default."""


class SceneOptions(Options, frozen=True, kw_only=True):
    """Also of a generated scene."""

    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 1
    size: str = "640x400"


_OPTIONS: dict[SourceKind, type[Options]] = {
    "camera": CameraOptions,
    "stream": Options,
    "file": Options,
    "images": Options,
    "scene": SceneOptions,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceUri:
    """A source URI, taken apart."""

    uri: str
    """For people: a password is hidden."""
    kind: SourceKind
    target: str
    """Device file or index, path, network address or scene name."""
    options: Options


def parse_source_uri(uri: str) -> SourceUri:
    """Take ``uri`` apart. Raises: ConfigError naming the part and listing what exists."""
    shown = _without_password(uri)
    kind: SourceKind
    if is_address(uri):
        target, _, query = uri.partition("#")
        kind = "file" if _VIDEO_ADDRESS.match(target) else "stream"
        if not re.match(r"[^:]+://[^/?]", target):
            raise ConfigError(f"source {shown!r} names no host", hint="write rtsp://host/path")
    else:
        kind, target, query = _local(uri)
    return SourceUri(uri=shown, kind=kind, target=target, options=_options(shown, kind, query))


def with_option(uri: str, name: str, value: str) -> str:
    """``uri`` with one more option, where its kind takes options; an equal name is replaced."""
    mark = "#" if is_address(uri) else "?"
    target, query = _split(uri, mark)
    kept = [part for part in query.split("&") if part and part.partition("=")[0] != name]
    return f"{target}{mark}{'&'.join([*kept, f'{name}={value}'])}"


def is_address(target: str) -> bool:
    """Whether ``target`` is on the network rather than in the file system."""
    return _ADDRESS.match(target) is not None


def parse_size_px(text: str) -> tuple[int, int]:
    """Width and height from "640x400". Raises: ConfigError."""
    shape = parse_shape(text)
    if len(shape) != 2 or max(shape) > _MAX_SIDE_PX or min(shape) < 16:
        raise ConfigError(
            f"size {text!r} is not WIDTHxHEIGHT within 16..{_MAX_SIDE_PX}",
            hint="write it like size=640x400",
        )
    return shape[0], shape[1]


def _split(uri: str, mark: str) -> tuple[str, str]:
    """What comes before the options, and the options. A ``?`` may be part of a file's name."""
    path = uri.partition(":")[2].removeprefix("//")
    if mark not in uri or _exists(uri) or _exists(path):
        return uri, ""
    body, _, query = uri.partition(mark) if mark == "#" else uri.rpartition(mark)
    return body, query


def _local(uri: str) -> tuple[SourceKind, str, str]:
    """Kind, target and query of anything that is not a network address."""
    body, query = _split(uri, "?")
    if body.isascii() and body.isdigit():
        return "camera", body, query
    if _exists(body):
        return _bare(body), body, query
    scheme, colon, rest = body.partition(":")
    kind = _KINDS.get(scheme.lower())
    if not colon:
        raise ConfigError(
            f"source {uri!r} is neither an existing file nor a source URI",
            hint=f"check the path, or use one of: {_EXAMPLES}",
        )
    if kind is None:
        raise ConfigError(
            f"source {uri!r} has the unknown scheme {scheme!r}", hint=f"use one of: {_EXAMPLES}"
        )
    target = rest.removeprefix("//")
    if not target:
        raise ConfigError(
            f"source {uri!r} names nothing after {scheme}:", hint=f"use one of: {_EXAMPLES}"
        )
    return kind, target, query


def _bare(path: str) -> SourceKind:
    return "camera" if path.startswith("/dev/video") else "file"


def _exists(path: str) -> bool:
    """Whether ``path`` is a file or a device; False for text that cannot be a path."""
    try:
        return bool(path) and Path(path).exists() and not Path(path).is_dir()
    except (OSError, ValueError):
        return False


def _options(uri: str, kind: SourceKind, query: str) -> Options:
    kinds = _OPTIONS[kind]
    known = f"the options of this source are {', '.join(kinds.__struct_fields__)}"
    given: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if not equals or name in given:
            raise ConfigError(
                f"source {uri!r}: option {part!r} is "
                + ("given twice" if name in given else "not NAME=VALUE"),
                hint=known,
            )
        given[name] = unquote(value)
    try:
        options = msgspec.convert(given, kinds, strict=False)
        if isinstance(options, CameraOptions | SceneOptions) and options.size:
            parse_size_px(options.size)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        what = cause.what if isinstance(cause, ConfigError) else str(error)
        raise ConfigError(f"source {uri!r}: {what}", hint=known) from None
    except ConfigError as error:
        raise ConfigError(f"source {uri!r}: {error.what}", hint=error.hint) from None
    return options


def _without_password(uri: str) -> str:
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:***@", uri)
