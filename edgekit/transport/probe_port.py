"""The probe port: one cheap look at a link, as the background watch asks for it again and again.

Real: ``RemoteLinkProbe`` in probe.py. Fake: ``MemoryLinkProbe`` in probe_memory.py.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSample:
    """What one look at a link from this end to the other gave."""

    round_trips_s: tuple[float, ...]
    """Of the echoes that came back."""
    echo_count: int
    """Echoes sent."""
    bandwidth_bytes_per_s: float
    """Payload that one TCP connection would carry that way; 0.0 if it could not be told."""
    sent_bytes: int
    """What this look cost the link, in that direction, headers included."""


class LinkProbe(Protocol):
    """Looks at one link, when asked."""

    def look(self, *, train_bytes: int) -> LinkSample:
        """A few echoes and one packet train of about ``train_bytes``; seconds at most.

        With ``train_bytes`` 0 echoes alone, and then the bandwidth is not told.

        Raises: LinkError if the other end cannot be reached or the link broke.
        """

    @property
    def ends(self) -> tuple[str, str]:
        """Names of this end and the other."""
