"""A later stage of a pipeline: fed by a hop, it runs its shard and passes the frame on.

::

    hop -> queue -> shard k -> outbox -> hop            (a middle stage)
    hop -> queue -> shard n -> decode -> answer back    (the last stage)

In: activations with their reply.  Out: exactly one Answer per activation: the detections, the next
device's answer with this device's times added, or the reason why the frame was dropped.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from edgekit.agent.outbox import CANNOT_ENCODE, Outbox
from edgekit.agent.picture_runner import Runner
from edgekit.agent.shard import StageMeter
from edgekit.errors import EdgeKitError
from edgekit.spec.card import ModelCard
from edgekit.spec.messages import StageTime
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.port import (
    Activation,
    Answer,
    HopLink,
    Reply,
    Trip,
    answer_to,
    hop_time,
)
from edgekit.vision.answers import detections_of

logger = logging.getLogger(__name__)

_Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class _Work:
    activation: Activation
    reply: Reply
    release: Callable[[], None]
    received_s: float


class RelayStage:
    """Shard ``index`` > 0 of a plan."""

    def __init__(
        self,
        *,
        device: str,
        index: int,
        runner: Runner,
        card: ModelCard,
        model_input: TensorSpec,
        next_device: str = "",
    ) -> None:
        self._device, self._index, self._next_device = device, index, next_device
        self._runner, self._card, self._model_input = runner, card, model_input
        # Bounded by the credit that the listener grants; the queue itself need not be.
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._downstream: dict[_Key, _Work] = {}
        self._outbox: Outbox | None = None
        self.meter = StageMeter()
        self._thread = threading.Thread(target=self._work_all, name="inference", daemon=True)

    def start(self, link: HopLink | None) -> None:
        """Begin to work; ``link`` leads to the next device, None on the last stage."""
        if link is not None:
            self._outbox = Outbox(
                link,
                size=2,
                claim=self._is_wanted,
                on_failure=lambda onward, why: self._not_sent(onward, why, "hop_lost"),
                on_refusal=lambda onward, why: self._not_sent(onward, why, CANNOT_ENCODE),
            )
        self._thread.start()

    def stop(self) -> None:
        """Stop; whatever is queued is answered as dropped."""
        self._queue.put(None)
        self._thread.join(timeout=5.0)
        self._drop_downstream("stopped")  # first: what waits in the outbox need not be sent
        if self._outbox is not None:
            self._outbox.close()

    def accept(self, activation: Activation, reply: Reply, release: Callable[[], None]) -> None:
        """An activation arrived (called on the listener's thread)."""
        self._queue.put(_Work(activation, reply, release, time.perf_counter()))

    @property
    def sent_bytes(self) -> int:
        """Bytes that went to the next device so far."""
        return self._outbox.sent_bytes if self._outbox is not None else 0

    def hop_changed(self, connected: bool) -> None:
        """The link to the next device came or went."""
        if not connected:
            self._drop_downstream("hop_lost")

    def answer(self, answer: Answer, trip: Trip) -> None:
        """The next device answered; add this device's part and pass it back."""
        with self._lock:
            work = self._downstream.pop((answer.stream, answer.run, answer.frame), None)
        if work is None:
            return
        hop = hop_time(answer, trip, source=self._device, target=self._next_device)
        residence_s = time.perf_counter() - work.received_s
        work.reply(replace(answer, hops=(hop, *answer.hops), residence_s=residence_s))

    def _work_all(self) -> None:
        while (work := self._queue.get()) is not None:
            work.release()
            try:
                self._work(work)
            except EdgeKitError as error:
                logger.error("frame %d: %s", work.activation.frame, error)
                self._drop(work, "inference_failed")
        while not self._queue.empty():
            if rest := self._queue.get():
                self._drop(rest, "stopped")

    def _work(self, work: _Work) -> None:
        activation, started_s = work.activation, time.perf_counter()
        if problem := self._runner.check(activation.tensors):
            logger.error("frame %d: %s", activation.frame, problem)
            self._drop(work, "wrong_tensors")
            return
        tensors = self._runner.run(activation.tensors)
        if self._outbox is None:
            self._reply(work, tensors, started_s)
            return
        onward = replace(
            activation, tensors=tensors, stages=(*activation.stages, self._time(started_s))
        )
        with self._lock:
            self._downstream[_key(onward)] = replace(work, activation=onward)
        self._outbox.put(onward)

    def _reply(self, work: _Work, tensors: dict[str, Array], started_s: float) -> None:
        activation = work.activation
        detections = detections_of(
            tensors,
            self._card,
            model_input=self._model_input,
            source_height_px=activation.source_height_px,
            source_width_px=activation.source_width_px,
        )
        stages = (*activation.stages, self._time(started_s))
        work.reply(
            answer_to(
                activation,
                detections=detections,
                stages=stages,
                residence_s=time.perf_counter() - work.received_s,
            )
        )

    def _time(self, started_s: float) -> StageTime:
        duration_s = time.perf_counter() - started_s
        self.meter.add(duration_s)
        return StageTime(device=self._device, shard=self._index, ms=round(1e3 * duration_s, 3))

    def _is_wanted(self, activation: Activation) -> bool:
        with self._lock:
            return _key(activation) in self._downstream

    def _not_sent(self, activation: Activation, why: str, reason: str) -> None:
        logger.warning("frame %d could not be passed on: %s", activation.frame, why)
        with self._lock:
            work = self._downstream.pop(_key(activation), None)
        if work is not None:
            self._drop(work, reason)

    def _drop_downstream(self, reason: str) -> None:
        with self._lock:
            lost = list(self._downstream.values())
            self._downstream.clear()
        for work in lost:
            self._drop(work, reason)

    def _drop(self, work: _Work, reason: str) -> None:
        residence_s = time.perf_counter() - work.received_s
        work.reply(answer_to(work.activation, dropped=reason, residence_s=residence_s))


def _key(activation: Activation) -> _Key:
    return activation.stream, activation.run, activation.frame
