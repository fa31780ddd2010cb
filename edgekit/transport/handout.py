"""Give one activation to the consumer: it may reply once and release once, and it may fail.

In: an activation, and what reply and release do on this kind of hop.  Out: the consumer's call.
Used by the real listener and by its fake, so that both keep the same promises.
"""

import logging
import threading
from collections.abc import Callable

from edgekit.transport.port import Activation, Answer, OnActivation, Reply, answer_to

_log = logging.getLogger(__name__)


class HandOut:
    """One activation in the hands of the consumer, and what it has done with it so far."""

    def __init__(
        self, activation: Activation, *, reply: Reply, release: Callable[[], None]
    ) -> None:
        self._activation, self._reply, self._release = activation, reply, release
        self._undone = {"reply", "release"}
        self._once = threading.Lock()

    def to(self, consumer: OnActivation, *, device: str) -> None:
        """Call the consumer. If it raises, the frame is answered as dropped, and released."""
        try:
            consumer(self._activation, self.reply, self.release)
        except Exception as error:  # noqa: BLE001 - the consumer's code; the hop must outlive it
            _log.exception("on_activation failed for frame %s", self._activation.frame)
            reason = f"{device} failed: {type(error).__name__}: {error}"
            self._answer_once(answer_to(self._activation, dropped=reason))
            self.release()

    def reply(self, answer: Answer) -> None:
        """See port.Reply."""
        if not self._answer_once(answer):
            _log.warning("frame %s is answered twice; the second answer is dropped", answer.frame)

    def release(self) -> None:
        """See port.OnActivation."""
        if self._is_first("release"):
            self._release()

    def _answer_once(self, answer: Answer) -> bool:
        is_first = self._is_first("reply")
        if is_first:
            self._reply(answer)
        return is_first

    def _is_first(self, what: str) -> bool:
        with self._once:
            is_first = what in self._undone
            self._undone.discard(what)
            return is_first
