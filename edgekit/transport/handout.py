"""Give one activation to the consumer: it may reply once and release once, and it may fail.

In: a frame as it came, and what reply and release do on this kind of hop.  Out: the consumer's
call, with the tensors decoded; or the answer that they could not be.
Used by the real listener and by its fake, so that both keep the same promises.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from edgekit.errors import EdgeKitError
from edgekit.transport import frames, headers
from edgekit.transport.codecs.port import Buffer, Codec
from edgekit.transport.port import (
    CANNOT_DECODE,
    Activation,
    Answer,
    OnActivation,
    Reply,
    answer_to,
)

_log = logging.getLogger(__name__)


class HandOut:
    """One activation in the hands of the consumer, and what it has done with it so far."""

    def __init__(
        self,
        activation: Activation,
        *,
        reply: Reply,
        release: Callable[[], None],
        decode_s: float = 0.0,
    ) -> None:
        self._activation, self._reply, self._release = activation, reply, release
        self._decode_s = decode_s
        self._undone = {"reply", "release"}
        self._once = threading.Lock()

    def to(self, consumer: OnActivation, *, device: str) -> None:
        """Call the consumer. If it raises, the frame is answered as dropped, and released."""
        try:
            consumer(self._activation, self.reply, self.release)
        except Exception as error:  # noqa: BLE001 - the consumer's code; the hop must outlive it
            _log.exception("on_activation failed for frame %s", self._activation.frame)
            self.give_up(f"{device} failed: {type(error).__name__}: {error}")

    def give_up(self, reason: str) -> None:
        """Answer the frame as dropped, and release it."""
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
            # The consumer counts from when it got the tensors.
            residence_s = answer.residence_s + self._decode_s
            self._reply(replace(answer, residence_s=residence_s, decode_s=self._decode_s))
        return is_first

    def _is_first(self, what: str) -> bool:
        with self._once:
            is_first = what in self._undone
            self._undone.discard(what)
            return is_first


def hand_out(
    header: headers.ActivationHeader,
    buffers: Sequence[Buffer],
    codec: Codec,
    consumer: OnActivation,
    *,
    device: str,
    reply: Reply,
    release: Callable[[], None],
    cap_bytes: int = frames.PAYLOAD_CAP_BYTES,
) -> None:
    """Decode a frame whose header was checked and whose bytes are all here, and hand it out.

    One that cannot be decoded is answered as dropped: the hop is as good as before.
    """
    undecoded = HandOut(frames.activation(header, {}), reply=reply, release=release)
    started_s = time.perf_counter()
    try:
        tensors = codec.decode(header.coded, buffers, cap_bytes=cap_bytes)
    except EdgeKitError as error:
        _log.warning("%s cannot decode frame %s: %s", device, header.frame, error)
        undecoded.give_up(CANNOT_DECODE)
        return
    except Exception:  # noqa: BLE001 - codecs call libraries that raise bare errors
        _log.exception("%s cannot decode frame %s", device, header.frame)
        undecoded.give_up(CANNOT_DECODE)
        return
    HandOut(
        frames.activation(header, tensors),
        reply=reply,
        release=release,
        decode_s=time.perf_counter() - started_s,
    ).to(consumer, device=device)
