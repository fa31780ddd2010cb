"""A thread that runs calls in order: the receive thread of the in-memory fakes.

In: callables.  Out: their effects, one after the other, on one named daemon thread.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Mailbox:
    """Calls posted from any thread run here in order; one that fails is logged, the next runs."""

    def __init__(self, name: str) -> None:
        self._changed = threading.Condition()
        self._calls: deque[Callable[[], None]] = deque()
        self._is_busy = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def post(self, call: Callable[[], None]) -> None:
        """Run ``call`` after those posted before. After ``close`` it is ignored."""
        with self._changed:
            if not self._is_closed:
                self._calls.append(call)
                self._changed.notify_all()

    def settle(self, timeout_s: float) -> bool:
        """True once nothing is waiting or running, False if that took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._calls and not self._is_busy, timeout_s)

    @property
    def is_current(self) -> bool:
        """Whether the caller runs inside a posted call."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Run nothing more; the thread ends."""
        with self._changed:
            self._is_closed = True
            self._calls.clear()
            self._changed.notify_all()
        if not self.is_current:
            self._thread.join(1.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._calls or self._is_closed)
                if self._is_closed:
                    return
                call = self._calls.popleft()
                self._is_busy = True
            try:
                call()
            except Exception:  # noqa: BLE001 - the caller's code; it must not end the thread
                _log.exception("a call failed on %s", self._thread.name)
