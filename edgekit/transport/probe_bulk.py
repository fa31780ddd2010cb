"""A short bulk transfer over a connection: what a hop would get, once TCP has found its pace.

In: a wire, at either end.  Out: blocks for a given time; or a BulkReport by the receiver's clock.
A block is 16 KiB: one byte that says whether another follows, then filling.
"""

import os
import time
from array import array
from pathlib import Path

import numpy as np

from edgekit.errors import LinkError
from edgekit.transport.dispersion import Floats, mean_rate, steady_rate
from edgekit.transport.probe_messages import BULK_CAP_S, BulkReport, BulkSent
from edgekit.transport.wire import Wire

BLOCK_BYTES = 16 * 1024
SLOW_START_SHARE = 1 / 3
"""Of the transfer's time: not counted, so that neither slow start nor a token bucket shows."""
_MORE, _LAST = b"\x01", b"\x00"
_RECEIVING_CAP_S = BULK_CAP_S + 20.0
_SAMPLE_S = 0.001
_SCHEDSTAT = Path("/proc/thread-self/schedstat")


def send_bulk(wire: Wire, duration_s: float) -> BulkSent:
    """Send blocks for ``duration_s``, at least two. Raises: LinkError if the connection breaks."""
    filling = os.urandom(BLOCK_BYTES - 1)
    waited_before_s = _waited_s()
    ends_s = time.monotonic() + duration_s
    wire.write([_MORE, filling])
    while time.monotonic() < ends_s:
        wire.write([_MORE, filling])
    wire.write([_LAST, filling])
    return BulkSent(waited_s=_waited_s() - waited_before_s)


def _waited_s() -> float:
    """How long this thread ever was ready to run and got no core; 0 where Linux does not tell."""
    try:
        return int(_SCHEDSTAT.read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def receive_bulk(wire: Wire) -> BulkReport:
    """Take blocks in until the last one. Keeps none of them: memory is one block.

    Raises: LinkError if the connection breaks, or the blocks never end.
    """
    block = memoryview(bytearray(BLOCK_BYTES))
    waited_before_s = _waited_s()
    times_s, totals = array("d"), array("q")
    filled = total = 0
    while True:
        count = wire.read_some_into(block[filled:])
        now_s = time.monotonic()
        filled += count
        total += count
        if not times_s or now_s - times_s[-1] >= _SAMPLE_S:
            times_s.append(now_s)
            totals.append(total)
        if now_s - times_s[0] > _RECEIVING_CAP_S:
            raise LinkError(
                f"a bulk transfer has not ended after {_RECEIVING_CAP_S:g} s",
                hint="run the same edgekit at both ends",
            )
        if filled == BLOCK_BYTES:
            filled = 0
            if block[0] == _LAST[0]:
                break
    times_s.append(now_s)
    totals.append(total)
    waited_s = _waited_s() - waited_before_s
    rate = _rate(np.array(times_s), np.array(totals, dtype=np.float64))
    return BulkReport(
        received_bytes=total, span_s=times_s[-1] - times_s[0], bytes_per_s=rate, waited_s=waited_s
    )


def _rate(times_s: Floats, totals: Floats) -> float:
    """Bytes per second: the middle of three estimates, each of which fails in another way.

    The slope after slow start errs when this thread was kept waiting and then caught up; the median
    of stretches errs when retransmissions make bytes arrive in jumps; the mean of the whole counts
    slow start and a shaper's token bucket in.
    """
    span_s = float(times_s[-1] - times_s[0])
    slope = mean_rate(times_s, totals, head=SLOW_START_SHARE)
    if not (span_s > 0 and slope):
        return 0.0
    stretches = steady_rate(times_s, totals, head=SLOW_START_SHARE)
    return sorted([slope, stretches or slope, float(totals[-1] - totals[0]) / span_s])[1]
