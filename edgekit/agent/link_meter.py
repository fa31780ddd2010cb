"""The port through which an agent has the link to its next device measured.

Real: ``WatchedLink`` in edgekit/profiler/link_meter.py. Fake: ``NoLinkMeter``, also where the
configuration says ``enabled = false``.
"""

from collections.abc import Callable
from typing import Protocol

from edgekit.spec.messages import LinkTelemetry


class LinkMeter(Protocol):
    """Measures one link in the background, at a cost that the stream does not notice."""

    def watch(self, target: str, host: str, port: int, *, carried_bytes: Callable[[], int]) -> None:
        """Measure the link to the device ``target``, whose responder is at ``host``, from now on.

        ``carried_bytes`` tells what the stream has sent there since the beginning. Called again
        whenever the device has moved. Does not wait.
        """

    def unwatch(self) -> None:
        """Stop, within a second; a measurement under way ends by itself."""

    def latest(self) -> LinkTelemetry | None:
        """What is known now; None while no link is watched."""


class NoLinkMeter:
    """Measures nothing and knows nothing."""

    def watch(self, target: str, host: str, port: int, *, carried_bytes: Callable[[], int]) -> None:
        """Nothing."""

    def unwatch(self) -> None:
        """Nothing."""

    def latest(self) -> LinkTelemetry | None:
        """None."""
        return None
