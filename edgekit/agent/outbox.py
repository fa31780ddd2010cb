"""Code and send activations over a hop on a thread of their own: inference never waits for a wire.

In: activations in order.  Out: the same activations on the link, or a call that says why not:
``on_failure`` where the hop failed, ``on_refusal`` where this one can never be sent.
"""

import logging
import queue
import threading
from collections.abc import Callable

from edgekit.errors import EdgeKitError, LinkError
from edgekit.transport.port import Activation, HopLink

logger = logging.getLogger(__name__)

_SEND_TIMEOUT_S = 1.0
CANNOT_ENCODE = "cannot_encode"
"""Reason of the drop of a frame whose tensors its codec cannot write."""


class Outbox:
    """A bounded queue in front of a link. ``claim`` is asked right before each send."""

    def __init__(
        self,
        link: HopLink,
        *,
        size: int,
        claim: Callable[[Activation], bool],
        on_failure: Callable[[Activation, str], None],
        on_refusal: Callable[[Activation, str], None],
    ) -> None:
        self._link = link
        self._claim = claim
        self.sent_bytes = 0
        """On the wire, since the beginning."""
        self._on_failure, self._on_refusal = on_failure, on_refusal
        self._queue: queue.Queue[Activation | None] = queue.Queue(maxsize=size)
        self._thread = threading.Thread(target=self._send_all, name="outbox", daemon=True)
        self._thread.start()

    def put(self, activation: Activation) -> None:
        """Queue one activation; blocks while the queue is full."""
        self._queue.put(activation)

    def close(self) -> None:
        """Send what is queued, then stop."""
        self._queue.put(None)
        self._thread.join(timeout=5.0)

    def _send_all(self) -> None:
        while (activation := self._queue.get()) is not None:
            if not self._claim(activation):  # its frame was given up while it waited here
                continue
            try:
                self.sent_bytes += self._link.send(activation, timeout_s=_SEND_TIMEOUT_S)
            except LinkError as error:
                self._on_failure(activation, error.what)
            except EdgeKitError as error:
                self._on_refusal(activation, error.what)
            except Exception as error:  # codecs call libraries that raise bare errors
                logger.exception("frame %d could not be coded", activation.frame)
                self._on_refusal(activation, f"{type(error).__name__}: {error}")
