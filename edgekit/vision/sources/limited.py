"""The first frames of a source: ``frames=100``."""

from dataclasses import replace

from edgekit.vision.sources.port import EndOfSource, Frame, Source, SourceInfo


class LimitedSource:
    """A source of ``frames`` frames, the first ``before`` of which were left out."""

    def __init__(self, source: Source, *, frames: int, before: int = 0) -> None:
        self._source = source
        self._frames = frames
        self._left_count = max(0, frames - before)

    @property
    def info(self) -> SourceInfo:
        """That of the source, with the smaller count."""
        info = self._source.info
        return replace(info, frame_count=min(self._frames, info.frame_count or self._frames))

    @property
    def problem(self) -> str:
        """That of the source."""
        return self._source.problem

    def read(self) -> Frame:
        """The next frame. Raises: EndOfSource after the last one allowed."""
        if self._left_count <= 0:
            raise EndOfSource
        frame = self._source.read()
        self._left_count -= 1
        return frame

    def close(self) -> None:
        """Close the source."""
        self._source.close()
