"""The probe port without a network: a link whose properties a test sets.

In: bandwidth, round trip and loss of a link that is imagined.  Out: samples; a log of what each
look would have cost.
"""

import threading

from edgekit.errors import LinkError
from edgekit.transport.probe_port import LinkSample

_ECHO_COUNT = 5
_ECHO_BYTES = 92


class MemoryLinkProbe:
    """The LinkProbe of an imagined link from "here" to "there"."""

    def __init__(self, *, bandwidth_bytes_per_s: float, rtt_s: float = 0.001) -> None:
        self.bandwidth_bytes_per_s, self.rtt_s = bandwidth_bytes_per_s, rtt_s
        self.lost_count = 0
        """Echoes lost in every look."""
        self.is_up = True
        self.looks: list[int] = []
        """``train_bytes`` of every look so far."""
        self.looked = threading.Event()

    @property
    def ends(self) -> tuple[str, str]:
        """Names of this end and the other."""
        return "here", "there"

    def look(self, *, train_bytes: int) -> LinkSample:
        """What the link would show. Raises: LinkError while it is down."""
        self.looks.append(train_bytes)
        self.looked.set()
        if not self.is_up:
            raise LinkError("cannot reach there: no reply", hint="plug the cable in")
        return LinkSample(
            round_trips_s=(self.rtt_s,) * (_ECHO_COUNT - self.lost_count),
            echo_count=_ECHO_COUNT,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s if train_bytes else 0.0,
            sent_bytes=train_bytes + _ECHO_COUNT * _ECHO_BYTES,
        )
