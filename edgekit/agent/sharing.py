"""Here or there: which of two ways answers a frame sooner, on a device that shares its frames.

In:  when frames went out and were answered, and what answering one here took.  Out: a preference.
Thread-safe; touches no clock of its own. A frame that goes out finds ``n`` others under way; what
it takes until its answer, over ``n + 1``, is what the way out costs per frame under way.
"""

import threading

_WEIGHT = 0.2
"""Of the newest figure in a running mean."""


class Turns:
    """Running means of both ways."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: dict[int, tuple[float, int]] = {}
        self._here_s = 0.0
        self._there_s = 0.0

    def sent(self, frame: int, *, now_s: float) -> None:
        """A frame went out."""
        with self._lock:
            self._sent[frame] = now_s, len(self._sent) + 1

    def returned(self, frame: int, *, now_s: float, is_answer: bool = True) -> None:
        """It came back, with an answer or without."""
        with self._lock:
            sent_s, place = self._sent.pop(frame, (now_s, 0))
            if is_answer and place:
                self._there_s = _mean(self._there_s, (now_s - sent_s) / place)

    def answered_here(self, seconds: float) -> None:
        """A frame was answered by this device."""
        with self._lock:
            self._here_s = _mean(self._here_s, seconds)

    @property
    def prefers_here(self) -> bool | None:
        """Whether one more frame is answered sooner here; None while one way is not known."""
        with self._lock:
            if not self._here_s or not self._there_s:
                return None
            return self._here_s <= self._there_s * (len(self._sent) + 1)


def _mean(known_s: float, fresh_s: float) -> float:
    return fresh_s if not known_s else known_s + _WEIGHT * (fresh_s - known_s)
