"""The first stage of a pipeline: the device that owns the camera and keeps the accounts.

::

    source -> capture -> preprocess -> shard 0 -> outbox -> hop ... hop -> answer -> ledger, emit

Where frames are forwarded, preprocessing and the first shard are on the next device. Where they are
shared, this device has the whole model as well: it answers a frame itself when that is sooner or
the others have no room, and all of them while the hop is down.
In: frames of a Capture.  Out: one Answered per answered frame; the ledger knows the rest.
A frame enters only while fewer than ``max_in_flight`` are under way, so that queues further down
stay empty and what is answered is fresh. When the hop is lost, a live source drops what was under
way ("hop_lost"); an every-frame source keeps those activations and sends them again.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgekit.agent.capture import Capture
from edgekit.agent.ledger import Ledger
from edgekit.agent.outbox import CANNOT_ENCODE, Outbox
from edgekit.agent.picture_runner import Runner
from edgekit.agent.shard import StageMeter
from edgekit.agent.sharing import Turns
from edgekit.errors import EdgeKitError
from edgekit.spec.card import ModelCard
from edgekit.spec.messages import Detection, HopTime, StageTime
from edgekit.spec.plan import FRAME
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.port import Activation, Answer, HopLink, Trip, hop_time
from edgekit.vision.answers import detections_of
from edgekit.vision.sources import Frame

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 10
"""A frame that went down with the hop this often is dropped: it may be what kills the peer."""
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answered frame, as it leaves the pipeline."""

    frame: Frame
    detections: tuple[Detection, ...]
    age_s: float
    stages: tuple[StageTime, ...]
    hops: tuple[HopTime, ...]


@dataclass(slots=True)
class _Underway:
    """A frame between capture and answer."""

    frame: Frame
    activation: Activation | None = None
    is_on_wire: bool = False
    attempts: int = 0


class SourceStage:
    """The camera, and the first shard if it is here. Without a link it is the whole pipeline."""

    def __init__(
        self,
        *,
        device: str,
        run: str,
        stream: str,
        capture: Capture,
        ledger: Ledger,
        runner: Runner,
        card: ModelCard,
        model_input: TensorSpec,
        stage_count: int,
        next_device: str = "",
        own: Runner | None = None,
    ) -> None:
        """``own``: answers frames with the whole model here; ``runner`` then sends the others."""
        self._device, self._run, self._stream = device, run, stream
        self._capture, self._ledger, self._runner = capture, ledger, runner
        capture.why_waiting = self._why_waiting
        self._card, self._model_input = card, model_input
        self._next_device = next_device
        self._max_in_flight = 2 * stage_count - 1 if capture.is_live else 2 * stage_count + 2
        self._link: HopLink | None = None
        self._outbox: Outbox | None = None
        self._emit: Callable[[Answered], None] = lambda answered: None
        self._changed, self._finishing = threading.Condition(), threading.Lock()
        self._underway: dict[int, _Underway] = {}
        self._resend: list[int] = []
        self._stopping = False
        self._own, self._turns, self._is_busy = own, Turns(), False
        self._own_thread = threading.Thread(target=self._answer_all, name="own", daemon=True)
        self.meter = StageMeter()
        self._thread = threading.Thread(target=self._infer_all, name="inference", daemon=True)

    def start(self, emit: Callable[[Answered], None], link: HopLink | None) -> None:
        """Begin to work. ``emit`` is called once per answered frame, in order of the answers."""
        self._emit = emit
        if link is not None:
            self._link = link
            self._outbox = Outbox(
                link,
                size=self._max_in_flight,
                claim=self._claim,
                on_failure=self._send_failed,
                on_refusal=self._send_refused,
            )
        self._thread.start()
        if self._own is not None:
            self._own_thread.start()

    def stop(self) -> None:
        """Stop; frames still under way are dropped with the reason "stopped"."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._capture.stop()
        self._thread.join(timeout=5.0)
        if self._own is not None:
            self._own_thread.join(timeout=5.0)
        with self._changed:
            self._underway.clear()  # what waits in the outbox need not be sent any more
        if self._outbox is not None:
            self._outbox.close()
        self._ledger.drop_all("stopped")

    @property
    def sent_bytes(self) -> int:
        """Bytes that went to the next device so far."""
        return self._outbox.sent_bytes if self._outbox is not None else 0

    def hop_changed(self, connected: bool) -> None:
        """The link came or went (called on its thread)."""
        with self._changed:
            if not connected:
                for number, item in list(self._underway.items()):
                    if item.is_on_wire or (self._capture.is_live and item.activation is not None):
                        self._lost(number)
            self._changed.notify_all()

    def answer(self, answer: Answer, trip: Trip) -> None:
        """An answer came back over the link (called on its thread)."""
        if answer.run != self._run or answer.stream != self._stream:
            return
        with self._changed:
            item = self._underway.get(answer.frame)
            if item is None or item.activation is None:
                return
            if answer.dropped == "hop_lost" and item.is_on_wire:
                self._lost(answer.frame)
                return
            del self._underway[answer.frame]
            self._turns.returned(
                answer.frame, now_s=time.perf_counter(), is_answer=not answer.dropped
            )
            self._changed.notify_all()
        if answer.dropped:
            self._ledger.drop(answer.frame, answer.dropped)
            return
        hop = hop_time(answer, trip, source=self._device, target=self._next_device)
        self._finish(item.frame, answer.detections, answer.stages, (hop, *answer.hops))

    def _lost(self, number: int) -> None:
        """The hop broke under this frame. Caller holds the lock."""
        item = self._underway[number]
        self._turns.returned(number, now_s=time.perf_counter(), is_answer=False)
        item.is_on_wire = False
        item.attempts += 1
        if self._capture.is_live or item.attempts >= _MAX_ATTEMPTS:
            del self._underway[number]
            self._ledger.drop(number, "hop_lost")
        else:
            self._resend.append(number)
        self._changed.notify_all()

    def _claim(self, activation: Activation) -> bool:
        """The outbox is about to send: is this frame still under way?"""
        with self._changed:
            item = self._underway.get(activation.frame)
            if item is None or item.activation is not activation:  # it is answered here by now
                return False
            item.is_on_wire = True
            return True

    def _send_failed(self, activation: Activation, reason: str) -> None:
        logger.warning("frame %d could not be sent: %s", activation.frame, reason)
        with self._changed:
            item = self._underway.get(activation.frame)
            if item is not None and item.is_on_wire:
                self._lost(activation.frame)

    def _send_refused(self, activation: Activation, reason: str) -> None:
        """This activation can never be sent: it costs its frame, and nothing else."""
        logger.error("frame %d cannot be sent: %s", activation.frame, reason)
        self._drop(activation.frame, CANNOT_ENCODE)

    def _may_work(self) -> bool:
        """Whether a frame may enter now: the hop is up and the pipeline has room; where frames are
        shared, also that it is answered sooner there."""
        if not self._has_room():
            return False
        return self._own is None or self._is_busy or self._turns.prefers_here is not True

    def _has_room(self) -> bool:
        up = self._link is None or self._link.is_connected
        # One frame under way may be answered here.
        count = len(self._underway) - self._is_busy
        return up and (bool(self._resend) or count < self._max_in_flight)

    def _why_waiting(self) -> str:
        """Why the newest frame found another one still waiting: the reason of that drop."""
        if self._own is None and self._link is not None and not self._link.is_connected:
            return "hop_down"
        return "superseded"

    def _infer_all(self) -> None:
        if self._link is not None and self._own is None:  # film only once somebody can answer
            while not self._stopping and not self._link.is_connected:
                with self._changed:
                    self._changed.wait(_POLL_S)
        if not self._stopping:
            self._capture.start()
        while not self._stopping:
            with self._changed:
                if not self._may_work():
                    self._changed.wait(_POLL_S)
                    continue
                again = self._resend.pop(0) if self._resend else None
                item = self._underway.get(again) if again is not None else None
            if item is not None and item.activation is not None and self._outbox is not None:
                self._turns.sent(item.frame.number, now_s=time.perf_counter())
                self._outbox.put(item.activation)
            elif frame := self._capture.take(_POLL_S):
                self._infer(frame)

    def _infer(self, frame: Frame) -> None:
        started_s = time.perf_counter()
        with self._changed:
            self._underway[frame.number] = item = _Underway(frame)
        try:
            tensors = self._runner.run({FRAME: frame.image})
            detections = () if self._outbox else self._decode(tensors, frame)
        except EdgeKitError as error:
            logger.error("frame %d: %s", frame.number, error)
            self._drop(frame.number, "inference_failed")
            return
        duration_s = time.perf_counter() - started_s
        if self._own is None:
            self.meter.add(duration_s)
        stages = self._time(duration_s)
        if self._outbox is None:
            with self._changed:
                self._underway.pop(frame.number, None)
            self._finish(frame, detections, stages, ())
            return
        activation = Activation(
            stream=self._stream,
            run=self._run,
            frame=frame.number,
            capture_ns=frame.captured_ns,
            source_height_px=frame.image.shape[0],
            source_width_px=frame.image.shape[1],
            tensors=tensors,
            stages=stages,
        )
        with self._changed:
            item.activation = activation
        self._turns.sent(frame.number, now_s=time.perf_counter())
        self._outbox.put(activation)

    def _time(self, duration_s: float) -> tuple[StageTime, ...]:
        return (StageTime(device=self._device, shard=0, ms=round(1e3 * duration_s, 3)),)

    # ---- frames that are answered here, where they are shared -------------------------------

    def _answer_all(self) -> None:
        """On a thread of its own, so that frames go out meanwhile."""
        while not self._stopping and self._own is not None:
            with self._changed:
                if self._has_room() and self._turns.prefers_here is False:
                    self._changed.wait(_POLL_S)
                    continue
                frame = self._stranded()
            if frame := frame or self._capture.take(_POLL_S):
                self._answer_here(frame, self._own)

    def _stranded(self) -> Frame | None:
        """A frame that is to be sent again while nobody takes it. Caller holds the lock."""
        while self._resend and self._link is not None and not self._link.is_connected:
            item = self._underway.get(self._resend.pop(0))
            if item is not None:
                return item.frame
        return None

    def _answer_here(self, frame: Frame, own: Runner) -> None:
        started_s = time.perf_counter()
        with self._changed:
            self._underway[frame.number] = _Underway(frame)
            self._is_busy = True
            self._changed.notify_all()  # the way out is the only one for the next frame
        try:
            detections = self._decode(own.run({FRAME: frame.image}), frame)
        except EdgeKitError as error:
            logger.error("frame %d: %s", frame.number, error)
            self._drop(frame.number, "inference_failed")
            return
        finally:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
        duration_s = time.perf_counter() - started_s
        self.meter.add(duration_s)
        self._turns.answered_here(duration_s)
        with self._changed:
            self._underway.pop(frame.number, None)
            self._changed.notify_all()
        self._finish(frame, detections, self._time(duration_s), ())

    def _decode(self, tensors: dict[str, Array], frame: Frame) -> tuple[Detection, ...]:
        return detections_of(
            tensors,
            self._card,
            model_input=self._model_input,
            source_height_px=frame.image.shape[0],
            source_width_px=frame.image.shape[1],
        )

    def _drop(self, number: int, reason: str) -> None:
        with self._changed:
            self._underway.pop(number, None)
            self._turns.returned(number, now_s=time.perf_counter(), is_answer=False)
            self._changed.notify_all()
        self._ledger.drop(number, reason)

    def _finish(
        self,
        frame: Frame,
        detections: tuple[Detection, ...],
        stages: tuple[StageTime, ...],
        hops: tuple[HopTime, ...],
    ) -> None:
        now_ns = time.perf_counter_ns()
        age_s = (now_ns - frame.captured_ns) / 1e9
        answered = Answered(
            frame=frame, detections=detections, age_s=age_s, stages=stages, hops=hops
        )
        with self._finishing:  # two threads may finish frames; what the ledger closed is emitted
            if self._ledger.answer(frame.number, now_s=now_ns / 1e9, latency_s=age_s):
                self._emit(answered)
