"""Publish answers: at once while they come slowly, several in one message while they come fast.

In: one AnswerReport per answered frame.  Out: messages of one or more lines of JSON.
A message costs the board its round trip through the client library and the broker, whatever it
holds: more than the answer itself. So at most 40 leave per second, and none waits more than 25 ms.
"""

import logging
import threading
from collections.abc import Callable

from edgekit.errors import LinkError
from edgekit.spec.base import to_json
from edgekit.spec.messages import AnswerReport

logger = logging.getLogger(__name__)

_PERIOD_S = 0.025


class AnswerPublisher:
    """Calls ``publish`` with the payloads of one stream, on a thread of its own."""

    def __init__(self, publish: Callable[[bytes], None], *, period_s: float = _PERIOD_S) -> None:
        self._publish, self._period_s = publish, period_s
        self._changed = threading.Condition()
        self._waiting: list[AnswerReport] = []
        self._closing = threading.Event()
        self.unpublished_count = 0
        """Answers that found no broker, because it was away for longer than its queue is long."""
        self._thread = threading.Thread(target=self._publish_all, name="answers", daemon=True)
        self._thread.start()

    def offer(self, report: AnswerReport) -> None:
        """Publish this answer within ``period_s``. Never blocks."""
        with self._changed:
            self._waiting.append(report)
            if len(self._waiting) == 1:
                self._changed.notify()

    def close(self) -> None:
        """Publish what waits, then stop. Calling it again does nothing."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join(timeout=2.0)

    def _publish_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
                reports, self._waiting = self._waiting, []
            if not reports:
                return
            try:
                self._publish(b"\n".join(to_json(report, indent=0) for report in reports))
            except LinkError as error:
                self.unpublished_count += len(reports)
                logger.debug("%d answers are not published: %s", len(reports), error)
            self._closing.wait(self._period_s)
