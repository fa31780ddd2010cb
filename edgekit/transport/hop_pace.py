"""How many bytes a frame may have, so that it crosses its hop before its deadline.

In: how long earlier frames took, and how long the oldest one under way has been.  Out: bytes.
Pure: no clock or socket. One per link; the caller keeps threads apart.

Goodput is bytes over transfer time, so a fixed share of every transfer (the round trip of an empty
frame, the wait behind other frames) lowers it, and the budget settles where frames of that size
take just under the deadline. The median of three ignores one stall; two in a row count. A frame
that is overdue counts before it arrives: after a link broke down no answer tells so for a while.
"""

from collections import deque
from statistics import median

_SAMPLE_COUNT = 3
_MARGIN = 0.8
"""Share of the deadline to aim for: half of all transfers take longer than the median."""
_TRANSFER_MIN_S = 1e-5


class Pace:
    """What one hop carried lately."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._goodputs: deque[float] = deque(maxlen=_SAMPLE_COUNT)
        self._residence_s = 0.0

    def add(self, nbytes: int, *, round_trip_s: float, residence_s: float) -> None:
        """A frame of ``nbytes`` was answered."""
        transfer_s = max(round_trip_s - residence_s, _TRANSFER_MIN_S)
        self._goodputs.append(nbytes / transfer_s)
        self._residence_s = residence_s

    def forget(self) -> None:
        """The way has changed: what was measured says nothing of it."""
        self._goodputs.clear()

    def budget_bytes(self, oldest_bytes: int = 0, oldest_waited_s: float = 0.0) -> int | None:
        """Bytes for the next frame; None while nothing is known.

        ``oldest_bytes`` were sent ``oldest_waited_s`` ago and are not answered yet.
        """
        known = [median(self._goodputs)] if self._goodputs else []
        overdue_s = oldest_waited_s - self._residence_s
        if oldest_bytes and overdue_s > self._deadline_s:
            known.append(oldest_bytes / overdue_s)
        return int(_MARGIN * self._deadline_s * min(known)) if known else None
