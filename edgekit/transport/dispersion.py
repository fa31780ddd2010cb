"""How fast a link moves what was sent as fast as possible: from the spacing of arrivals.

In: when each piece of a packet train or of a stream arrived, by one clock.  Out: the steady rate.
Pure: no socket, no clock.  Called wherever something arrives: at either end of a probe.
Source: Dovrolis, Ramanathan, Moore, "Packet-Dispersion Techniques and a Capacity-Estimation
Methodology", IEEE/ACM Transactions on Networking 12(6), 2004; the robust slope is ours.
"""

import numpy as np
import numpy.typing as npt

_TAIL_MIN_COUNT = 4
_LAG_SHARE = 4
_CLUMP_SHARE = 1 / 8

Floats = npt.NDArray[np.float64]


def steady_rate(times_s: Floats, positions: Floats, *, head: float = 0.5) -> float:
    """Pieces per second once a link has found its pace.

    A token bucket lets the head of a train through at the speed of the wire: those packets arrive
    in almost no time. So what counts is the part after ``head`` of the *time*, not of the packets;
    a train is long enough if it is a few times longer than the bucket. Of that part only the last
    arrival of each clump counts (senders, shapers and receivers handle several at once), and the
    rate is the median over many overlapping stretches: one stall of a computer does not move it.

    times_s: shape (n,) [s], in order of arrival. positions: shape (n,), how many pieces (packets,
    bytes) the link had carried up to each arrival, counting those that were dropped after it.
    Returns: pieces per second; 0.0 where it cannot be told: fewer than 4 clumps in the part that
    counts, or a clock that was set back meanwhile.
    """
    if len(times_s) < _TAIL_MIN_COUNT or np.any(np.diff(times_s) < 0):
        return 0.0
    counts = times_s >= times_s[0] + head * (times_s[-1] - times_s[0])
    times_s, positions = _clump_ends(times_s[counts], positions[counts])
    if len(times_s) < _TAIL_MIN_COUNT:
        return 0.0
    lag = max(1, len(times_s) // _LAG_SHARE)
    durations_s = times_s[lag:] - times_s[:-lag]
    return _finite(np.median((positions[lag:] - positions[:-lag]) / durations_s))


def mean_rate(times_s: Floats, positions: Floats, *, head: float) -> float:
    """Pieces per second after ``head`` of the time, stalls included: a least-squares slope.

    Unlike (last - first) / time it does not hang on when the two outermost arrivals were noticed.
    Arguments and result as ``steady_rate``.
    """
    if len(times_s) < _TAIL_MIN_COUNT or np.any(np.diff(times_s) < 0):
        return 0.0
    counts = times_s >= times_s[0] + head * (times_s[-1] - times_s[0])
    times_s, positions = times_s[counts], positions[counts]
    centred_s = times_s - times_s.mean()
    square = float(centred_s @ centred_s)
    if len(times_s) < _TAIL_MIN_COUNT or not square > 0:
        return 0.0
    return _finite(centred_s @ (positions - positions.mean()) / square)


def _finite(rate: np.float64) -> float:
    return max(0.0, float(rate)) if np.isfinite(rate) else 0.0


def _clump_ends(times_s: Floats, positions: Floats) -> tuple[Floats, Floats]:
    """The last arrival of each clump: what comes before a gap of at least 1/8 of the mean gap."""
    gaps_s = np.diff(times_s)
    if not gaps_s.size or not gaps_s.sum() > 0:
        return times_s[-1:], positions[-1:]
    is_end = np.append(gaps_s >= _CLUMP_SHARE * gaps_s.mean(), True)
    return times_s[is_end], positions[is_end]
