"""The receiving end of a packet train: what arrived, when, and how fast the link was.

In: packets of one train as a socket delivers them.  Out: a TrainReport, by this end's clock alone.
One thread takes packets in, another asks whether the train is over.
"""

import time
from array import array

import numpy as np

from edgekit.transport.dispersion import steady_rate
from edgekit.transport.probe_messages import TrainReport
from edgekit.transport.probe_socket import Datagram

_QUIET_S = 0.1
"""A train is over when it was announced as sent and nothing has come for this long."""
_WAIT_CAP_S = 2.0
_LOOK_S = 0.01


class TrainIntake:
    """Collects one train. Packets that come twice count once."""

    def __init__(self, series: int, packet_count: int) -> None:
        self.series, self.packet_count = series, packet_count
        self._seen = bytearray(packet_count)
        self._times_ns = array("q")
        self._overflows = array("q")
        self._last_s = time.monotonic()

    def take(self, number: int, datagram: Datagram) -> None:
        """One packet of this train."""
        self._last_s = time.monotonic()
        if number < self.packet_count and not self._seen[number]:
            self._seen[number] = 1
            self._overflows.append(datagram.overflow_count)
            self._times_ns.append(datagram.time_ns)  # last: its length is what counts

    @property
    def is_complete(self) -> bool:
        """Whether every packet has come."""
        return len(self._times_ns) == self.packet_count

    def is_quiet(self, since_s: float) -> bool:
        """Whether nothing more is to be expected of a train that was sent at ``since_s``."""
        now_s = time.monotonic()
        waited_s = now_s - max(since_s, self._last_s)
        return self.is_complete or waited_s > _QUIET_S or now_s - since_s > _WAIT_CAP_S

    def wait(self) -> None:
        """Return when a train that has been sent is over."""
        since_s = time.monotonic()
        while not self.is_quiet(since_s):
            time.sleep(_LOOK_S)

    def report(self) -> TrainReport:
        """What arrived."""
        count = len(self._times_ns)
        if not count:
            return TrainReport(received_count=0, overflow_count=0, span_s=0.0, packets_per_s=0.0)
        times_s = (np.array(self._times_ns[:count]) - self._times_ns[0]) / 1e9
        overflows = np.array(self._overflows[:count]) - self._overflows[0]
        overflows = np.maximum(overflows, 0)  # the kernel's count wraps at 32 bits
        # A packet that found the buffer full did use the link.
        rate = steady_rate(times_s, np.arange(count) + overflows.astype(np.float64))
        return TrainReport(
            received_count=count,
            overflow_count=int(overflows[-1]),
            span_s=max(0.0, float(times_s[-1])),
            packets_per_s=min(rate, 1e14),
        )
