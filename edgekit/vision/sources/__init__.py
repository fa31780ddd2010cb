"""Where frames come from: cameras, streams, files, folders, generated scenes. One URI grammar."""

from edgekit.vision.sources.opening import open_source
from edgekit.vision.sources.port import EndOfSource, Footage, Frame, Mode, Source, SourceInfo
from edgekit.vision.sources.uri import parse_source_uri, with_option

__all__ = [
    "EndOfSource",
    "Footage",
    "Frame",
    "Mode",
    "Source",
    "SourceInfo",
    "open_source",
    "parse_source_uri",
    "with_option",
]
